/* What services are, as the programs in sockets and those on devices read it: shared by both and, through bpf2go, by the loader.
 * Addresses are 128 bits, IPv4 as ::ffff:a.b.c.d, so that an IPv4 packet, an IPv4 socket, an IPv6 socket with a mapped address and a
 * true IPv6 one meet the same entries. No key has a hole. */
#ifndef SOCKLB_SERVICES_H
#define SOCKLB_SERVICES_H

struct endpoint {
	__be32 addr[4];
	__be16 port;
	__u16 flags; /* of a slot's: BACKEND_*; otherwise 0 */
};

enum backend_flag {
	BACKEND_HERE = 1, /* it is on this node */
};

enum kind {
	KIND_ADDRESS, /* addr is the frontend's */
	KIND_NODEPORT, /* addr is its family's zero: every address of the nodes */
	KIND_OUTSIDE, /* added to one of them: for packets that come to the node from elsewhere */
};

struct frontend_key {
	__be32 addr[4];
	__be16 port;
	__u8 proto;
	__u8 kind;
};

/* A changed service gets a new generation: its slots are written first, then this value replaces the old one at once. */
struct frontend {
	__u32 generation; /* first half of the keys of its slots */
	__u32 service; /* stays when endpoints change */
	__u32 count; /* slots 0 to count-1 are there; 0 refuses */
	__u32 affinity; /* seconds a client stays with an endpoint; 0: every connection is free */
	__u32 table; /* entries of the generation's table; 0: none */
	__u32 flags; /* FRONTEND_* */
};

enum frontend_flag {
	FRONTEND_KEEP_SOURCE = 1, /* with no endpoint packets are dropped, not refused */
	FRONTEND_LIMITED = 2, /* only clients in sources are served */
};

struct slot {
	__u32 generation;
	__u32 index;
};

/* Part of a table that says which slot a hash leads to, the same on every node: entry i is in block i / BLOCK. */
#define BLOCK 64
struct block {
	__u16 slot[BLOCK];
};

/* What an endpoint is to those who chose it before. One that is not there is not to be chosen again, and nothing more is said of it. */
enum member_state {
	MEMBER_CHOSEN = 1, /* new connections go there, too */
	MEMBER_LEAVING = 2, /* no new ones do; those that it has stay */
	MEMBER_GONE = 3, /* it does not answer any more: connections to it are ended */
};

/* An endpoint that a service has or had, for those who chose it before. */
struct member {
	__u32 service;
	struct endpoint ep;
};

/* A range of clients that a service is limited to. */
struct source {
	__u32 bits; /* of what follows that count */
	__u32 service;
	__be32 addr[4];
};

/* What an address of a node is. */
enum node_flag {
	NODE_ANY = 1, /* some node's */
	NODE_PORTS = 2, /* this node's, where node ports are asked from outside */
};

_Static_assert(sizeof(struct endpoint) == 20, "endpoint has a hole");
_Static_assert(sizeof(struct frontend_key) == 20, "frontend_key has a hole");
_Static_assert(sizeof(struct member) == 24, "member has a hole");
_Static_assert(sizeof(struct source) == 24, "source has a hole");

/* Maps of services grow: each is alone in an array, where a bigger one with the same content takes its place in one step. User space makes them; the size here is no map's. */
#define GROWING(name, key_type, value_type) \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); \
		__uint(max_entries, 1); \
		__uint(pinning, LIBBPF_PIN_BY_NAME); \
		__type(key, __u32); \
		__array(values, struct { \
			__uint(type, BPF_MAP_TYPE_HASH); \
			__uint(map_flags, BPF_F_NO_PREALLOC); \
			__uint(max_entries, 1); \
			__uint(key_size, sizeof(key_type)); /* clang 14 forgets what types of an inner map are */ \
			__uint(value_size, sizeof(value_type)); \
		}); \
	} name SEC(".maps")

GROWING(frontends, struct frontend_key, struct frontend);
GROWING(backends, struct slot, struct endpoint);
GROWING(tables, struct slot, struct block); /* the key's index is the block's */
GROWING(members, struct member, __u32); /* MEMBER_* */
GROWING(nodes, struct endpoint, __u32); /* port is 0; NODE_* */

/* It takes memory for what it holds only, so it need not grow. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4194304);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct source);
	__type(value, __u32);
} sources SEC(".maps");

/* What became of a service's clients on this node. */
struct traffic {
	__u64 connections; /* led to an endpoint: of UDP, by a socket that connects or a flow that begins */
	__u64 failures; /* led to none: refused or dropped */
	__u64 packets_in, bytes_in; /* translated, to endpoints */
	__u64 packets_out, bytes_out; /* translated, from endpoints */
};

/* Only services that this node's clients have asked for. What has no room is not counted. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32); /* the service */
	__type(value, struct traffic);
} traffics SEC(".maps");

static __noinline int begin_traffic(__u32 service)
{
	struct traffic none = {};

	return bpf_map_update_elem(&traffics, &service, &none, BPF_NOEXIST);
}

static __always_inline struct traffic *traffic_of(__u32 service)
{
	struct traffic *t = bpf_map_lookup_elem(&traffics, &service);

	if (t)
		return t;
	begin_traffic(service);
	return bpf_map_lookup_elem(&traffics, &service);
}

/* find looks a key up in a map that grows. */
static __always_inline void *find(void *growing, const void *key)
{
	__u32 first = 0;
	void *map = bpf_map_lookup_elem(growing, &first);

	return map ? bpf_map_lookup_elem(map, key) : 0;
}

/* state_of is what an endpoint is to a service; 0: nothing. */
static __always_inline __u32 state_of(const struct member *m)
{
	__u32 *state = find(&members, m);

	return state ? *state : 0;
}

static __always_inline int same(const struct endpoint *a, const struct endpoint *b)
{
	return a->addr[3] == b->addr[3] && a->port == b->port && a->addr[2] == b->addr[2] &&
	       a->addr[1] == b->addr[1] && a->addr[0] == b->addr[0];
}

static __always_inline int mapped(const struct endpoint *e)
{
	return !e->addr[0] && !e->addr[1] && e->addr[2] == bpf_htonl(0xffff);
}

#endif
