/* Connections of TCP between pods of two nodes: both ways past the stacks of both, from the first packet to the last. What asks for a service is not looked for
 * here, nor what the stack may translate: the ranges of others' pods are those that it leaves as they are. */
#ifndef PACKETLB_PAIRS_H
#define PACKETLB_PAIRS_H

/* lone_tcp reads a packet of TCP that is whole and has no options of IP into w's place and key. Other packets are the stack's. */
static __always_inline int lone_tcp(struct __sk_buff *skb, struct work *w)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip4 *four = data + ETH_HLEN;
	struct ip6 *six = data + ETH_HLEN;
	struct tcp_head *tcp;

	if (skb->vlan_present)
		return -1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		tcp = (void *)(four + 1);
		if ((void *)(tcp + 1) > end || four->version_ihl != 0x45 || four->proto != IPPROTO_TCP || four->frag & bpf_htons(IP_OFFSET | IP_MF))
			return -1;
		w->p.v6 = 0;
		w->p.l4 = ETH_HLEN + sizeof(*four);
		map4(w->key.saddr, four->saddr);
		map4(w->key.daddr, four->daddr);
	} else {
		tcp = (void *)(six + 1);
		if (skb->protocol != bpf_htons(ETH_P_IPV6) || (void *)(tcp + 1) > end || six->next != IPPROTO_TCP)
			return -1;
		w->p.v6 = 1;
		w->p.l4 = ETH_HLEN + sizeof(*six);
		copy_addr(w->key.saddr, six->saddr);
		copy_addr(w->key.daddr, six->daddr);
	}
	w->p.l3 = ETH_HLEN;
	w->p.syn = (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	w->key.sport = tcp->sport;
	w->key.dport = tcp->dport;
	w->key.proto = IPPROTO_TCP;
	return 0;
}

/* pair_in and pair_out name the connection that w->key is a packet of, to this node's pod and from it. */
static __always_inline void pair_in(struct pair *p, const struct work *w)
{
	copy_addr(p->here, w->key.daddr);
	copy_addr(p->there, w->key.saddr);
	p->port_here = w->key.dport;
	p->port_there = w->key.sport;
}

static __always_inline void pair_out(struct pair *p, const struct work *w)
{
	copy_addr(p->here, w->key.saddr);
	copy_addr(p->there, w->key.daddr);
	p->port_here = w->key.sport;
	p->port_there = w->key.dport;
}

/* pairing says whether there may be connections that go past the stack. */
static __always_inline __u32 pairing(void)
{
	__u32 zero = 0, *how = bpf_map_lookup_elem(&pairings, &zero);

	return how ? *how : PAIRING_NONE;
}

/* begin_pair decides which way a connection goes whose first packet this is, and forgets an earlier one of the same ports. link is where the packet came from the pod, 0
 * one that goes to it: another pod's link says nothing of this one. */
static __noinline struct peer *begin_pair(struct pair *p, __u32 link)
{
	struct peer *peer = peer_of(p->here), *old = bpf_map_lookup_elem(&pairs, p);
	struct nets other = { .bits = 128 };

	copy_addr(other.addr, p->there);
	if (peer && (!link || peer->link == link) && pairing() == PAIRING_BEGIN && bpf_map_lookup_elem(&others, &other) && !bpf_map_update_elem(&pairs, p, peer, BPF_ANY))
		return bpf_map_lookup_elem(&pairs, p);
	if (old && (!link || old->link == link))
		bpf_map_delete_elem(&pairs, p);
	return 0;
}

/* pair_into_pod sends a packet of another node's pod straight into this node's. What is of none goes by the stack. */
static __always_inline int pair_into_pod(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);
	struct pair p;
	struct peer *peer;

	if (!w || pairing() == PAIRING_NONE || lone_tcp(skb, w))
		return verdict(REASON_NOT_SERVICE);
	pair_in(&p, w);
	peer = w->p.syn ? begin_pair(&p, 0) : bpf_map_lookup_elem(&pairs, &p);
	if (!peer || !fits(skb, peer))
		return verdict(REASON_NOT_SERVICE);
	return enter(skb, peer, w->p.v6, REASON_NOT_SERVICE);
}

/* pair_out_of_pod sends a packet on that is not the first of its connection, to another node's pod. */
static __always_inline int pair_out_of_pod(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);
	struct pair p;
	struct peer *peer;

	if (!w || pairing() == PAIRING_NONE || lone_tcp(skb, w) || w->p.syn)
		return PASS;
	pair_out(&p, w);
	peer = bpf_map_lookup_elem(&pairs, &p);
	if (!peer || peer->link != skb->ifindex)
		return PASS;
	return leave(skb, w, peer->via);
}

/* pair_begins does so with the first, once it is known to ask for no service. */
static __always_inline int pair_begins(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);
	struct pair p;
	struct peer *peer;

	if (!w || pairing() == PAIRING_NONE || lone_tcp(skb, w) || !w->p.syn)
		return PASS;
	pair_out(&p, w);
	peer = begin_pair(&p, skb->ifindex);
	return peer ? leave(skb, w, peer->via) : PASS;
}

#endif
