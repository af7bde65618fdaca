package podset

import (
	"testing"
	"testing/synctest"
	"time"

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

// A watch that was cut off may never bring what was expected. That must end by itself.
func TestExpectationsEndByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e Expectations
		if e.Left("k") != 0 {
			t.Error("held up by nothing")
		}
		e.Expect("k", 2, nil)
		time.Sleep(time.Minute)
		e.Created("k")
		if got := e.Left("k"); got != patience-time.Minute || e.Satisfied("k") {
			t.Errorf("left %v", got)
		}
		time.Sleep(e.Left("k"))
		if !e.Satisfied("k") {
			t.Errorf("it sticks: %v left", e.Left("k"))
		}
	})
}
