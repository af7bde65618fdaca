package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a cache leaves of a pod says still what it needs.
func TestNeedsAreKept(t *testing.T) {
	p := testPod("p", wantsRestarts)
	p.Spec.InitContainers = []corev1.Container{{Name: "i", VolumeMounts: []corev1.VolumeMount{{Name: "a"}, {Name: "b", BindMountOptions: []string{"noexec"}}}}}
	want := undeclared(needs(&p.Spec), testNode("n"))
	if _, err := strip(p); err != nil {
		t.Fatal(err)
	}
	if got := undeclared(needs(&p.Spec), testNode("n")); len(want) != 2 || len(got) != 2 || len(p.Spec.InitContainers[0].VolumeMounts) != 1 {
		t.Errorf("needs %v, before %v; %+v", got, want, p.Spec.InitContainers)
	}
}
