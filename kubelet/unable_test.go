package kubelet

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// What nobody here can give a pod, it does not run without.
func TestUnable(t *testing.T) {
	no := false
	for what, spec := range map[string]v1.PodSpec{
		"hostUsers: false": {HostUsers: &no},
		"resourceClaims":   {ResourceClaims: []v1.PodResourceClaim{{Name: "gpu"}}},
	} {
		if err := new(worker).unable(t.Context(), &v1.Pod{Spec: spec}); err == nil || !strings.HasPrefix(err.Error(), what+": this kubelet does not support") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := new(worker).unable(t.Context(), &v1.Pod{}); err != nil {
		t.Error(err)
	}
}
