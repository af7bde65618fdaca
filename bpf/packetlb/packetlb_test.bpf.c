//go:build ignore

/* The same programs at a time that the test sets. */
#include "packetlb.bpf.c"

volatile __u32 now = 1000;

SEC("tc") int from_outside_now(struct __sk_buff *skb)
{
	return into_pod(skb, passing(skb, DIRECTION_IN) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_IN, SCOPE_OUTSIDE, now), now);
}

SEC("tc") int to_device_now(struct __sk_buff *skb)
{
	return verdict(passing(skb, DIRECTION_OUT) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_OUT, SCOPE_OUTSIDE, now));
}

SEC("tc") int from_pod_now(struct __sk_buff *skb)
{
	int out = out_of_pod(skb);

	if (out != PASS)
		return out;
	return verdict(quiet(skb, DIRECTION_IN) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_IN, SCOPE_INSIDE, now));
}

SEC("tc") int to_pod_now(struct __sk_buff *skb)
{
	return verdict(quiet(skb, DIRECTION_OUT) ? REASON_NOT_SERVICE : decide(skb, DIRECTION_OUT, SCOPE_INSIDE, now));
}
