/* What sockets chose. */
#ifndef SOCKLB_TYPES_H
#define SOCKLB_TYPES_H

#include "services.h"

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

/* Whose sockets are left as they are. */
enum apart_which {
	APART_NONE,
	APART_SOME, /* those of the network namespaces that are listed */
	APART_PODS, /* all but the node's own */
};

_Static_assert(sizeof(struct client) == 16, "client has a hole");
_Static_assert(sizeof(struct choice) == 32, "choice has a hole");
_Static_assert(sizeof(struct flow) == 44, "flow has a hole");

#endif
