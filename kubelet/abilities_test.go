package kubelet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAbilities(t *testing.T) {
	for name, st := range map[string]*runtimeapi.StatusResponse{"not asked": nil, "containerd 1.6": {Status: &runtimeapi.RuntimeStatus{}}} {
		if h, f := abilities(st); h != nil || f != nil {
			t.Errorf("%s: %v, %v", name, h, f)
		}
	}
	handlers, features := abilities(&runtimeapi.StatusResponse{
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{}, {Name: "runc", Features: &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: true, UserNamespaces: true}}},
	})
	wantHandlers := []v1.NodeRuntimeHandler{
		{Features: &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: new(false), UserNamespaces: new(false)}},
		{Name: "runc", Features: &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: new(true), UserNamespaces: new(false)}},
	}
	if d := cmp.Diff(wantHandlers, handlers) + cmp.Diff(&v1.NodeFeatures{SupplementalGroupsPolicy: new(true)}, features); d != "" {
		t.Error(d)
	}
}

func TestStrictGroups(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{}}}
	if strictGroups(&v1.Pod{}) || strictGroups(pod) {
		t.Error("pods that say nothing want strict groups")
	}
	pod.Spec.SecurityContext.SupplementalGroupsPolicy = new(v1.SupplementalGroupsPolicyMerge)
	if strictGroups(pod) {
		t.Error("merged groups are strict")
	}
	pod.Spec.SecurityContext.SupplementalGroupsPolicy = new(v1.SupplementalGroupsPolicyStrict)
	if !strictGroups(pod) {
		t.Error("strict groups are not")
	}
}
