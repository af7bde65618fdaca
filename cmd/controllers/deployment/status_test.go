package deployment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// observed is what Observe says of a Deployment of three whose one ReplicaSet has so many, when it was as d says before.
func observed(d *appsv1.Deployment, have, available int32, now time.Time) appsv1.DeploymentStatus {
	three := int32(3)
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: appsv1.ReplicaSetSpec{Replicas: &three},
		Status: appsv1.ReplicaSetStatus{Replicas: have, ReadyReplicas: available, AvailableReplicas: available}}
	return Observe(d, rs, nil, now)
}

func conditions(s appsv1.DeploymentStatus) (out []string) {
	for _, c := range s.Conditions {
		out = append(out, string(c.Type)+" "+string(c.Status)+" "+c.Reason)
	}
	return out
}

// The condition that changed last is last, as kubectl describe shows them; time runs only where something happens.
func TestConditions(t *testing.T) {
	three, ten, one := int32(3), int32(10), intstr.FromInt32(1)
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &three, ProgressDeadlineSeconds: &ten,
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &one}}}}
	now := time.Unix(1e9, 0)
	setProgress(&d.Status, "True", "NewReplicaSetCreated", "", now)
	for _, step := range []struct {
		name            string
		have, available int32
		want            []string
	}{
		{"begins", 3, 0, []string{"Available False MinimumReplicasUnavailable", "Progressing True ReplicaSetUpdated"}},
		{"hangs", 3, 0, []string{"Available False MinimumReplicasUnavailable", "Progressing False ProgressDeadlineExceeded"}},
		{"still hangs", 3, 0, []string{"Available False MinimumReplicasUnavailable", "Progressing False ProgressDeadlineExceeded"}},
		{"ends", 3, 3, []string{"Available True MinimumReplicasAvailable", "Progressing True NewReplicaSetAvailable"}},
	} {
		before := d.Status
		d.Status = observed(d, step.have, step.available, now)
		if diff := cmp.Diff(step.want, conditions(d.Status)); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
		if step.name == "still hangs" {
			if diff := cmp.Diff(before, d.Status); diff != "" {
				t.Errorf("nothing happened, and yet: %s", diff)
			}
		}
		now = now.Add(11 * time.Second)
	}
}
