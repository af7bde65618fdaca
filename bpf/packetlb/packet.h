/* Reading and writing of headers. What goes wrong with a packet is named by a reason. */
#ifndef PACKETLB_PACKET_H
#define PACKETLB_PACKET_H

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_HLEN 14
#define IP_OFFSET 0x1fff
#define IP_MF 0x2000
#define NEXTHDR_FRAGMENT 44

struct tcp_head {
	__be16 sport, dport;
	__be32 seq, ack;
	__u8 offset, flags;
};
#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

struct ip4 {
	__u8 version_ihl, tos;
	__be16 len, id, frag;
	__u8 ttl, proto;
	__be16 check;
	__be32 saddr, daddr;
};

struct ip6 {
	__be32 first;
	__be16 len;
	__u8 next, hops;
	__be32 saddr[4], daddr[4];
};

struct frag6 {
	__u8 next, reserved;
	__be16 offset;
	__be32 id;
};

/* packet is where things are in a packet, and what a program needs to know of it. */
struct packet {
	__u32 l3, l4; /* offsets */
	__u8 v6;
	__u8 fragment; /* the first of several, or */
	__u8 later; /* one after it, without ports */
	__u8 syn; /* and no ack */
	__u8 ends; /* fin or rst */
	__u8 head; /* bytes of the header at l4 */
	__be32 id;
};

/* work is what would not fit the stack. */
struct work {
	struct packet p;
	struct tuple key;
	struct flow flow;
	struct tuple other;
	struct flow partner;
	struct fragment fragment;
	struct endpoint backend;
};

static __always_inline void map4(__be32 *to, __be32 addr)
{
	to[0] = to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = addr;
}

static __always_inline void copy_addr(__be32 *to, const __be32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

/* parse_ip reads the network header at p->l3 into key's addresses and protocol. */
static __always_inline int parse_ip(struct __sk_buff *skb, struct packet *p, struct tuple *key)
{
	if (!p->v6) {
		struct ip4 ip;
		__u16 frag;

		if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) || (ip.version_ihl & 0xf0) != 0x40 || (ip.version_ihl & 15) < 5)
			return -1;
		p->l4 = p->l3 + (ip.version_ihl & 15) * 4;
		frag = bpf_ntohs(ip.frag);
		p->later = (frag & IP_OFFSET) != 0;
		p->fragment = !p->later && (frag & IP_MF);
		p->id = ip.id;
		key->proto = ip.proto;
		map4(key->saddr, ip.saddr);
		map4(key->daddr, ip.daddr);
	} else {
		struct ip6 ip;

		if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) || (ip.first & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
			return -1;
		p->l4 = p->l3 + sizeof(ip);
		p->later = p->fragment = 0;
		key->proto = ip.next;
		copy_addr(key->saddr, ip.saddr);
		copy_addr(key->daddr, ip.daddr);
		if (ip.next == NEXTHDR_FRAGMENT) {
			struct frag6 fh;

			if (bpf_skb_load_bytes(skb, p->l4, &fh, sizeof(fh)))
				return -1;
			p->l4 += sizeof(fh);
			p->later = (fh.offset & bpf_htons(0xfff8)) != 0;
			p->fragment = !p->later && (fh.offset & bpf_htons(1));
			p->id = fh.id;
			key->proto = fh.next;
		}
	}
	return 0;
}

/* parse_ports reads what follows the network header: the ports, and of TCP whether it begins or ends a connection. */
static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *p, struct tuple *key)
{
	if (key->proto == IPPROTO_TCP) {
		struct tcp_head tcp;

		if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
			return -1;
		key->sport = tcp.sport;
		key->dport = tcp.dport;
		p->syn = (tcp.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		p->ends = (tcp.flags & (TCP_FIN | TCP_RST)) != 0;
		p->head = (tcp.offset >> 4) * 4;
	} else {
		struct ports ports;

		if (bpf_skb_load_bytes(skb, p->l4, &ports, sizeof(ports)))
			return -1;
		key->sport = ports.sport;
		key->dport = ports.dport;
		p->syn = p->ends = 0;
		p->head = 8;
	}
	return 0;
}

/* change is the difference of checksums between the addresses of a tuple and of a flow, which follow each other in both. */
static __always_inline __u32 change(const struct packet *p, struct tuple *old, struct flow *new)
{
	if (p->v6)
		return bpf_csum_diff(old->saddr, 32, new->saddr, 32, 0);
	__be32 from[2] = { old->saddr[3], old->daddr[3] }, to[2] = { new->saddr[3], new->daddr[3] };

	return bpf_csum_diff(from, 8, to, 8, 0);
}

static __always_inline __u32 both(__be16 sport, __be16 dport)
{
	struct ports p = { sport, dport };

	return *(__u32 *)&p;
}

/* write_addrs stores addresses into the network header at p->l3, and diff into its checksum where it has one. sum says that the kernel's own sum over
 * the packet has to follow: of IPv4 the header's checksum keeps it as it is. */
static __always_inline int write_addrs(struct __sk_buff *skb, const struct packet *p, struct flow *new, __u32 diff, __u64 sum)
{
	if (p->v6)
		return bpf_skb_store_bytes(skb, p->l3 + 8, new->saddr, 32, sum);
	__be32 to[2] = { new->saddr[3], new->daddr[3] };

	return bpf_l3_csum_replace(skb, p->l3 + 10, 0, diff, 0) || bpf_skb_store_bytes(skb, p->l3 + 12, to, 8, 0);
}

/* rewrite makes w->key's packet w->flow's. Checksums change by the difference: whether they are whole, still to be completed by a device,
 * or of UDP absent, they stay what they were, and a packet that came damaged goes on damaged. */
static __noinline int rewrite(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->p;
	__u32 diff = change(p, &w->key, &w->flow), from = both(w->key.sport, w->key.dport), to = both(w->flow.sport, w->flow.dport);

	if (!p->later) {
		__u32 at = p->l4 + (w->key.proto == IPPROTO_TCP ? 16 : 6);
		__u64 flags = w->key.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

		if (bpf_l4_csum_replace(skb, at, 0, diff, flags | BPF_F_PSEUDO_HDR))
			return -1;
		if (from != to && (bpf_l4_csum_replace(skb, at, from, to, flags | 4) || bpf_skb_store_bytes(skb, p->l4, &to, 4, 0)))
			return -1;
	}
	return write_addrs(skb, p, &w->flow, diff, BPF_F_RECOMPUTE_CSUM);
}

#endif
