/* Past the node's stack: a request from outside goes straight into its pod, and the answer straight to a device. What the stack would have done to
 * them is done here, or left to it: a packet that is too long, or has come to the end of its life, goes on as it is, and the stack tells its sender. */
#ifndef PACKETLB_PAST_H
#define PACKETLB_PAST_H

#define AF_INET 2
#define AF_INET6 10

struct macs {
	__u8 dst[6], src[6];
};

/* longest is that of the packets that this one may be cut into, from the network header on. */
static __always_inline __u32 longest(struct __sk_buff *skb, const struct work *w)
{
	return skb->gso_size ? w->p.l4 - w->p.l3 + w->p.head + skb->gso_size : skb->len - w->p.l3;
}

/* live says that a packet may be forwarded, and takes one from how often. */
static __always_inline int live(struct __sk_buff *skb, int v6)
{
	__u16 old, new;
	__u8 hops;

	if (v6) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 7, &hops, 1) || hops <= 1)
			return 0;
		hops--;
		return !bpf_skb_store_bytes(skb, ETH_HLEN + 7, &hops, 1, BPF_F_RECOMPUTE_CSUM);
	}
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, &old, 2) || (old & 0xff) <= 1)
		return 0;
	new = old - 1; /* the first byte */
	return !bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 2) && !bpf_skb_store_bytes(skb, ETH_HLEN + 8, &new, 2, 0);
}

/* fits says that a packet may go into a pod in one piece. */
static __always_inline int fits(struct __sk_buff *skb, const struct peer *peer)
{
	__u32 mtu = 0;

	return !bpf_check_mtu(skb, peer->link, &mtu, 0, BPF_MTU_CHK_SEGS);
}

/* enter sends a packet into a pod, and counts why. */
static __always_inline int enter(struct __sk_buff *skb, const struct peer *peer, int v6, enum reason why)
{
	struct macs macs;

	if (!live(skb, v6))
		return verdict(why);
	__builtin_memcpy(macs.dst, peer->mac, 6);
	__builtin_memcpy(macs.src, peer->own, 6);
	if (bpf_skb_store_bytes(skb, 0, &macs, sizeof(macs), 0))
		return verdict(REASON_NOT_WRITTEN);
	verdict(why);
	return bpf_redirect_peer(peer->link, 0);
}

/* note_served has the answers of the pod at a link looked for from now on. */
static __always_inline int note_served(const struct peer *peer, __u32 now)
{
	struct link *link = bpf_map_lookup_elem(&links, &peer->link), new = { .served = now, .via = peer->via };

	if (!link)
		return bpf_map_update_elem(&links, &peer->link, &new, BPF_NOEXIST);
	if (link->served != now) {
		link->via = peer->via;
		link->served = now;
	}
	return 0;
}

/* into_pod is the way out for a packet from outside that has been decided. */
static __always_inline int into_pod(struct __sk_buff *skb, enum reason why, __u32 now)
{
	__u32 zero = 0;
	struct work *w;
	struct peer *peer;

	if (why != REASON_STARTED && why != REASON_REQUEST && why != REASON_FRAGMENT)
		return verdict(why);
	w = bpf_map_lookup_elem(&works, &zero);
	if (!w || !(w->flow.flags & FLOW_PAST) || w->flow.part != PART_REQUEST)
		return verdict(why);
	peer = peer_of(w->flow.daddr);
	/* The link may have gone while nobody was there to say so; then the stack knows better. */
	if (!peer || !fits(skb, peer))
		return verdict(why);
	if (note_served(peer, now))
		return verdict(REASON_NO_ROOM); /* the answer would go by the stack, which has not seen the question */
	return enter(skb, peer, w->p.v6, why);
}

#include "tunnel.h"

/* leave sends a packet to the device that the stack would, as it is there: the program at the device translates it. */
static __noinline int leave(struct __sk_buff *skb, struct work *w, __u32 via)
{
	struct bpf_fib_lookup fib = { .ifindex = via, .l4_protocol = w->key.proto, .sport = w->key.sport, .dport = w->key.dport };
	__u32 len = longest(skb, w);
	struct bpf_redir_neigh next = {};
	struct tunnel *t = the_tunnel();
	__u8 tos = 0;
	long got;

	fib.tot_len = len > 0xffff ? 0xffff : len;
	if (w->p.v6) {
		__u32 first;

		fib.family = AF_INET6;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &first, 4))
			return PASS;
		fib.flowinfo = first & bpf_htonl(0x0fffffff);
		copy_addr(fib.ipv6_src, w->key.saddr);
		copy_addr(fib.ipv6_dst, w->key.daddr);
	} else {
		fib.family = AF_INET;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 1, &fib.tos, 1))
			return PASS;
		tos = fib.tos;
		fib.ipv4_src = w->key.saddr[3];
		fib.ipv4_dst = w->key.daddr[3];
	}
	got = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if ((got != BPF_FIB_LKUP_RET_SUCCESS && got != BPF_FIB_LKUP_RET_NO_NEIGH) || !live(skb, w->p.v6))
		return PASS;
	if (t && fib.ifindex == t->link && !w->p.v6 && got == BPF_FIB_LKUP_RET_SUCCESS) {
		struct end to = {};
		int sent;

		__builtin_memcpy(to.mac, fib.dmac, 6);
		sent = into_tunnel(skb, t, &to, len, via, tos);
		if (sent != PASS)
			return sent;
	}
	/* The neighbour's address is the kernel's business even when it is known: only what is sent by the neighbour's entry has the kernel find out when it no longer holds. */
	next.nh_family = fib.family;
	copy_addr(next.ipv6_nh, fib.ipv6_dst);
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}

/* out_of_pod sends an answer whose question has gone past the stack the same way. PASS: it is none. */
static __always_inline int out_of_pod(struct __sk_buff *skb)
{
	__u32 zero = 0, index = skb->ifindex, *last = bpf_map_lookup_elem(&served, &zero);
	struct link *link;
	struct work *w;
	struct flow *fl;

	if (!last || !*last)
		return PASS;
	link = bpf_map_lookup_elem(&links, &index);
	if (!link || !link->served)
		return PASS;
	w = bpf_map_lookup_elem(&works, &zero);
	if (!w || skb->vlan_present)
		return PASS;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		w->p.v6 = 0;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		w->p.v6 = 1;
	else
		return PASS;
	w->p.l3 = ETH_HLEN;
	if (parse_ip(skb, &w->p, &w->key) || (w->key.proto != IPPROTO_TCP && w->key.proto != IPPROTO_UDP))
		return PASS;
	w->key.direction = DIRECTION_OUT;
	w->key.pad = 0;
	if (w->p.later) {
		name_fragment(w);
		if (ports_of_fragment(w))
			return PASS;
	} else if (parse_ports(skb, &w->p, &w->key)) {
		return PASS;
	}
	fl = bpf_map_lookup_elem(&flows, &w->key);
	if (!fl || !(fl->flags & FLOW_PAST) || fl->part != PART_REPLY)
		return PASS;
	if (w->p.fragment) {
		struct ports ports = { w->key.sport, w->key.dport };

		name_fragment(w);
		bpf_map_update_elem(&fragments, &w->fragment, &ports, BPF_ANY);
	}
	return leave(skb, w, link->via);
}

#endif
