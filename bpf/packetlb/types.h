/* What packets chose: shared by the programs and, through bpf2go, by the loader. */
#ifndef PACKETLB_TYPES_H
#define PACKETLB_TYPES_H

#include "../socklb/services.h"

enum direction {
	DIRECTION_IN, /* from a device */
	DIRECTION_OUT, /* to a device */
};

/* A packet as it is before its translation. */
struct tuple {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction;
	__u16 pad;
};

/* A flow has a part for each way that its packets are translated. The node's own stack sees client and backend, whichever addresses are
 * on the wire: routes, filters and the kernel's conntrack meet one connection, not two halves. */
enum part {
	PART_REQUEST, /* in: client to frontend becomes client to backend */
	PART_REPLY, /* out: backend to client becomes frontend to client */
	PART_MASQUERADE, /* out: client to backend becomes node to backend */
	PART_UNMASQUERADE, /* in: backend to node becomes backend to client */
};

struct flow {
	__be32 saddr[4]; /* what the packet becomes */
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u32 service;
	__be16 port; /* of a request that is masqueraded: the node's; else 0 */
	__u8 part;
	__u8 flags; /* FLOW_* */
	__u32 seen; /* seconds since boot */
};

enum flow_flag {
	FLOW_CLOSING = 1, /* the end of a TCP connection was seen */
	FLOW_PAST = 2, /* both ways go past the node's stack, from its first packet to its last: half a connection would be none to conntrack */
};

/* A pod, as the node's end of its link leads to it. */
struct peer {
	__u32 link; /* index */
	__u32 via; /* index of the device by which the stack would have the pod's packets: the bridge, or the link itself */
	__u8 mac[6]; /* the pod's */
	__u8 own[6]; /* the address that the pod gets packets from */
};

/* A connection between a pod of this node and one of another. */
struct pair {
	__be32 here[4];
	__be32 there[4];
	__be16 port_here;
	__be16 port_there;
};

/* Where pods are. */
struct nets {
	__u32 bits; /* of the address that count */
	__be32 addr[4];
};

enum pairing {
	PAIRING_NONE, /* no connection of pods goes past the stack */
	PAIRING_END, /* none begins to */
	PAIRING_BEGIN,
};

/* This node's end of the tunnel to others, of VXLAN over IPv4. */
struct tunnel {
	__u32 link; /* index of its device; 0: packets have to pass the device, if there is one */
	__be32 local;
	__be32 vni; /* the network's number, as it is in a packet */
	__be16 port;
	__u8 mac[6];
};

/* Another node's end, by its hardware address. */
struct end {
	__u8 mac[6];
	__u16 pad;
};

/* All fragments of a packet. */
struct fragment {
	__be32 saddr[4];
	__be32 daddr[4];
	__be32 id;
	__u8 proto;
	__u8 direction;
	__u16 pad;
};

struct ports {
	__be16 sport;
	__be16 dport;
};

/* A host, or all that a network hides behind an address. */
struct visitor {
	__be32 addr[4];
	__u32 service;
};

struct visit {
	struct endpoint ep;
	__u32 seen; /* seconds since boot */
};

/* Addresses whose masked bits are these. */
struct range {
	__be32 addr[4];
	__be32 mask[4];
};

/* What passes the node's end of a pod's link, in seconds since boot; 0: nothing does. */
struct link {
	__u32 asked; /* a packet of the pod was last led to a service */
	__u32 served; /* a packet from outside was last sent into the pod, past the node's stack */
	__u32 via; /* index of the device by which the stack would have the pod's packets */
	__u32 pad;
};

enum reason {
	REASON_NOT_SERVICE, /* passes as it is, like all down to lone_fragment */
	REASON_MALFORMED, /* too short for its headers */
	REASON_LONE_FRAGMENT, /* of a packet whose first fragment was not translated before */
	REASON_STARTED, /* the first of a flow; translated, like all down to refused */
	REASON_REQUEST,
	REASON_REPLY,
	REASON_MASQUERADED,
	REASON_UNMASQUERADED,
	REASON_FRAGMENT,
	REASON_ICMP, /* an error about a translated packet */
	REASON_REFUSED, /* no endpoint, or a connection whose endpoint is gone: sent to a port where the node's own stack refuses */
	REASON_NO_ENDPOINT_HERE, /* dropped, like all below: another node may have one */
	REASON_SOURCE, /* the service is limited to others */
	REASON_LOST_SLOT, /* a slot that its generation promises is not there */
	REASON_NO_ADDRESS, /* the node has none to masquerade with */
	REASON_NO_PORT, /* all that were tried are in use */
	REASON_NO_ROOM, /* for the flow */
	REASON_REDIRECT, /* an ICMP redirect to a translated address, which the receiver never asked for */
	REASON_NOT_WRITTEN, /* the kernel does not let the packet be changed */
	REASON_MAX,
};

_Static_assert(sizeof(struct tuple) == 40, "tuple has a hole");
_Static_assert(sizeof(struct peer) == 20, "peer has a hole");
_Static_assert(sizeof(struct pair) == 36, "pair has a hole");
_Static_assert(sizeof(struct tunnel) == 20, "tunnel has a hole");
_Static_assert(sizeof(struct end) == 8, "end has a hole");
_Static_assert(sizeof(struct nets) == 20, "nets has a hole");
_Static_assert(sizeof(struct flow) == 48, "flow has a hole");
_Static_assert(sizeof(struct fragment) == 40, "fragment has a hole");
_Static_assert(sizeof(struct visitor) == 20, "visitor has a hole");
_Static_assert(sizeof(struct visit) == 24, "visit has a hole");

#endif
