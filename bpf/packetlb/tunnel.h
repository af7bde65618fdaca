/* What connections of pods say through a VXLAN tunnel over IPv4, without the tunnel's device: it would look up the way, filter and track each packet once more, and have
 * those that come wait in a queue of its own. All else, and what is not as simple as expected, passes the device. */
#ifndef PACKETLB_TUNNEL_H
#define PACKETLB_TUNNEL_H

#define VXLAN_FLAGS 0x08000000 /* RFC 7348, section 5: the network's number holds */
#define ECN_CE 3

struct mac {
	__u8 dst[6], src[6];
	__be16 proto;
} __attribute__((packed));

/* outer is what the tunnel puts before a packet's network header, after the frame's own Ethernet header. */
struct outer {
	struct ip4 ip;
	__be16 sport, dport, len, check;
	__be32 flags, vni;
	struct mac mac;
} __attribute__((packed));

static __always_inline struct tunnel *the_tunnel(void)
{
	__u32 zero = 0;
	struct tunnel *t = bpf_map_lookup_elem(&tunnels, &zero);

	return t && t->link ? t : 0;
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

static __always_inline __be16 header_sum(const struct ip4 *ip)
{
	__u32 sum = bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* into_tunnel puts a packet of IPv4 into the tunnel and sends it on. len is that of the longest segment of it, from its network header on, mac whom the tunnel's device would send
 * it to. PASS: the device has to. */
static __always_inline int into_tunnel(struct __sk_buff *skb, struct tunnel *t, struct end *to, __u32 len, __u32 via, __u32 tos)
{
	struct bpf_fib_lookup fib = { .family = AF_INET, .ifindex = via, .l4_protocol = IPPROTO_UDP, .dport = t->port, .tot_len = len + sizeof(struct outer) };
	__u32 *remote = bpf_map_lookup_elem(&ends, to), hash = bpf_get_hash_recalc(skb);
	struct bpf_redir_neigh next = { .nh_family = AF_INET };
	struct ip4 ip = { .version_ihl = 0x45, .ttl = 64, .proto = IPPROTO_UDP, .saddr = t->local, .id = bpf_get_prandom_u32() };
	struct outer o = {
		.sport = bpf_htons(0xc000 | (hash ^ hash >> 16)), .dport = t->port, .flags = bpf_htonl(VXLAN_FLAGS), .vni = t->vni, .mac = { .proto = bpf_htons(ETH_P_IP) },
	};
	long got;

	if (!remote || skb->len - ETH_HLEN > 0xffff - sizeof(o)) /* "big TCP": the headers outside cannot say such a length */
		return PASS;
	fib.ipv4_src = t->local;
	fib.ipv4_dst = *remote;
	fib.sport = o.sport;
	got = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if ((got != BPF_FIB_LKUP_RET_SUCCESS && got != BPF_FIB_LKUP_RET_NO_NEIGH) || fib.ifindex == t->link || fib.family != AF_INET)
		return PASS;
	if (bpf_skb_adjust_room(skb, sizeof(o), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
				BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return PASS;
	len = skb->len - ETH_HLEN;
	ip.tos = (tos & ECN_CE) == ECN_CE ? 2 : tos & ECN_CE; /* RFC 6040, section 4.1, compatibility with what the device does */
	ip.len = bpf_htons(len);
	ip.daddr = *remote;
	ip.check = header_sum(&ip);
	o.ip = ip;
	o.len = bpf_htons(len - sizeof(ip));
	__builtin_memcpy(o.mac.dst, to->mac, 6);
	__builtin_memcpy(o.mac.src, t->mac, 6);
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &o, sizeof(o), 0))
		return DROP;
	next.ipv4_nh = fib.ipv4_dst;
	return bpf_redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}

#endif
