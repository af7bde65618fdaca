//go:build ignore

/* socklb answers, when a socket connects or sends: is this a service's address, and which endpoint takes it? Packets carry
 * the endpoint's address from the start; recvmsg and getpeername give the socket back the address it asked for. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

#define ECONNREFUSED 111
#define EADDRINUSE 98
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define SECOND 1000000000ULL

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

/* Cookie of the node's network namespace, where 127.0.0.1 has the node ports. A NULL context would ask for init_net's,
 * which is not the node's where the node is itself in a namespace. */
volatile const __u64 node_netns = 0;
/* bpf_set_retval came with 5.18; without it a refused socket gets EPERM. */
volatile const __u32 can_refuse = 1;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct client);
	__type(value, struct choice);
} choices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, int);
	__type(value, struct flows);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} reasons SEC(".maps");

/* Network namespaces, by cookie, whose sockets are left as they are: their packets are translated instead. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u64);
	__type(value, __u32);
} apart SEC(".maps");

/* Which there are: APART_*. Where there are none, nobody looks for them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} parting SEC(".maps");

static __always_inline int is_apart(struct bpf_sock_addr *ctx)
{
	__u32 zero = 0, *which = bpf_map_lookup_elem(&parting, &zero);
	__u64 netns;

	if (!which || *which == APART_NONE)
		return 0;
	netns = bpf_get_netns_cookie(ctx);
	if (netns == node_netns)
		return 0;
	return *which == APART_PODS || bpf_map_lookup_elem(&apart, &netns);
}

static __always_inline int loopback(const struct endpoint *e)
{
	if (mapped(e))
		return (bpf_ntohl(e->addr[3]) >> 24) == 127;
	return !e->addr[0] && !e->addr[1] && !e->addr[2] && e->addr[3] == bpf_htonl(1);
}

static __always_inline struct frontend *frontend_of(struct bpf_sock_addr *ctx, const struct endpoint *dst)
{
	struct frontend_key key = { .port = dst->port, .proto = ctx->protocol, .kind = KIND_ADDRESS };
	struct endpoint node = {};
	struct frontend *fe;

	__builtin_memcpy(key.addr, dst->addr, sizeof(key.addr));
	fe = find(&frontends, &key);
	if (fe)
		return fe;
	/* One entry a family: an IPv4 client must not meet an IPv6 endpoint. */
	key.addr[2] = mapped(dst) ? bpf_htonl(0xffff) : 0;
	key.addr[0] = key.addr[1] = key.addr[3] = 0;
	key.kind = KIND_NODEPORT;
	fe = find(&frontends, &key);
	if (!fe)
		return 0;
	if (loopback(dst)) /* a pod's 127.0.0.1 is its own */
		return bpf_get_netns_cookie(ctx) == node_netns ? fe : 0;
	__builtin_memcpy(node.addr, dst->addr, sizeof(node.addr));
	return find(&nodes, &node) ? fe : 0;
}

static __always_inline int is_member(__u32 service, const struct endpoint *ep)
{
	struct member m = { .service = service, .ep = *ep };

	return state_of(&m) == MEMBER_CHOSEN;
}

static __always_inline struct endpoint *pick(const struct frontend *fe, __u32 rnd)
{
	struct slot slot = { .generation = fe->generation, .index = rnd % fe->count };
	struct endpoint *ep = find(&backends, &slot);

	if (ep)
		return ep;
	slot.index = 0;
	return find(&backends, &slot);
}

/* choose replaces *dst by an endpoint of its service. Randomness and time are arguments, so that a test can pin them. */
static __always_inline enum reason choose(struct bpf_sock_addr *ctx, const struct frontend *fe, struct flows *fl,
					  struct endpoint *dst, __u32 rnd, __u64 now)
{
	struct client who = { .service = fe->service };
	struct choice *old = 0, new = { .seen = now };
	struct endpoint *ep;

	if (!fe->count)
		return REASON_NO_ENDPOINT;
	if (fl) {
#pragma unroll
		for (int i = 0; i < FLOWS; i++) {
			struct flow *f = &fl->flow[i];

			if (f->service == fe->service && same(&f->vip, dst) && is_member(f->service, &f->backend)) {
				*dst = f->backend;
				return REASON_STICKY;
			}
		}
	}
	if (fe->affinity) {
		who.netns = bpf_get_netns_cookie(ctx);
		old = bpf_map_lookup_elem(&choices, &who);
		if (old && now - old->seen < fe->affinity * SECOND && is_member(fe->service, &old->ep)) {
			old->seen = now;
			*dst = old->ep;
			return REASON_AFFINITY;
		}
	}
	ep = pick(fe, rnd);
	if (!ep)
		return REASON_LOST_SLOT;
	*dst = *ep;
	dst->flags = 0;
	if (fe->affinity) {
		new.ep = *dst;
		bpf_map_update_elem(&choices, &who, &new, BPF_ANY);
	}
	return REASON_TRANSLATED;
}

/* remember keeps what a socket asked for beside what it got. */
static __always_inline void remember(struct flows *fl, const struct endpoint *vip, const struct endpoint *backend, __u32 service)
{
	__u32 at = fl->next % FLOWS;

#pragma unroll
	for (int i = 0; i < FLOWS; i++) {
		if (same(&fl->flow[i].vip, vip) || same(&fl->flow[i].backend, backend))
			at = i;
	}
	at &= FLOWS - 1; /* clang keeps the bound in a register that the verifier does not follow */
	fl->flow[at].vip = *vip;
	fl->flow[at].backend = *backend;
	fl->flow[at].service = service;
	fl->next = at + 1;
}

/* forget drops what a socket remembers of an endpoint that it now addresses itself. */
static __always_inline void forget(struct flows *fl, const struct endpoint *dst)
{
#pragma unroll
	for (int i = 0; i < FLOWS; i++) {
		if (same(&fl->flow[i].backend, dst))
			__builtin_memset(&fl->flow[i], 0, sizeof(fl->flow[i]));
	}
}

static __always_inline struct flows *flows_of(struct bpf_sock_addr *ctx, __u64 flags)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&sockets, sk, 0, flags) : 0;
}

/* count says of the service what became of a client. A datagram of a flow that goes on is no news. */
static __always_inline enum reason count(__u32 service, enum reason why)
{
	struct traffic *t;

	if (why == REASON_STICKY)
		return why;
	t = traffic_of(service);
	if (!t)
		return why;
	if (why == REASON_TRANSLATED || why == REASON_AFFINITY)
		t->connections++;
	else
		t->failures++;
	return why;
}

enum call { CALL_CONNECT, CALL_SEND };

static __always_inline enum reason decide(struct bpf_sock_addr *ctx, struct endpoint *dst, enum call call, __u32 rnd, __u64 now)
{
	struct endpoint vip = *dst;
	struct frontend *found, fe;
	enum reason why;
	struct flows *fl;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return REASON_NOT_SERVICE;
	found = frontend_of(ctx, dst);
	if (!found) {
		if (call == CALL_CONNECT && ctx->protocol == IPPROTO_UDP) {
			fl = flows_of(ctx, 0);
			if (fl)
				forget(fl, dst);
		}
		return REASON_NOT_SERVICE;
	}
	if (is_apart(ctx))
		return REASON_NOT_SERVICE;
	fe = *found;
	fl = call == CALL_SEND ? flows_of(ctx, 0) : 0;
	why = choose(ctx, &fe, fl, dst, rnd, now);
	if (why == REASON_LOST_SLOT) {
		/* The service changed between its frontend and its slot: what it has now is there. */
		found = frontend_of(ctx, &vip);
		if (!found)
			return count(fe.service, REASON_NO_ENDPOINT);
		fe = *found;
		why = choose(ctx, &fe, fl, dst, rnd, now);
	}
	count(fe.service, why);
	if (why != REASON_TRANSLATED && why != REASON_AFFINITY)
		return why;
	fl = flows_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);
	if (fl)
		remember(fl, &vip, dst, fe.service);
	return why;
}

/* verdict is the one way out: it counts why, and says whether the call goes on. */
static __always_inline int verdict(enum reason why)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&reasons, &key);

	if (n)
		(*n)++;
	if (why != REASON_NO_ENDPOINT && why != REASON_LOST_SLOT)
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

/* reverse says whether *e, the peer, is an endpoint that stands for a service here, and which. */
static __always_inline int reverse(struct bpf_sock_addr *ctx, struct endpoint *e)
{
	struct flows *fl = flows_of(ctx, 0);

	if (!fl)
		return 0;
#pragma unroll
	for (int i = 0; i < FLOWS; i++) {
		if (same(&fl->flow[i].backend, e)) {
			*e = fl->flow[i].vip;
			return 1;
		}
	}
	return 0;
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

/* reserved says whether *e, where a socket is being bound, is a node port. Its clients would never be heard of: their connections go elsewhere. */
static __always_inline int reserved(struct bpf_sock *ctx, const struct endpoint *e)
{
	struct frontend_key key = { .port = e->port, .proto = ctx->protocol, .kind = KIND_NODEPORT };
	int any = !e->addr[0] && !e->addr[1] && !e->addr[3];
	struct endpoint node = {};

	if (bpf_get_netns_cookie(ctx) != node_netns)
		return 0;
	__builtin_memcpy(node.addr, e->addr, sizeof(node.addr));
	if (!any && !loopback(e) && !find(&nodes, &node))
		return 0;
	key.addr[2] = mapped(e) ? bpf_htonl(0xffff) : 0;
	if (find(&frontends, &key))
		return 1;
	if (mapped(e) || !any)
		return 0;
	key.addr[2] = bpf_htonl(0xffff); /* who listens at [::] does at 0.0.0.0 too */
	return find(&frontends, &key) != 0;
}

static __always_inline int bound(struct bpf_sock *ctx, const struct endpoint *e)
{
	if ((ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP) || !reserved(ctx, e))
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
