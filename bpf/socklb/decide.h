/* What becomes of a socket that asks for an address, by what the maps say. It is the same for the kernel's sockets and for those that a test describes: who
 * includes this says first what an asker is (something with a protocol), and then, by two functions, where it is and what it remembers. */
#ifndef SOCKLB_DECIDE_H
#define SOCKLB_DECIDE_H

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define SECOND 1000000000ULL

static __always_inline __u64 netns_of(asker *sk);
/* flows_of is 0 where a socket remembers nothing, unless flags have it begin to. */
static __always_inline struct flows *flows_of(asker *sk, __u64 flags);

/* Cookie of the node's network namespace, where 127.0.0.1 has the node ports. A NULL context would ask for init_net's,
 * which is not the node's where the node is itself in a namespace. */
volatile const __u64 node_netns = 0;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct client);
	__type(value, struct choice);
} choices SEC(".maps");

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

static __always_inline int is_apart(asker *sk)
{
	__u32 zero = 0, *which = bpf_map_lookup_elem(&parting, &zero);
	__u64 netns;

	if (!which || *which == APART_NONE)
		return 0;
	netns = netns_of(sk);
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

static __always_inline struct frontend *frontend_of(asker *sk, const struct endpoint *dst)
{
	struct frontend_key key = { .port = dst->port, .proto = sk->protocol, .kind = KIND_ADDRESS };
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
		return netns_of(sk) == node_netns ? fe : 0;
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
static __always_inline enum reason choose(asker *sk, const struct frontend *fe, struct flows *fl,
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
		who.netns = netns_of(sk);
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

static __always_inline enum reason decide(asker *sk, struct endpoint *dst, enum call call, __u32 rnd, __u64 now)
{
	struct endpoint vip = *dst;
	struct frontend *found, fe;
	enum reason why;
	struct flows *fl;

	if (sk->protocol != IPPROTO_TCP && sk->protocol != IPPROTO_UDP)
		return REASON_NOT_SERVICE;
	found = frontend_of(sk, dst);
	if (!found) {
		if (call == CALL_CONNECT && sk->protocol == IPPROTO_UDP) {
			fl = flows_of(sk, 0);
			if (fl)
				forget(fl, dst);
		}
		return REASON_NOT_SERVICE;
	}
	if (is_apart(sk))
		return REASON_NOT_SERVICE;
	fe = *found;
	fl = call == CALL_SEND ? flows_of(sk, 0) : 0;
	why = choose(sk, &fe, fl, dst, rnd, now);
	if (why == REASON_LOST_SLOT) {
		/* The service changed between its frontend and its slot: what it has now is there. */
		found = frontend_of(sk, &vip);
		if (!found)
			return count(fe.service, REASON_NO_ENDPOINT);
		fe = *found;
		why = choose(sk, &fe, fl, dst, rnd, now);
	}
	count(fe.service, why);
	if (why != REASON_TRANSLATED && why != REASON_AFFINITY)
		return why;
	fl = flows_of(sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (fl)
		remember(fl, &vip, dst, fe.service);
	return why;
}

/* goes_on counts why, and says whether the call goes on; else it is refused. */
static __always_inline int goes_on(enum reason why)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&reasons, &key);

	if (n)
		(*n)++;
	return why != REASON_NO_ENDPOINT && why != REASON_LOST_SLOT;
}

/* reverse says whether *e, the peer, is an endpoint that stands for a service here, and which. */
static __always_inline int reverse(asker *sk, struct endpoint *e)
{
	struct flows *fl = flows_of(sk, 0);

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

/* reserved says whether *e, where a socket of a network namespace is being bound, is a node port. Its clients would never be heard of: their connections go elsewhere. */
static __always_inline int reserved(__u64 netns, __u32 protocol, const struct endpoint *e)
{
	struct frontend_key key = { .port = e->port, .proto = protocol, .kind = KIND_NODEPORT };
	int any = !e->addr[0] && !e->addr[1] && !e->addr[3];
	struct endpoint node = {};

	if (netns != node_netns)
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

#endif
