package registry

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// jobResource keeps upstream's old default for jobs: a delete request that does not say otherwise leaves the pods.
func jobResource() *store.Resource {
	return &store.Resource{
		GV: batchv1.SchemeGroupVersion, Kind: "Job", Plural: "jobs", Singular: "job", Categories: all(),
		Generation: true, Orphan: true, Fields: jobFields,
		PrepareCreate: func(_ context.Context, obj runtime.Object) { selectOwnPods(obj.(*batchv1.Job)) },
	}
}

// selectOwnPods gives a job a selector by its UID, so that no two jobs can count each other's pods, unless its
// author chose one. What the author wrote of it stays, for validation to refuse.
func selectOwnPods(job *batchv1.Job) {
	if job.Spec.ManualSelector != nil && *job.Spec.ManualSelector {
		return
	}
	uid := string(job.UID)
	labels := job.Spec.Template.Labels
	if labels == nil {
		labels = map[string]string{}
		job.Spec.Template.Labels = labels
	}
	for key, value := range map[string]string{
		batchv1.JobNameLabel: job.Name, batchv1.ControllerUidLabel: uid,
		// The names without a prefix are older; what was written for them still selects by them.
		"job-name": job.Name, "controller-uid": uid,
	} {
		if _, ok := labels[key]; !ok {
			labels[key] = value
		}
	}
	if job.Spec.Selector == nil {
		job.Spec.Selector = selectorOf(batchv1.ControllerUidLabel, uid)
		return
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = uid
	}
}

func selectorOf(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}
