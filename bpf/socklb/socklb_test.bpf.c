//go:build ignore

/* The decisions, of sockets that the test describes: programs on sockets' addresses cannot be run without a socket. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

typedef struct question {
	__u64 netns;
	__u64 now; /* ns since boot */
	__u32 protocol;
	__u32 call;
	__u32 rnd;
	__u32 stores; /* whether the socket remembers something */
	struct endpoint to; /* what is asked for, and then what the socket gets */
	struct flows flows;
	/* answers */
	__u32 why;
	__u32 goes_on; /* of a bind: whether it is free */
	__u32 found; /* of an answer: whether it is a service's */
} asker;

#include "decide.h"

const enum call *unused_call __attribute__((unused));

/* Bytes of a map are plain memory to programs; a context would not be. */
struct question asked;

static __always_inline __u64 netns_of(asker *sk)
{
	return sk->netns;
}

static __always_inline struct flows *flows_of(asker *sk, __u64 flags)
{
	if (flags & BPF_SK_STORAGE_GET_F_CREATE)
		sk->stores = 1;
	return sk->stores ? &sk->flows : 0;
}

SEC("syscall") int ask(void *ctx)
{
	asked.why = decide(&asked, &asked.to, asked.call, asked.rnd, asked.now);
	asked.goes_on = goes_on(asked.why);
	return 0;
}

SEC("syscall") int answer(void *ctx)
{
	asked.found = reverse(&asked, &asked.to);
	return 0;
}

SEC("syscall") int bind(void *ctx)
{
	asked.goes_on = !reserved(asked.netns, asked.protocol, &asked.to);
	return 0;
}
