//go:build ignore

/* packetlb translates the packets of clients whose sockets no program sees: machines outside, and pods that bring a network stack of
 * their own. A packet that comes in by a device and asks for a service gets a backend's address before the node's stack sees it; one that leaves by a device
 * gets the service's back, or the node's where the answer must come back here, after the stack has seen it. */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

#define PASS (-1) /* TCX_NEXT, TC_ACT_UNSPEC: whoever else is on the device comes next */
#define DROP 2 /* TCX_DROP, TC_ACT_SHOT */
#define REDIRECT 7 /* TCX_REDIRECT, TC_ACT_REDIRECT */
#define SECOND 1000000000ULL

/* How long after its last packet the ports of a flow may go to another, in seconds. */
#define IDLE_TCP 86400
#define IDLE_UDP 180
#define IDLE_CLOSED 10

char LICENSE[] SEC("license") = "GPL";

const enum reason *unused_reason __attribute__((unused));
const enum part *unused_part __attribute__((unused));
const enum flow_flag *unused_flow_flag __attribute__((unused));
const enum pairing *unused_pairing __attribute__((unused));

/* The ports that masqueraded flows leave from: port_first and the port_count-1 after it. The node's own sockets must not choose from them. */
volatile const __u32 port_first = 1024;
volatile const __u32 port_count = 28976;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct tuple);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct fragment);
	__type(value, struct ports);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct visitor);
	__type(value, struct visit);
} visits SEC(".maps");

/* The node's own addresses to masquerade with, by family: IPv4, IPv6. Zero: none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct endpoint);
} masquerade SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

/* When a pod's packet was last led to a service here, in seconds since boot; 0 when none was, for as long as a flow may be idle. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} asked SEC(".maps");

/* What is known of a pod's link. One that is not listed leads no pod's packets to services. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32); /* its index */
	__type(value, struct link);
} links SEC(".maps");

/* The same of a packet that came from outside. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} served SEC(".maps");

/* Where only pods of this node are, by family: no packet from outside that goes there is translated. A mask of zero: nowhere. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct range);
} pods SEC(".maps");

/* Pods of this node that packets may be sent straight into, by address; port is 0. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct endpoint);
	__type(value, struct peer);
} peers SEC(".maps");

/* Not 0: flows that begin go past the stack where their pod is among the peers. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} shortcut SEC(".maps");

/* Connections of this node's pods with others' that go past the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct pair);
	__type(value, struct peer); /* as it was when the connection began */
} pairs SEC(".maps");

/* Where pods of other nodes are, which packets reach with their own addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct nets);
	__type(value, __u32);
} others SEC(".maps");

/* enum pairing */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} pairings SEC(".maps");

/* The tunnel by which connections of pods go past its device; one, or none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct tunnel);
} tunnels SEC(".maps");

/* Addresses of other nodes' ends of it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct end);
	__type(value, __be32);
} ends SEC(".maps");

#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

#include "icmp.h"

enum scope { SCOPE_INSIDE, SCOPE_OUTSIDE };

static __always_inline struct frontend *frontend_of(struct work *w, enum scope scope)
{
	struct frontend_key key = { .port = w->key.dport, .proto = w->key.proto, .kind = KIND_ADDRESS };
	struct endpoint node = {};
	struct frontend *fe;
	__u32 *flags;

	if (scope == SCOPE_OUTSIDE)
		key.kind += KIND_OUTSIDE;
	copy_addr(key.addr, w->key.daddr);
	fe = find(&frontends, &key);
	if (fe)
		return fe;
	copy_addr(node.addr, w->key.daddr);
	flags = find(&nodes, &node);
	if (!flags || (scope == SCOPE_OUTSIDE && !(*flags & NODE_PORTS)))
		return 0;
	/* One entry a family: an IPv4 client must not meet an IPv6 endpoint. */
	key.addr[0] = key.addr[1] = key.addr[3] = 0;
	key.addr[2] = w->p.v6 ? 0 : bpf_htonl(0xffff);
	key.kind += KIND_NODEPORT;
	return find(&frontends, &key);
}

static __always_inline struct peer *peer_of(const __be32 *addr)
{
	struct endpoint at = {};

	copy_addr(at.addr, addr);
	return bpf_map_lookup_elem(&peers, &at);
}

static __always_inline __u32 member(__u32 service, const __be32 *addr, __be16 port)
{
	struct member m = { .service = service, .ep = { .port = port } };

	copy_addr(m.ep.addr, addr);
	return state_of(&m);
}

static __always_inline __u32 mix(__u32 h, __u32 word)
{
	h = (h ^ word) * 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ (h >> 16);
}

/* hash is the same on all nodes: whichever gets a client's packets leads them to the same backend. A client that stays with its backend is all its
 * connections, but for those to another address of the service. */
static __always_inline __u32 hash(const struct tuple *t, __u32 affinity)
{
	__u32 h = mix(mix(mix(mix(0x9747b28c, t->saddr[0]), t->saddr[1]), t->saddr[2]), t->saddr[3]);

	h = mix(mix(h, t->daddr[3]), ((__u32)t->dport << 8) | t->proto);
	return affinity ? h : mix(h, t->sport);
}

/* pick leaves the backend of a hash in w->backend. */
static __always_inline int pick(struct work *w, const struct frontend *fe, __u32 h)
{
	struct slot slot = { .generation = fe->generation };
	struct endpoint *ep;
	struct block *block;

	if (fe->table) {
		__u32 at = h % fe->table;

		slot.index = at / BLOCK;
		block = find(&tables, &slot);
		at &= BLOCK - 1;
		slot.index = block ? block->slot[at] : 0;
	} else {
		slot.index = h % fe->count;
	}
	ep = find(&backends, &slot);
	if (!ep) {
		slot.index = 0;
		ep = find(&backends, &slot);
		if (!ep)
			return -1;
	}
	w->backend = *ep;
	return 0;
}

static __always_inline int admitted(const struct work *w, __u32 service)
{
	struct source s = { .bits = 32 + 128, .service = service };

	copy_addr(s.addr, w->key.saddr);
	return bpf_map_lookup_elem(&sources, &s) != 0;
}

/* choose leaves a backend of a frontend that has one in w->backend. */
static __always_inline enum reason choose(struct work *w, const struct frontend *fe, __u32 now)
{
	struct visitor who = { .service = fe->service };
	struct visit visit = { .seen = now }, *last;

	if (!fe->affinity)
		return pick(w, fe, hash(&w->key, 0)) ? REASON_LOST_SLOT : REASON_STARTED;
	copy_addr(who.addr, w->key.saddr);
	last = bpf_map_lookup_elem(&visits, &who);
	if (last && now - last->seen < fe->affinity && member(fe->service, last->ep.addr, last->ep.port) == MEMBER_CHOSEN) {
		last->seen = now;
		w->backend = last->ep;
		return REASON_STARTED;
	}
	if (pick(w, fe, hash(&w->key, 1)))
		return REASON_LOST_SLOT;
	visit.ep = w->backend;
	bpf_map_update_elem(&visits, &who, &visit, BPF_ANY);
	return REASON_STARTED;
}

static __always_inline int over(const struct flow *fl, __u8 proto, __u32 now)
{
	__u32 idle = now - fl->seen;

	return idle > (proto == IPPROTO_UDP ? IDLE_UDP : fl->flags & FLOW_CLOSING ? IDLE_CLOSED : IDLE_TCP);
}

enum claim { CLAIM_MINE, CLAIM_TAKEN, CLAIM_FAILED };

/* claim makes w->partner what becomes of w->other, unless that is another flow's. */
static __always_inline enum claim claim(struct work *w, __u32 now)
{
	struct flow *old;
	long err = bpf_map_update_elem(&flows, &w->other, &w->partner, BPF_NOEXIST);

	if (!err)
		return CLAIM_MINE;
	old = bpf_map_lookup_elem(&flows, &w->other);
	if (!old)
		return CLAIM_FAILED;
	if (equal_addr(old->saddr, w->partner.saddr) && equal_addr(old->daddr, w->partner.daddr) &&
	    old->sport == w->partner.sport && old->dport == w->partner.dport) {
		old->seen = now;
		old->flags = w->partner.flags;
		return CLAIM_MINE;
	}
	if (!over(old, w->key.proto, now))
		return CLAIM_TAKEN;
	return bpf_map_update_elem(&flows, &w->other, &w->partner, BPF_ANY) ? CLAIM_FAILED : CLAIM_MINE;
}

#define PORT_TRIES 16

/* claim_reply finds a port for the client that the backend knows it by, its own if it can be: two services may have the same backend, and a
 * client may ask both from one port. */
static __noinline enum claim claim_reply(struct work *w, __u32 now)
{
	__u32 h = hash(&w->key, 0);
	enum claim got = CLAIM_FAILED;

	copy_addr(w->other.saddr, w->flow.daddr);
	copy_addr(w->other.daddr, w->flow.saddr);
	w->other.sport = w->flow.dport;
	w->other.proto = w->key.proto;
	w->other.direction = DIRECTION_OUT;
	w->other.pad = 0;
	copy_addr(w->partner.saddr, w->key.daddr);
	copy_addr(w->partner.daddr, w->key.saddr);
	w->partner.sport = w->key.dport;
	w->partner.dport = w->key.sport;
	w->partner.service = w->flow.service;
	w->partner.port = 0;
	w->partner.flags = w->flow.flags & FLOW_PAST;
	w->partner.seen = now;
	w->partner.part = PART_REPLY;
	for (int i = 0; i < PORT_TRIES; i++) {
		w->other.dport = w->flow.sport;
		got = claim(w, now);
		if (got != CLAIM_TAKEN)
			break;
		h = mix(h, i);
		w->flow.sport = bpf_htons((__u16)(1024 + h % 64512));
	}
	return got;
}

/* claim_masquerade finds a port of the node for the flow, the one it has if it has one, and writes both parts that go with it. */
static __noinline enum reason claim_masquerade(struct work *w, __u32 now)
{
	__u32 family = w->p.v6, h = hash(&w->key, 0);
	struct endpoint *node = bpf_map_lookup_elem(&masquerade, &family);
	enum claim got = CLAIM_FAILED;
	__be16 port = w->flow.port;

	if (!node || !(node->addr[0] | node->addr[3]))
		return REASON_NO_ADDRESS;
	copy_addr(w->other.daddr, node->addr);
	w->other.direction = DIRECTION_IN;
	copy_addr(w->partner.saddr, w->flow.daddr);
	copy_addr(w->partner.daddr, w->flow.saddr);
	w->partner.sport = w->flow.dport;
	w->partner.dport = w->flow.sport;
	w->partner.part = PART_UNMASQUERADE;
	for (int i = 0; i < PORT_TRIES; i++) {
		if (!port)
			port = bpf_htons((__u16)(port_first + h % port_count));
		w->other.dport = port;
		got = claim(w, now);
		if (got != CLAIM_TAKEN)
			break;
		h = mix(h, i);
		port = 0;
	}
	if (got != CLAIM_MINE)
		return got == CLAIM_TAKEN ? REASON_NO_PORT : REASON_NO_ROOM;
	w->flow.port = port;
	copy_addr(w->other.saddr, w->flow.saddr);
	copy_addr(w->other.daddr, w->flow.daddr);
	w->other.sport = w->flow.sport;
	w->other.dport = w->flow.dport;
	w->other.direction = DIRECTION_OUT;
	copy_addr(w->partner.saddr, node->addr);
	copy_addr(w->partner.daddr, w->flow.daddr);
	w->partner.sport = port;
	w->partner.dport = w->flow.dport;
	w->partner.part = PART_MASQUERADE;
	return bpf_map_update_elem(&flows, &w->other, &w->partner, BPF_ANY) ? REASON_NO_ROOM : REASON_STARTED;
}

/* keep writes all parts of the flow in w->flow, or writes again what the map may have lost. */
static __noinline enum reason keep(struct work *w, int masqueraded, __u32 now)
{
	enum claim got = claim_reply(w, now);
	enum reason why = REASON_STARTED;

	if (got != CLAIM_MINE)
		return got == CLAIM_TAKEN ? REASON_NO_PORT : REASON_NO_ROOM;
	if (masqueraded)
		why = claim_masquerade(w, now);
	if (why != REASON_STARTED)
		return why;
	w->flow.seen = now;
	w->flow.flags &= FLOW_PAST;
	w->flow.part = PART_REQUEST;
	return bpf_map_update_elem(&flows, &w->key, &w->flow, BPF_ANY) ? REASON_NO_ROOM : REASON_STARTED;
}

/* refuse leads a packet to port 0 of the node, at which nobody can listen: the stack answers for us, with what suits the protocol, and by the flow
 * the client has the answer from whom it asked. */
static __noinline enum reason refuse(struct work *w, __u32 now)
{
	__u32 family = w->p.v6;
	struct endpoint *node = bpf_map_lookup_elem(&masquerade, &family);

	if (!node || !(node->addr[0] | node->addr[3]))
		return REASON_NO_ADDRESS;
	copy_addr(w->flow.saddr, w->key.saddr);
	copy_addr(w->flow.daddr, node->addr);
	w->flow.sport = w->key.sport;
	w->flow.dport = 0;
	w->flow.flags = 0;
	return claim_reply(w, now) == CLAIM_MINE ? REASON_REFUSED : REASON_NO_PORT;
}

/* path_of is how w->flow is to go, if it begins now. */
static __always_inline __u8 path_of(const struct work *w)
{
	__u32 zero = 0, *on = bpf_map_lookup_elem(&shortcut, &zero);

	return on && *on && peer_of(w->flow.daddr) ? FLOW_PAST : 0;
}

/* start begins a flow: w->flow is what becomes of the packet. */
static __noinline enum reason start(struct work *w, enum scope scope, __u32 now)
{
	struct frontend *found = frontend_of(w, scope), fe;
	enum reason why;

	if (!found)
		return REASON_NOT_SERVICE;
	fe = *found;
	w->flow.service = fe.service;
	w->flow.flags = 0;
	if (fe.flags & FRONTEND_LIMITED && !admitted(w, fe.service))
		return REASON_SOURCE;
	if (!fe.count)
		return fe.flags & FRONTEND_KEEP_SOURCE ? REASON_NO_ENDPOINT_HERE : refuse(w, now);
	why = choose(w, &fe, now);
	if (why == REASON_LOST_SLOT) {
		/* The service changed between its frontend and its slot: what it has now is there. */
		found = frontend_of(w, scope);
		if (!found || !found->count)
			return REASON_LOST_SLOT;
		fe = *found;
		why = choose(w, &fe, now);
	}
	if (why != REASON_STARTED)
		return why;
	copy_addr(w->flow.saddr, w->key.saddr);
	copy_addr(w->flow.daddr, w->backend.addr);
	w->flow.sport = w->key.sport;
	w->flow.dport = w->backend.port;
	w->flow.port = 0;
	/* A backend elsewhere would answer the client past this node, and one that asked itself would answer itself. */
	int masqueraded = (scope == SCOPE_OUTSIDE && !(w->backend.flags & BACKEND_HERE)) || equal_addr(w->backend.addr, w->key.saddr);

	if (scope == SCOPE_OUTSIDE && !masqueraded)
		w->flow.flags = path_of(w);
	return keep(w, masqueraded, now);
}

/* go_on is a packet of a flow that is known. w->flow is what becomes of it. */
static __always_inline enum reason go_on(struct work *w, struct flow *fl, enum scope scope, __u32 now)
{
	__u8 part = fl->part;

	w->flow = *fl;
	if (part == PART_REQUEST) {
		/* A backend that has left keeps the connections that it has; new ones, and datagrams, go elsewhere. */
		if ((w->p.syn || w->key.proto == IPPROTO_UDP) && member(w->flow.service, w->flow.daddr, w->flow.dport) != MEMBER_CHOSEN)
			return start(w, scope, now);
		if (w->p.syn || w->flow.seen != now) {
			enum reason why;

			if (scope == SCOPE_OUTSIDE && !w->flow.port && (w->p.syn || over(&w->flow, w->key.proto, now))) {
				w->flow.flags = path_of(w); /* another connection, which may go another way */
			}

			/* Of a connection, the stack's answer to what nobody knows of is a reset. The flow stays as it was seen last, so every packet comes here. */
			if (!w->p.syn && member(w->flow.service, w->flow.daddr, w->flow.dport) == MEMBER_GONE)
				return refuse(w, now);
			why = keep(w, w->flow.port != 0, now);

			if (why != REASON_STARTED)
				return why;
		}
		if (w->p.ends)
			fl->flags |= FLOW_CLOSING;
		return REASON_REQUEST;
	}
	if (fl->seen != now)
		fl->seen = now;
	if (w->p.ends)
		fl->flags |= FLOW_CLOSING;
	return part == PART_REPLY ? REASON_REPLY : part == PART_MASQUERADE ? REASON_MASQUERADED : REASON_UNMASQUERADED;
}

/* ports_of_fragment gives a fragment the ports of its packet, which only the first has. */
static __always_inline int ports_of_fragment(struct work *w)
{
	struct ports *ports;

	ports = bpf_map_lookup_elem(&fragments, &w->fragment);
	if (!ports)
		return -1;
	w->key.sport = ports->sport;
	w->key.dport = ports->dport;
	return 0;
}

static __always_inline void name_fragment(struct work *w)
{
	copy_addr(w->fragment.saddr, w->key.saddr);
	copy_addr(w->fragment.daddr, w->key.daddr);
	w->fragment.id = w->p.id;
	w->fragment.proto = w->key.proto;
	w->fragment.direction = w->key.direction;
	w->fragment.pad = 0;
}

/* account counts a packet for its service: each way once, though one that is masqueraded is translated twice. */
static __always_inline void account(struct __sk_buff *skb, struct work *w, enum reason why)
{
	int in = why == REASON_STARTED || why == REASON_REQUEST || (why == REASON_FRAGMENT && w->flow.part == PART_REQUEST);
	int out = why == REASON_REPLY || (why == REASON_FRAGMENT && w->flow.part == PART_REPLY);
	int failed = why >= REASON_REFUSED && why <= REASON_NO_ROOM;
	__u32 bytes = skb->len - ETH_HLEN, packets = skb->gso_segs;
	struct traffic *t;

	if (!in && !out && !failed)
		return;
	t = traffic_of(w->flow.service);
	if (!t)
		return;
	if (!packets)
		packets = 1;
	if (failed) {
		t->failures++;
	} else if (in) {
		t->connections += why == REASON_STARTED;
		t->packets_in += packets;
		t->bytes_in += bytes;
	} else {
		t->packets_out += packets;
		t->bytes_out += bytes;
	}
}

/* note_asked has the link of a pod that asks for services looked at from now on. */
static __noinline int note_asked(struct __sk_buff *skb, __u32 now)
{
	__u32 zero = 0, index = skb->ifindex, *last = bpf_map_lookup_elem(&asked, &zero);
	struct link *link = bpf_map_lookup_elem(&links, &index), new = { .asked = now };

	if (last && *last != now)
		*last = now;
	if (!link)
		return bpf_map_update_elem(&links, &index, &new, BPF_NOEXIST);
	if (link->asked != now)
		link->asked = now;
	return 0;
}

/* decide is all that is done to a packet, but for counting. The clock is an argument, so that tests can set it. */
static __always_inline enum reason decide(struct __sk_buff *skb, enum direction direction, enum scope scope, __u32 now)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);
	enum reason why;
	struct flow *fl;

	if (!w || skb->vlan_present) /* the device of the VLAN sees it too */
		return REASON_NOT_SERVICE;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		w->p.v6 = 0;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		w->p.v6 = 1;
	else
		return REASON_NOT_SERVICE;
	w->p.l3 = ETH_HLEN;
	if (parse_ip(skb, &w->p, &w->key))
		return REASON_MALFORMED;
	w->key.direction = direction;
	w->key.pad = 0;
	if (w->key.proto == (w->p.v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return translate_error(skb, w);
	if (w->key.proto != IPPROTO_TCP && w->key.proto != IPPROTO_UDP)
		return REASON_NOT_SERVICE;
	if (w->p.later) {
		name_fragment(w);
		if (ports_of_fragment(w))
			return REASON_LONE_FRAGMENT;
	} else if (parse_ports(skb, &w->p, &w->key)) {
		return REASON_MALFORMED;
	}
	fl = bpf_map_lookup_elem(&flows, &w->key);
	if (w->p.later) {
		if (!fl)
			return REASON_LONE_FRAGMENT;
		w->flow = *fl;
		why = REASON_FRAGMENT;
	} else if (fl) {
		why = go_on(w, fl, scope, now);
	} else if (direction == DIRECTION_OUT || (scope == SCOPE_INSIDE && w->key.proto == IPPROTO_TCP && !w->p.syn)) {
		return REASON_NOT_SERVICE;
	} else {
		why = start(w, scope, now);
	}
	account(skb, w, why);
	if (why < REASON_STARTED || why > REASON_REFUSED)
		return why;
	if (direction == DIRECTION_IN && scope == SCOPE_INSIDE) {
		if (note_asked(skb, now))
			return REASON_NO_ROOM; /* the answer would not be looked at */
	} else if (direction == DIRECTION_IN) {
		__u32 *last = bpf_map_lookup_elem(&served, &zero);

		if (last && *last != now)
			*last = now;
	}
	if (w->p.fragment) {
		struct ports ports = { w->key.sport, w->key.dport };

		name_fragment(w);
		bpf_map_update_elem(&fragments, &w->fragment, &ports, BPF_ANY);
	}
	return rewrite(skb, w) ? REASON_NOT_WRITTEN : why;
}

/* verdict is the one way out: it counts why, and says whether the packet goes on. */
static __always_inline int verdict(enum reason why)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&packets, &key);

	if (n)
		(*n)++;
	return why > REASON_REFUSED ? DROP : PASS;
}

static __always_inline __u32 clock(void) { return bpf_ktime_get_boot_ns() / SECOND; }

static __always_inline int within(const struct range *r, const __be32 *addr)
{
	if (!(r->mask[0] | r->mask[3]))
		return 0;
	return (addr[0] & r->mask[0]) == r->addr[0] && (addr[1] & r->mask[1]) == r->addr[1] && (addr[2] & r->mask[2]) == r->addr[2] &&
	       (addr[3] & r->mask[3]) == r->addr[3];
}

/* to_own_pod says that a packet goes to a pod of this node by its own address. */
static __always_inline int to_own_pod(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 family = skb->protocol == bpf_htons(ETH_P_IPV6);
	struct range *range = bpf_map_lookup_elem(&pods, &family);
	struct ip4 *four = data + ETH_HLEN;
	struct ip6 *six = data + ETH_HLEN;
	__be32 daddr[4];

	if (!range)
		return 0;
	if (family) {
		if ((void *)(six + 1) > end)
			return 0;
		copy_addr(daddr, six->daddr);
	} else {
		if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)(four + 1) > end)
			return 0;
		map4(daddr, four->daddr);
	}
	return within(range, daddr);
}

/* asks says that the pod at a link has asked for services by packets. */
static __always_inline int asks(struct __sk_buff *skb)
{
	__u32 zero = 0, index = skb->ifindex, *last = bpf_map_lookup_elem(&asked, &zero);
	struct link *link;

	if (!last || !*last)
		return 0;
	link = bpf_map_lookup_elem(&links, &index);
	return link && link->asked;
}

/* quiet says that a packet at a pod's link is none of ours, at little cost: most pods' sockets are seen by programs, and while this pod has not asked
 * for a service by packets, there is nothing to answer, and only what may begin a flow is looked at. */
static __always_inline int quiet(struct __sk_buff *skb, enum direction direction)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip4 *four = data + ETH_HLEN;
	struct ip6 *six = data + ETH_HLEN;
	struct tcp_head *tcp;

	if (asks(skb))
		return 0;
	if (direction == DIRECTION_OUT)
		return 1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		tcp = (void *)(four + 1);
		if ((void *)(tcp + 1) > end || four->version_ihl != 0x45 || four->proto != IPPROTO_TCP || four->frag & bpf_htons(IP_OFFSET | IP_MF))
			return 0;
	} else {
		tcp = (void *)(six + 1);
		if ((void *)(tcp + 1) > end || skb->protocol != bpf_htons(ETH_P_IPV6) || six->next != IPPROTO_TCP)
			return 0;
	}
	return (tcp->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
}

/* passing says, at little cost, that a packet at a device to the network is none of ours: while no client outside has asked for a service, it is of a connection that
 * the node itself has, or leaves. What this does not know decide does. */
static __always_inline int passing(struct __sk_buff *skb, enum direction direction)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 zero = 0, family = skb->protocol == bpf_htons(ETH_P_IPV6), *last = bpf_map_lookup_elem(&served, &zero);
	struct endpoint *own = bpf_map_lookup_elem(&masquerade, &family);
	struct ip4 *four = data + ETH_HLEN;
	struct ip6 *six = data + ETH_HLEN;
	struct tcp_head *tcp;
	__be32 daddr[4];

	if (!last || *last || !own)
		return 0;
	if (direction == DIRECTION_OUT)
		return 1;
	if (family) {
		tcp = (void *)(six + 1);
		if ((void *)(tcp + 1) > end || six->next != IPPROTO_TCP)
			return 0;
		copy_addr(daddr, six->daddr);
	} else {
		tcp = (void *)(four + 1);
		if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)(tcp + 1) > end || four->version_ihl != 0x45 || four->proto != IPPROTO_TCP ||
		    four->frag & bpf_htons(IP_OFFSET | IP_MF))
			return 0;
		map4(daddr, four->daddr);
	}
	return (tcp->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN && equal_addr(daddr, own->addr);
}

#include "past.h"
#include "pairs.h"

static __always_inline int at_outside_in(struct __sk_buff *skb, __u32 now)
{
	int tunnelled;

	if (to_own_pod(skb))
		return pair_into_pod(skb);
	tunnelled = pair_out_of_tunnel(skb);
	if (tunnelled != PASS)
		return tunnelled;
	return into_pod(skb, passing(skb, DIRECTION_IN) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_IN, SCOPE_OUTSIDE, now), now);
}

static __always_inline int at_outside_out(struct __sk_buff *skb, __u32 now)
{
	return verdict(passing(skb, DIRECTION_OUT) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_OUT, SCOPE_OUTSIDE, now));
}

static __always_inline int at_pod_in(struct __sk_buff *skb, __u32 now)
{
	enum reason why;
	int out;

	if (to_own_pod(skb))
		return verdict(REASON_NOT_SERVICE);
	out = pair_out_of_pod(skb);
	if (out == PASS)
		out = out_of_pod(skb);
	if (out != PASS)
		return out;
	why = quiet(skb, DIRECTION_IN) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_IN, SCOPE_INSIDE, now);
	out = why == REASON_NOT_SERVICE ? pair_begins(skb) : PASS;
	return out == PASS ? verdict(why) : out;
}

static __always_inline int at_pod_out(struct __sk_buff *skb, __u32 now)
{
	return verdict(quiet(skb, DIRECTION_OUT) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_OUT, SCOPE_INSIDE, now));
}

SEC("tc") int from_outside(struct __sk_buff *skb) { return at_outside_in(skb, clock()); }

SEC("tc") int to_device(struct __sk_buff *skb) { return at_outside_out(skb, clock()); }

SEC("tc") int from_pod(struct __sk_buff *skb) { return at_pod_in(skb, clock()); }

SEC("tc") int to_pod(struct __sk_buff *skb) { return at_pod_out(skb, clock()); }
