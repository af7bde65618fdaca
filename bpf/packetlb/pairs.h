/* Connections of TCP between pods of two nodes: both ways past the stacks of both, from the first packet to the last. What asks for a service is not looked for
 * here, nor what the stack may translate: the ranges of others' pods are those that it leaves as they are. */
#ifndef PACKETLB_PAIRS_H
#define PACKETLB_PAIRS_H

/* lone_tcp reads a packet of TCP that is whole and has no options of IP, with its network header at l3, into w's place and key. Other packets are the stack's. */
static __always_inline int lone_tcp(struct __sk_buff *skb, struct work *w, __u32 l3, __be16 proto)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ip4 *four = data + l3;
	struct ip6 *six = data + l3;
	struct tcp_head *tcp;

	if (skb->vlan_present)
		return -1;
	if (proto == bpf_htons(ETH_P_IP)) {
		tcp = (void *)(four + 1);
		if ((void *)(tcp + 1) > end || four->version_ihl != 0x45 || four->proto != IPPROTO_TCP || four->frag & bpf_htons(IP_OFFSET | IP_MF))
			return -1;
		w->p.v6 = 0;
		w->p.l4 = l3 + sizeof(*four);
		map4(w->key.saddr, four->saddr);
		map4(w->key.daddr, four->daddr);
	} else {
		tcp = (void *)(six + 1);
		if (proto != bpf_htons(ETH_P_IPV6) || (void *)(tcp + 1) > end || six->next != IPPROTO_TCP)
			return -1;
		w->p.v6 = 1;
		w->p.l4 = l3 + sizeof(*six);
		copy_addr(w->key.saddr, six->saddr);
		copy_addr(w->key.daddr, six->daddr);
	}
	w->p.l3 = l3;
	w->p.syn = (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	w->p.head = (tcp->offset >> 4) * 4;
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

	if (!w || pairing() == PAIRING_NONE || lone_tcp(skb, w, ETH_HLEN, skb->protocol))
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

	if (!w || pairing() == PAIRING_NONE || lone_tcp(skb, w, ETH_HLEN, skb->protocol) || w->p.syn)
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

	if (!w || pairing() == PAIRING_NONE || lone_tcp(skb, w, ETH_HLEN, skb->protocol) || !w->p.syn)
		return PASS;
	pair_out(&p, w);
	peer = begin_pair(&p, skb->ifindex);
	return peer ? leave(skb, w, peer->via) : PASS;
}

/* for_tunnel says that a packet is the tunnel's, over IPv4 and whole. */
static __always_inline int for_tunnel(struct __sk_buff *skb, const struct tunnel *t)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct outer *o = data + ETH_HLEN;

	if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)&o->len > end)
		return 0;
	return o->ip.version_ihl == 0x45 && o->ip.proto == IPPROTO_UDP && !(o->ip.frag & bpf_htons(IP_OFFSET | IP_MF)) && o->ip.daddr == t->local && o->dport == t->port;
}

/* pair_out_of_tunnel sends a packet of another node's pod that comes by the tunnel straight into this node's pod. PASS: it has to pass the tunnel's device. */
static __always_inline int pair_out_of_tunnel(struct __sk_buff *skb)
{
	const __u32 l3 = ETH_HLEN + sizeof(struct outer);
	__u32 zero = 0, len, family = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);
	struct range *own = bpf_map_lookup_elem(&pods, &family);
	struct tunnel *t = the_tunnel();
	struct outer *o;
	struct peer *peer;
	struct pair p;

	if (!w || !t || !own || !for_tunnel(skb, t) || pairing() == PAIRING_NONE)
		return PASS;
	if ((void *)(long)skb->data + l3 + 40 > (void *)(long)skb->data_end && bpf_skb_pull_data(skb, l3 + 40))
		return PASS;
	o = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(o + 1) > (void *)(long)skb->data_end)
		return PASS;
	if (o->flags != bpf_htonl(VXLAN_FLAGS) || o->vni != t->vni || o->mac.proto != bpf_htons(ETH_P_IP) || !same_mac(o->mac.dst, t->mac) ||
	    (o->ip.tos & ECN_CE) == ECN_CE || lone_tcp(skb, w, l3, bpf_htons(ETH_P_IP)) || !within(own, w->key.daddr))
		return PASS;
	pair_in(&p, w);
	peer = w->p.syn ? begin_pair(&p, 0) : bpf_map_lookup_elem(&pairs, &p);
	len = longest(skb, w);
	if (!peer || bpf_check_mtu(skb, peer->link, &len, 0, 0))
		return PASS;
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(struct outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return PASS;
	return enter(skb, peer, 0, REASON_NOT_SERVICE);
}

#endif
