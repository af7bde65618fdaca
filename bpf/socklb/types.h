/* Shared by the programs and, through bpf2go, by the loader. Addresses are 128 bits, IPv4 as ::ffff:a.b.c.d, so that an
 * IPv4 socket, an IPv6 socket with a mapped address and a true IPv6 one meet the same entries. No key has a hole. */
#ifndef SOCKLB_TYPES_H
#define SOCKLB_TYPES_H

struct endpoint {
	__be32 addr[4];
	__be16 port;
	__u16 pad;
};

enum kind {
	KIND_ADDRESS, /* addr is the frontend's */
	KIND_NODEPORT, /* addr is its family's zero: every address of the nodes */
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
};

struct slot {
	__u32 generation;
	__u32 index;
};

/* An endpoint that a service has now, for those who chose it before. */
struct member {
	__u32 service;
	struct endpoint ep;
};

/* A pod, or the node: all sockets of a network namespace. */
struct client {
	__u64 netns;
	__u32 service;
	__u32 pad;
};

struct choice {
	struct endpoint ep;
	__u32 pad;
	__u64 seen; /* ns since boot */
};

struct flow {
	struct endpoint vip;
	struct endpoint backend;
	__u32 service;
};

#define FLOWS 4 /* services that one unconnected UDP socket can hear from at a time */

struct flows {
	struct flow flow[FLOWS];
	__u32 next;
};

enum reason {
	REASON_NOT_SERVICE,
	REASON_TRANSLATED,
	REASON_STICKY, /* this UDP socket's earlier choice */
	REASON_AFFINITY, /* this client's earlier choice */
	REASON_NO_ENDPOINT,
	REASON_LOST_SLOT, /* a slot that its generation promises is not there */
	REASON_MAX,
};

_Static_assert(sizeof(struct endpoint) == 20, "endpoint has a hole");
_Static_assert(sizeof(struct frontend_key) == 20, "frontend_key has a hole");
_Static_assert(sizeof(struct member) == 24, "member has a hole");
_Static_assert(sizeof(struct client) == 16, "client has a hole");
_Static_assert(sizeof(struct choice) == 32, "choice has a hole");
_Static_assert(sizeof(struct flow) == 44, "flow has a hole");

#endif
