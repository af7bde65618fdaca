//go:build ignore

/* socklb answers, when a socket connects or sends: is this a service's address, and which endpoint takes it? Packets carry
 * the endpoint's address from the start; recvmsg and getpeername give the socket back the address it asked for. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

typedef struct bpf_sock_addr asker;
#include "decide.h"

#define ECONNREFUSED 111
#define EADDRINUSE 98

char LICENSE[] SEC("license") = "GPL";

const enum reason *unused_reason __attribute__((unused));
const enum member_state *unused_member_state __attribute__((unused));
const enum kind *unused_kind __attribute__((unused));
const enum backend_flag *unused_backend_flag __attribute__((unused));
const enum frontend_flag *unused_frontend_flag __attribute__((unused));
const enum node_flag *unused_node_flag __attribute__((unused));
const enum apart_which *unused_apart_which __attribute__((unused));
const struct frontend_key *unused_frontend_key __attribute__((unused));
const struct frontend *unused_frontend __attribute__((unused));
const struct slot *unused_slot __attribute__((unused));
const struct block *unused_block __attribute__((unused));
const struct member *unused_member __attribute__((unused));

/* bpf_set_retval came with 5.18; without it a refused socket gets EPERM. */
volatile const __u32 can_refuse = 1;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, int);
	__type(value, struct flows);
} sockets SEC(".maps");

static __always_inline __u64 netns_of(asker *ctx)
{
	return bpf_get_netns_cookie(ctx);
}

static __always_inline struct flows *flows_of(asker *ctx, __u64 flags)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&sockets, sk, 0, flags) : 0;
}

/* verdict is the one way out: it counts why, and says whether the call goes on. */
static __always_inline int verdict(enum reason why)
{
	if (goes_on(why))
		return 1;
	if (can_refuse)
		bpf_set_retval(-ECONNREFUSED);
	return 0;
}

static __always_inline struct endpoint read4(struct bpf_sock_addr *ctx)
{
	struct endpoint e = { .addr = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 }, .port = (__be16)ctx->user_port };

	return e;
}

static __always_inline struct endpoint read6(struct bpf_sock_addr *ctx)
{
	struct endpoint e = {
		.addr = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] },
		.port = (__be16)ctx->user_port,
	};

	return e;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip4 = e->addr[3];
	ctx->user_port = e->port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip6[0] = e->addr[0];
	ctx->user_ip6[1] = e->addr[1];
	ctx->user_ip6[2] = e->addr[2];
	ctx->user_ip6[3] = e->addr[3];
	ctx->user_port = e->port;
}

static __always_inline int forward4(struct bpf_sock_addr *ctx, enum call call)
{
	struct endpoint dst = read4(ctx);
	enum reason why = decide(ctx, &dst, call, bpf_get_prandom_u32(), bpf_ktime_get_ns());

	if (why == REASON_TRANSLATED || why == REASON_STICKY || why == REASON_AFFINITY)
		write4(ctx, &dst);
	return verdict(why);
}

static __always_inline int forward6(struct bpf_sock_addr *ctx, enum call call)
{
	struct endpoint dst = read6(ctx);
	enum reason why = decide(ctx, &dst, call, bpf_get_prandom_u32(), bpf_ktime_get_ns());

	if (why == REASON_TRANSLATED || why == REASON_STICKY || why == REASON_AFFINITY)
		write6(ctx, &dst);
	return verdict(why);
}

static __always_inline int reverse4(struct bpf_sock_addr *ctx)
{
	struct endpoint e = read4(ctx);

	if (reverse(ctx, &e))
		write4(ctx, &e);
	return 1;
}

static __always_inline int reverse6(struct bpf_sock_addr *ctx)
{
	struct endpoint e = read6(ctx);

	if (reverse(ctx, &e))
		write6(ctx, &e);
	return 1;
}

static __always_inline int bound(struct bpf_sock *ctx, const struct endpoint *e)
{
	if ((ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP) || !reserved(bpf_get_netns_cookie(ctx), ctx->protocol, e))
		return 1;
	if (can_refuse)
		bpf_set_retval(-EADDRINUSE);
	return 0;
}

SEC("cgroup/post_bind4") int post_bind4(struct bpf_sock *ctx)
{
	struct endpoint e = { .addr = { 0, 0, bpf_htonl(0xffff), ctx->src_ip4 }, .port = bpf_htons(ctx->src_port) };

	return bound(ctx, &e);
}

SEC("cgroup/post_bind6") int post_bind6(struct bpf_sock *ctx)
{
	struct endpoint e = { .addr = { ctx->src_ip6[0], ctx->src_ip6[1], ctx->src_ip6[2], ctx->src_ip6[3] }, .port = bpf_htons(ctx->src_port) };

	return bound(ctx, &e);
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return forward4(ctx, CALL_CONNECT); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return forward6(ctx, CALL_CONNECT); }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return forward4(ctx, CALL_SEND); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return forward6(ctx, CALL_SEND); }
SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return reverse4(ctx); }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return reverse6(ctx); }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return reverse4(ctx); }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return reverse6(ctx); }
