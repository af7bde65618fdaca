//go:build ignore

/* lost lists the sockets that are connected to an endpoint which their service has lost, of all network namespaces. It looks at those only that have chosen an
 * endpoint: their storage is what it goes through. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "types.h"

#define AF_INET 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

char LICENSE[] SEC("license") = "GPL";

/* What is read of the kernel's own, wherever this one has it. */
#define KERNEL __attribute__((preserve_access_index))

struct ns_common {
	unsigned int inum;
} KERNEL;

struct net {
	struct ns_common ns;
} KERNEL;

typedef struct {
	struct net *net;
} possible_net_t;

struct in6 {
	__be32 word[4];
};

struct sock_common {
	__be32 skc_daddr, skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6 skc_v6_daddr, skc_v6_rcv_saddr;
} KERNEL;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} KERNEL;

struct seq_file;

struct bpf_iter_meta {
	__bpf_md_ptr(struct seq_file *, seq);
} KERNEL;

struct bpf_iter__bpf_sk_storage_map {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct bpf_map *, map);
	__bpf_md_ptr(struct sock *, sk);
	__bpf_md_ptr(void *, value);
} KERNEL;

/* A socket, as the kernel's diagnosis finds it again. */
struct lost {
	__u64 cookie;
	__be32 saddr[4]; /* of IPv4 the first word */
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u32 netns; /* inode number */
	__u32 device; /* it is bound to; 0 none */
	__u16 family;
	__u16 proto;
};

_Static_assert(sizeof(struct lost) == 56, "lost has a hole");

const struct lost *unused_lost __attribute__((unused));

/* is_lost says whether a socket that is connected to peer, and has chosen what is in fl, has chosen peer, and peer is not to be talked to any more. A connection
 * stays with an endpoint that leaves until that is gone; a flow of datagrams would never notice. */
static __always_inline int is_lost(const struct flows *fl, const struct endpoint *peer, __u16 proto)
{
#pragma unroll
	for (int i = 0; i < FLOWS; i++) {
		struct member m = { .service = fl->flow[i].service, .ep = fl->flow[i].backend };
		__u32 state;

		if (!m.service || !same(&m.ep, peer))
			continue;
		state = state_of(&m);
		return state == MEMBER_GONE || (proto == IPPROTO_UDP && !state);
	}
	return 0;
}

SEC("iter/bpf_sk_storage_map") int lost_sockets(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct flows *fl = ctx->value;
	struct endpoint peer = {};
	struct lost out = {};

	if (!sk || !fl)
		return 0;
	out.proto = BPF_CORE_READ(sk, sk_protocol);
	out.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	out.dport = BPF_CORE_READ(sk, __sk_common.skc_dport);
	if (out.family == AF_INET) {
		out.daddr[0] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		out.saddr[0] = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		peer.addr[2] = bpf_htonl(0xffff);
		peer.addr[3] = out.daddr[0];
	} else {
		BPF_CORE_READ_INTO(&out.daddr, sk, __sk_common.skc_v6_daddr);
		BPF_CORE_READ_INTO(&out.saddr, sk, __sk_common.skc_v6_rcv_saddr);
		__builtin_memcpy(peer.addr, out.daddr, sizeof(peer.addr));
	}
	peer.port = out.dport;
	if ((out.proto != IPPROTO_TCP && out.proto != IPPROTO_UDP) || !is_lost(fl, &peer, out.proto))
		return 0;
	out.cookie = bpf_get_socket_cookie(sk);
	out.sport = bpf_htons(BPF_CORE_READ(sk, __sk_common.skc_num));
	out.device = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	out.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}
