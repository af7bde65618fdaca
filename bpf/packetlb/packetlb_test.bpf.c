//go:build ignore

/* The same programs at a time that the test sets. */
#include "packetlb.bpf.c"

volatile __u32 now = 1000;

SEC("tc") int from_outside_now(struct __sk_buff *skb) { return at_outside_in(skb, now); }

SEC("tc") int to_device_now(struct __sk_buff *skb) { return at_outside_out(skb, now); }

SEC("tc") int from_pod_now(struct __sk_buff *skb) { return at_pod_in(skb, now); }

SEC("tc") int to_pod_now(struct __sk_buff *skb) { return at_pod_out(skb, now); }
