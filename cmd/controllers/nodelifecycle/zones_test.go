package nodelifecycle

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	topology "k8s.io/component-helpers/node/topology"
)

// zone is so many nodes of a zone, of which so many are down.
func zone(name string, all, down int) (nodes []*corev1.Node) {
	for i := range all {
		n := node(corev1.ConditionTrue)
		if i < down {
			n = node(corev1.ConditionUnknown)
		}
		n.Name, n.Labels = fmt.Sprint(name, i), map[string]string{corev1.LabelTopologyZone: name}
		nodes = append(nodes, n)
	}
	return nodes
}

func TestZones(t *testing.T) {
	for _, tc := range []struct {
		all, down int
		want      Zone
	}{
		{3, 0, Zone{Normal, 0.1}}, {3, 2, Zone{Normal, 0.1}}, {3, 3, Zone{FullDisruption, 0.1}}, {4, 3, Zone{PartialDisruption, 0}},
		{20, 10, Zone{Normal, 0.1}}, {20, 11, Zone{PartialDisruption, 0}}, {50, 49, Zone{PartialDisruption, 0}}, {51, 49, Zone{PartialDisruption, 0.01}},
		{51, 51, Zone{FullDisruption, 0.1}},
	} {
		nodes := append(zone("a", tc.all, tc.down), zone("b", 5, 0)...)
		zones := Zones(nodes, Defaults())
		if got := zones[topology.GetZoneKey(nodes[0])]; got != tc.want || len(zones) != 2 {
			t.Errorf("%d of %d down: %v, want %v", tc.down, tc.all, got, tc.want)
		}
	}
	nodes := zone("a", 4, 3)
	nodes[3].Labels[excluded] = "" // a node that is no witness
	if got := Zones(nodes, Defaults())[topology.GetZoneKey(nodes[0])]; got.State != FullDisruption {
		t.Errorf("of those that count all are down: %v", got)
	}
}

// Every ten seconds one node of a zone begins to lose its pods; while most of a zone is down, none; and where no node at all
// is up, those that began are spared.
func TestNodesAreEmptiedInTurn(t *testing.T) {
	client := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(client, 0) // never started: the test is what the cache shows
	c, err := New(Defaults(), client, shared, shared.Coordination().V1().Leases(), record.NewFakeRecorder(10), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	known := shared.Core().V1().Nodes().Informer().GetIndexer()
	set := func(nodes ...*corev1.Node) {
		for _, n := range nodes {
			if err := known.Add(n); err != nil {
				t.Fatal(err)
			}
			if _, err := client.CoreV1().Nodes().Get(t.Context(), n.Name, metav1.GetOptions{}); err != nil {
				if _, err := client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	began := time.Now()
	// look syncs the nodes of a zone, so many seconds after it began, and returns how many of them lose their pods.
	look := func(seconds int, nodes ...*corev1.Node) (leaving int) {
		for _, n := range nodes {
			live, err := client.CoreV1().Nodes().Get(t.Context(), n.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			live.Status = n.Status
			if err := c.taint(t.Context(), live, metav1.NewTime(began.Add(time.Duration(seconds)*time.Second))); err != nil {
				t.Fatal(err)
			}
			if live, err = client.CoreV1().Nodes().Get(t.Context(), n.Name, metav1.GetOptions{}); err != nil {
				t.Fatal(err)
			}
			if sends(live.Spec.Taints) {
				leaving++
			}
		}
		return leaving
	}
	a, b := zone("a", 8, 4), zone("b", 8, 1)
	set(a...)
	set(b...)
	for i, want := range []int{0: 1, 5: 1, 9: 1, 10: 2, 15: 2, 20: 3} {
		if want > 0 {
			if got := look(i, a...); got != want {
				t.Errorf("after %d s: %d nodes lose their pods, want %d", i, got, want)
			}
		}
	}
	if got := look(1, b...); got != 1 {
		t.Errorf("of another zone: %d", got)
	}
	set(zone("a", 8, 6)...) // most of it
	if got := look(100, zone("a", 8, 6)...); got != 3 {
		t.Errorf("with most of the zone down: %d, want those that began", got)
	}
	set(zone("a", 8, 8)...) // all of it: b can take them
	if got := look(200, zone("a", 8, 8)...); got != 4 {
		t.Errorf("with all of the zone down: %d, want one more", got)
	}
	set(zone("b", 8, 8)...)
	if got := look(300, zone("a", 8, 8)...) + look(300, zone("b", 8, 8)...); got != 0 {
		t.Errorf("with nobody up: %d", got)
	}
}
