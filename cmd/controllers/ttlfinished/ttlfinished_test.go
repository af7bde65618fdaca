package ttlfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDue(t *testing.T) {
	end, ttl := metav1.Unix(1000, 0), int32(60)
	over := []batchv1.JobCondition{{Type: batchv1.JobSuccessCriteriaMet, Status: "True"}, {Type: batchv1.JobFailed, Status: "True", LastTransitionTime: end}}
	for name, tc := range map[string]struct {
		ttl        *int32
		conditions []batchv1.JobCondition
		deleted    *metav1.Time
		ever       bool
	}{
		"finished":      {&ttl, over, nil, true},
		"running":       {&ttl, over[:1], nil, false},
		"stays":         {nil, over, nil, false},
		"goes already":  {&ttl, over, &end, false},
		"not concluded": {&ttl, []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: "False"}}, nil, false},
	} {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: tc.deleted}, Spec: batchv1.JobSpec{TTLSecondsAfterFinished: tc.ttl}, Status: batchv1.JobStatus{Conditions: tc.conditions}}
		at, ever := Due(job)
		if ever != tc.ever || ever && !at.Equal(time.Unix(1060, 0)) {
			t.Errorf("%s: %v %v", name, at, ever)
		}
	}
}
