package podautoscaler

import (
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// recommendation is what measuring said at a time; change is by how many replicas the scale was changed.
type recommendation struct {
	at       time.Time
	replicas int32
}

// history is what an autoscaler remembers between two looks. It lives in memory.
type history struct {
	recommended []recommendation
	ups, downs  []recommendation
}

// begin takes the size that is found first for a recommendation: who starts to look, after a restart too, does not
// scale down before it has looked for a while.
func (h *history) begin(current int32, now time.Time) {
	if len(h.recommended) == 0 {
		h.recommended = []recommendation{{now.Add(-1), current}} // before now: a window of nothing has it not
	}
}

// since drops what is older than the time.
func since(list []recommendation, t time.Time) []recommendation {
	i := 0
	for i < len(list) && list[i].at.Before(t) {
		i++
	}
	return list[i:]
}

func sum(list []recommendation) (n int32) {
	for _, r := range list {
		n += r.replicas
	}
	return n
}

// decision is how many replicas there are to be, with what stood in the way of more or fewer.
type decision struct {
	replicas int32
	// ready and limited are the conditions AbleToScale and ScalingLimited.
	ready, limited reason
}

type reason struct {
	holds         bool
	name, message string
}

// decide bounds what was wanted by the behavior of the autoscaler. It notes wanted in h, but not yet the change.
func decide(spec *autoscalingv2.HorizontalPodAutoscalerSpec, current, wanted int32, h *history, s Settings, now time.Time) decision {
	least := int32(1)
	if spec.MinReplicas != nil {
		least = *spec.MinReplicas
	}
	up, down := rules(spec, s)
	h.recommended = append(h.recommended, recommendation{now, wanted})
	d := decision{replicas: stable(h, current, up.window, down.window, now),
		ready: reason{true, "ReadyForNewScale", "recommended size matches current size"}}
	switch {
	case d.replicas > wanted && wanted < current:
		d.ready = reason{true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"}
	case d.replicas < wanted && wanted > current:
		d.ready = reason{true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
	}
	h.recommended = since(h.recommended, now.Add(-max(up.window, down.window)))
	d.limited = reason{false, "DesiredWithinRange", "the desired count is within the acceptable range"}
	switch {
	case d.replicas > current:
		limit := up.most(current, h, now)
		d.bound(min(limit, spec.MaxReplicas), limit < spec.MaxReplicas, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate",
			"TooManyReplicas", "the desired replica count is more than the maximum replica count")
	case d.replicas < current:
		limit := down.least(current, h, now)
		d.floor(max(limit, least), limit > least, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
	}
	if d.replicas < least {
		d.replicas, d.limited = least, reason{true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	}
	if d.replicas > spec.MaxReplicas {
		d.replicas, d.limited = spec.MaxReplicas, reason{true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	}
	return d
}

func (d *decision) bound(most int32, byRate bool, rate, rateMessage, range_, rangeMessage string) {
	if d.replicas <= most {
		return
	}
	d.replicas, d.limited = most, reason{true, range_, rangeMessage}
	if byRate {
		d.limited = reason{true, rate, rateMessage}
	}
}

func (d *decision) floor(least int32, byRate bool, rate, rateMessage string) {
	if d.replicas >= least {
		return
	}
	d.replicas, d.limited = least, reason{true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	if byRate {
		d.limited = reason{true, rate, rateMessage}
	}
}

// stable is the newest recommendation, but not below the highest of the window for scaling down, nor above the lowest of
// the window for scaling up.
func stable(h *history, current int32, up, down time.Duration, now time.Time) int32 {
	last := h.recommended[len(h.recommended)-1].replicas
	lowest, highest := last, last
	for _, r := range h.recommended {
		if !r.at.Before(now.Add(-up)) {
			lowest = min(lowest, r.replicas)
		}
		if !r.at.Before(now.Add(-down)) {
			highest = max(highest, r.replicas)
		}
	}
	return min(max(current, lowest), highest)
}

// scaling are the rules of one direction.
type scaling struct {
	window   time.Duration
	policies []autoscalingv2.HPAScalingPolicy
	choose   autoscalingv2.ScalingPolicySelect
	up       bool
}

// rules are those of the spec; what it leaves open is as the API documents it.
func rules(spec *autoscalingv2.HorizontalPodAutoscalerSpec, s Settings) (up, down scaling) {
	up = scaling{up: true, choose: autoscalingv2.MaxChangePolicySelect, policies: []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, {Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}}}
	down = scaling{window: s.Downscale, choose: autoscalingv2.MaxChangePolicySelect,
		policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}}}
	if b := spec.Behavior; b != nil {
		up.take(b.ScaleUp)
		down.take(b.ScaleDown)
	}
	return up, down
}

func (s *scaling) take(r *autoscalingv2.HPAScalingRules) {
	if r == nil {
		return
	}
	if r.StabilizationWindowSeconds != nil {
		s.window = time.Duration(*r.StabilizationWindowSeconds) * time.Second
	}
	if r.SelectPolicy != nil {
		s.choose = *r.SelectPolicy
	}
	if len(r.Policies) > 0 {
		s.policies = r.Policies
	}
}

// most is up to how many replicas the policies for scaling up let it grow now.
func (s scaling) most(current int32, h *history, now time.Time) int32 {
	if s.choose == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var limits []int32
	for _, p := range s.policies {
		period := time.Duration(p.PeriodSeconds) * time.Second
		from := current - sum(since(h.ups, now.Add(-period))) + sum(since(h.downs, now.Add(-period)))
		limit := int64(from) + int64(p.Value)
		if p.Type == autoscalingv2.PercentScalingPolicy {
			limit = int64(math.Ceil(float64(from) * (1 + float64(p.Value)/100)))
		}
		limits = append(limits, int32(min(limit, math.MaxInt32)))
	}
	return max(pick(limits, s.choose == autoscalingv2.MaxChangePolicySelect), current)
}

// least is down to how many it may shrink.
func (s scaling) least(current int32, h *history, now time.Time) int32 {
	if s.choose == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var limits []int32
	for _, p := range s.policies {
		period := time.Duration(p.PeriodSeconds) * time.Second
		from := current - sum(since(h.ups, now.Add(-period))) + sum(since(h.downs, now.Add(-period)))
		limit := from - p.Value
		if p.Type == autoscalingv2.PercentScalingPolicy {
			limit = int32(float64(from) * (1 - float64(p.Value)/100))
		}
		limits = append(limits, limit)
	}
	return min(pick(limits, s.choose == autoscalingv2.MinChangePolicySelect), current)
}

func pick(limits []int32, largest bool) int32 {
	out := limits[0]
	for _, l := range limits {
		if largest {
			out = max(out, l)
		} else {
			out = min(out, l)
		}
	}
	return out
}

// changed notes that the scale was changed.
func (h *history) changed(from, to int32, spec *autoscalingv2.HorizontalPodAutoscalerSpec, s Settings, now time.Time) {
	up, down := rules(spec, s)
	longest := time.Duration(0)
	for _, p := range append(up.policies[:len(up.policies):len(up.policies)], down.policies...) {
		longest = max(longest, time.Duration(p.PeriodSeconds)*time.Second)
	}
	h.ups, h.downs = since(h.ups, now.Add(-longest)), since(h.downs, now.Add(-longest))
	if to > from {
		h.ups = append(h.ups, recommendation{now, to - from})
	} else if to < from {
		h.downs = append(h.downs, recommendation{now, from - to})
	}
}

// tolerancesOf are the spec's own, or the settings'.
func tolerancesOf(spec *autoscalingv2.HorizontalPodAutoscalerSpec, s Settings) tolerances {
	t := tolerances{s.Tolerance, s.Tolerance}
	if b := spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}

// describe is why a metric led to a size, in the words of upstream's event.
func describe(w want) string {
	where := "resource"
	if w.container != "" {
		where = "container resource"
	}
	if w.utilization != nil {
		return fmt.Sprintf("%s %s utilization (percentage of request)", w.resource, where)
	}
	return fmt.Sprintf("%s %s", w.resource, where)
}
