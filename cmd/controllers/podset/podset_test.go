package podset

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// The end of a pod that was gone already has been seen, perhaps before it was expected: nobody may wait for it.
func TestNothingComesOfAPodThatIsGone(t *testing.T) {
	there := pod("there", "n", corev1.PodRunning, true)
	there.Namespace = "ns"
	gone := there.DeepCopy()
	gone.Name = "gone"
	pods := Pods{Client: fake.NewClientset(there), Events: record.NewFakeRecorder(9)}
	for _, tc := range []struct {
		pod    *corev1.Pod
		coming bool
	}{{there, true}, {gone, false}} {
		coming, err := pods.Delete(t.Context(), there, tc.pod)
		if err != nil || coming != tc.coming {
			t.Errorf("%s: coming %t (%v)", tc.pod.Name, coming, err)
		}
	}
}
