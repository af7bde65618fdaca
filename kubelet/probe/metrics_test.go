package probe

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMetricsForgetPods(t *testing.T) {
	m := NewMetrics()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
	m.Asked(pod, "c", Liveness, "failed", time.Second)
	m.Asked(pod, "c", Liveness, "successful", time.Second)
	if n := testutil.CollectAndCount(m); n != 3 {
		t.Errorf("want two counts and one duration, got %d", n)
	}
	m.Forget("ns", "p", "u")
	if n := testutil.CollectAndCount(m); n != 0 {
		t.Errorf("want nothing of a pod that is gone, got %d", n)
	}
}
