package nodelifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	topology "k8s.io/component-helpers/node/topology"
)

// excluded is the label of nodes that say nothing about their zone.
const excluded = "node.kubernetes.io/exclude-disruption"

// State is how a zone does.
type State string

// The states. Where all of a zone is down it is the zone that failed, and others can take its pods; where most of it is,
// what fails may as well be the way to it.
const (
	Normal            State = "Normal"
	PartialDisruption State = "PartialDisruption"
	FullDisruption    State = "FullDisruption"
)

// Zone is how a zone does, and how many of its nodes a second may be given a taint that sends pods away: 0 is none.
type Zone struct {
	State State
	Rate  float64
}

// Zones judges every zone that has nodes, by its key; nodes without labels of a zone are one.
func Zones(nodes []*corev1.Node, cfg Config) map[string]Zone {
	type count struct{ ready, down int }
	counts := map[string]count{}
	for _, n := range nodes {
		c := counts[topology.GetZoneKey(n)]
		switch _, out := n.Labels[excluded]; {
		case out:
		case readyStatus(n) == corev1.ConditionTrue:
			c.ready++
		default:
			c.down++
		}
		counts[topology.GetZoneKey(n)] = c
	}
	zones := make(map[string]Zone, len(counts))
	for key, c := range counts {
		zone := Zone{Normal, cfg.EvictionRate}
		switch {
		case c.ready == 0 && c.down > 0:
			zone.State = FullDisruption
		case c.down < 3 || float64(c.down)/float64(c.ready+c.down) < cfg.UnhealthyZone: // two may always fail
		case c.ready+c.down > cfg.LargeZone:
			zone = Zone{PartialDisruption, cfg.SecondaryEvictionRate}
		default:
			zone = Zone{PartialDisruption, 0}
		}
		zones[key] = zone
	}
	return zones
}

// turn takes the next turn of that zone to give a node such a taint, and returns 0; or how long to wait for one, below 0
// where there is none.
func (c *Controller) turn(key string, rate float64, now time.Time) time.Duration {
	if rate <= 0 {
		return -1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if next := c.turns[key].Add(time.Duration(float64(time.Second) / rate)); next.After(now) {
		return next.Sub(now)
	}
	c.turns[key] = now
	return 0
}

// giveBack lets somebody else have the turn, as the taint was not written.
func (c *Controller) giveBack(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.turns, key)
}

// tellZones logs what became of zones.
func (c *Controller) tellZones(nodes []*corev1.Node) {
	zones := Zones(nodes, c.cfg)
	for key, zone := range zones {
		if was, known := c.zones[key]; zone.State != was.State && (known || zone.State != Normal) {
			c.log.Info("zone is in a new state", "zone", key, "state", zone.State, "nodesPerSecond", zone.Rate)
		}
	}
	c.zones = zones
}
