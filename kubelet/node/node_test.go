package node

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestConditions(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	old := metav1.Time{Time: now.Add(-time.Hour)}
	before := []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, LastTransitionTime: old}, {Type: v1.NodeDiskPressure, Status: v1.ConditionFalse, LastTransitionTime: old}}
	got := map[v1.NodeConditionType]v1.NodeCondition{}
	for _, c := range conditions(pressure{disk: true}, nil, before, now) {
		got[c.Type] = c
	}
	if c := got[v1.NodeReady]; c.Status != v1.ConditionTrue || c.Reason != "KubeletReady" || !c.LastTransitionTime.Equal(&old) {
		t.Errorf("ready %+v", c)
	}
	if c := got[v1.NodeDiskPressure]; c.Status != v1.ConditionTrue || c.LastTransitionTime.Equal(&old) {
		t.Errorf("disk %+v", c)
	}
	for _, c := range conditions(pressure{}, errors.New("no network"), before, now) {
		if c.Type == v1.NodeReady && (c.Status != v1.ConditionFalse || c.Message != "no network") {
			t.Errorf("not ready %+v", c)
		}
	}
}

func TestAllocatable(t *testing.T) {
	got := allocatable(v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi")},
		v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("2Gi")})
	if got.Cpu().MilliValue() != 1500 || got.Memory().Value() != 0 {
		t.Errorf("%v", got)
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
	if len(told) != 1 || told[0] != "NodeReady" {
		t.Errorf("told %v", told)
	}
}
