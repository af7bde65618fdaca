package podset

import (
	"strings"
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

// Who was deleted goes, whatever the cache shows, until it is known or nobody waits for it any more.
func TestGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pod("a", "n", corev1.PodRunning, true), pod("b", "n", corev1.PodRunning, true)
		var e Expectations
		check := func(when, stays, goes string) {
			t.Helper()
			stay, going := e.Going("k", []*corev1.Pod{a, b})
			if got := strings.Join(names(stay), ""); got != stays {
				t.Errorf("%s: %q stay", when, got)
			}
			if got := strings.Join(names(going), ""); got != goes {
				t.Errorf("%s: %q go", when, got)
			}
		}
		check("at first", "ab", "")
		e.Expect("k", 0, UIDs([]*corev1.Pod{b}))
		check("b was deleted", "a", "b")
		e.Deleted("k", b.UID)
		check("it was seen", "ab", "")
		e.Expect("k", 0, UIDs([]*corev1.Pod{a}))
		time.Sleep(patience)
		check("it will not be seen", "ab", "")
	})
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
