package node

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/kubelet/eviction"
)

func TestConditions(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	old := metav1.Time{Time: now.Add(-time.Hour)}
	before := []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, LastTransitionTime: old}, {Type: v1.NodeDiskPressure, Status: v1.ConditionFalse, LastTransitionTime: old}}
	got := map[v1.NodeConditionType]v1.NodeCondition{}
	for _, c := range conditions([]v1.NodeConditionType{v1.NodeDiskPressure}, nil, before, now) {
		got[c.Type] = c
	}
	if c := got[v1.NodeReady]; c.Status != v1.ConditionTrue || c.Reason != "KubeletReady" || !c.LastTransitionTime.Equal(&old) {
		t.Errorf("ready %+v", c)
	}
	if c := got[v1.NodeDiskPressure]; c.Status != v1.ConditionTrue || c.LastTransitionTime.Equal(&old) {
		t.Errorf("disk %+v", c)
	}
	for _, c := range conditions(nil, errors.New("no network"), before, now) {
		if c.Type == v1.NodeReady && (c.Status != v1.ConditionFalse || c.Message != "no network") {
			t.Errorf("not ready %+v", c)
		}
	}
}

func TestAllocatable(t *testing.T) {
	capacity := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourceEphemeralStorage: resource.MustParse("10Gi")}
	cfg := Config{Reserved: v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("200Mi")},
		Thresholds: []eviction.Threshold{{Signal: eviction.MemoryAvailable, Below: eviction.Amount{Number: 100 << 20}},
			{Signal: eviction.MemoryAvailable, Below: eviction.Amount{Number: 300 << 20}, Grace: time.Minute},
			{Signal: eviction.NodeFsAvailable, Below: eviction.Amount{Share: .1}}}}
	got := Allocatable(capacity, cfg)
	if got.Cpu().MilliValue() != 1500 || got.Memory().Value() != 724<<20 || got.StorageEphemeral().Value() != 9<<30 {
		t.Errorf("allocatable %v", got)
	}
	if got = Bound(capacity, cfg); got.Memory().Value() != 824<<20 || got.StorageEphemeral().Value() != 10<<30 {
		t.Errorf("pods are bounded to %v: eviction must begin before the kernel kills", got)
	}
	cfg.Reserved[v1.ResourceMemory] = resource.MustParse("2Gi")
	if got = Allocatable(capacity, cfg); got.Memory().Value() != 0 {
		t.Errorf("allocatable %v where more is reserved than there is", got)
	}
}

func TestTransitionsAreTold(t *testing.T) {
	var told []string
	n, err := New(Config{Name: "n", IPs: []string{"192.0.2.1"}}, Machine{}, nil, func(_ bool, reason, _ string) { told = append(told, reason) }, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	n.tellTransitions([]v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}}, []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}})
	n.tellTransitions([]v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}, []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}})
	n.tellTransitions(nil, []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse}, {Type: v1.NodeDiskPressure, Status: v1.ConditionFalse}})
	n.tellCordon(false)
	n.tellCordon(true)
	n.tellCordon(true)
	n.tellCordon(false)
	if want := []string{"NodeReady", "NodeHasNoDiskPressure", "NodeNotSchedulable", "NodeSchedulable"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}
