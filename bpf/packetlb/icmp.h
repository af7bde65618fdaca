/* ICMP errors about translated packets. An error goes the way of an answer, so what it quotes is looked up the other way round: the
 * receiver must find in it what it sent, or it learns neither the path's MTU nor that nobody listens. */
#ifndef PACKETLB_ICMP_H
#define PACKETLB_ICMP_H

#define ICMP_REDIRECT 5

static __always_inline int is_error(const struct packet *p, __u8 type)
{
	if (p->v6)
		return type >= 1 && type <= 4;
	return type == 3 || type == 4 || type == ICMP_REDIRECT || type == 11 || type == 12;
}

/* fold is what a checksum becomes by a difference. */
static __always_inline __u16 fold(__u16 check, __u32 diff)
{
	__u64 sum = (__u64)(__u16)~check + diff;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(__u16)sum;
}

/* quoted_check keeps the checksum in the quoted TCP or UDP header right, if it is quoted at all, and check, ICMP's, with it. */
static __always_inline int quoted_check(struct __sk_buff *skb, struct work *w, __u32 l4, __u32 check, __u32 addrs, __u32 from, __u32 to)
{
	__u32 at = l4 + (w->key.proto == IPPROTO_TCP ? 16 : 6);
	__u16 old, new;

	if (bpf_skb_load_bytes(skb, at, &old, 2))
		return 0;
	if (w->key.proto == IPPROTO_UDP && !old)
		return 0;
	new = fold(fold(old, addrs), bpf_csum_diff(&from, 4, &to, 4, 0));
	if (w->key.proto == IPPROTO_UDP && !new)
		new = 0xffff;
	return bpf_skb_store_bytes(skb, at, &new, 2, 0) || bpf_l4_csum_replace(skb, check, old, new, 2);
}

static __always_inline int equal_addr(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* requote translates the error at outer, whose quote, the other way round, is w->key's and becomes w->flow's. w->other has its addresses. */
static __always_inline int requote(struct __sk_buff *skb, struct work *w, struct packet *outer)
{
	__u32 check = outer->l4 + 2, diff, quote, from, to;

	/* The quote's own addresses and ports are the other way round, which a sum does not see. */
	quote = change(&w->p, &w->key, &w->flow);
	from = both(w->key.dport, w->key.sport);
	to = both(w->flow.dport, w->flow.sport);
	if (quoted_check(skb, w, w->p.l4, check, quote, from, to))
		return -1;
	if (from != to && (bpf_l4_csum_replace(skb, check, from, to, 4) || bpf_skb_store_bytes(skb, w->p.l4, &to, 4, 0)))
		return -1;
	if (w->p.v6 && bpf_l4_csum_replace(skb, check, 0, quote, 0))
		return -1;
	/* The error's receiver is the quote's sender; its sender is a router, or the quote's receiver. */
	w->partner = w->flow;
	copy_addr(w->partner.saddr, w->flow.daddr);
	copy_addr(w->partner.daddr, w->flow.saddr);
	if (write_addrs(skb, &w->p, &w->partner, quote, 0))
		return -1;
	if (equal_addr(w->other.daddr, w->key.daddr))
		copy_addr(w->partner.daddr, w->flow.daddr);
	else
		copy_addr(w->partner.daddr, w->other.daddr);
	if (equal_addr(w->other.saddr, w->key.saddr))
		copy_addr(w->partner.saddr, w->flow.saddr);
	else
		copy_addr(w->partner.saddr, w->other.saddr);
	diff = change(outer, &w->other, &w->partner);
	if (outer->v6 && bpf_l4_csum_replace(skb, check, 0, diff, BPF_F_PSEUDO_HDR))
		return -1;
	return write_addrs(skb, outer, &w->partner, diff, BPF_F_RECOMPUTE_CSUM);
}

/* translate_error looks at a packet of ICMP. Its quote takes the place of the packet in w. */
static __noinline enum reason translate_error(struct __sk_buff *skb, struct work *w)
{
	struct packet outer = w->p;
	struct flow *fl;
	__u8 type;

	if (outer.later || outer.fragment)
		return REASON_NOT_SERVICE;
	if (bpf_skb_load_bytes(skb, outer.l4, &type, 1))
		return REASON_MALFORMED;
	if (!is_error(&outer, type))
		return REASON_NOT_SERVICE;
	w->p.l3 = outer.l4 + 8;
	if (parse_ip(skb, &w->p, &w->other) || w->p.later)
		return REASON_NOT_SERVICE;
	if (w->other.proto != IPPROTO_TCP && w->other.proto != IPPROTO_UDP)
		return REASON_NOT_SERVICE;
	struct ports ports;

	if (bpf_skb_load_bytes(skb, w->p.l4, &ports, sizeof(ports)))
		return REASON_NOT_SERVICE;
	/* w->key has the error's addresses, w->other the quote's: each goes where it is looked for. */
	w->partner.saddr[0] = 0;
	copy_addr(w->partner.saddr, w->key.saddr);
	copy_addr(w->partner.daddr, w->key.daddr);
	copy_addr(w->key.saddr, w->other.daddr);
	copy_addr(w->key.daddr, w->other.saddr);
	copy_addr(w->other.saddr, w->partner.saddr);
	copy_addr(w->other.daddr, w->partner.daddr);
	w->key.proto = w->other.proto;
	w->key.sport = ports.dport;
	w->key.dport = ports.sport;
	fl = bpf_map_lookup_elem(&flows, &w->key);
	if (!fl)
		return REASON_NOT_SERVICE;
	if (!outer.v6 && type == ICMP_REDIRECT)
		return REASON_REDIRECT;
	w->flow = *fl;
	return requote(skb, w, &outer) ? REASON_NOT_WRITTEN : REASON_ICMP;
}

#endif
