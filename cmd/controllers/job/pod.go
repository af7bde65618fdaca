package job

import (
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// indexVariable tells a container which index it works on.
const indexVariable = "JOB_COMPLETION_INDEX"

// longestPrefix leaves room for the five letters that the API server adds.
const longestPrefix = 58

// podFor returns the pod that what asks for.
func podFor(job *batchv1.Job, what creation) *corev1.Pod {
	ref := metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))
	pod := podset.FromTemplate(&job.Spec.Template, job, ref)
	pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	if what.index < 0 {
		return pod
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	n := strconv.Itoa(what.index)
	pod.Annotations[batchv1.JobCompletionIndexAnnotation], pod.Labels[batchv1.JobCompletionIndexAnnotation] = n, n
	if perIndex(job) {
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(what.counted)
		if what.ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(what.ignored)
		}
	}
	tail := "-" + n + "-"
	pod.GenerateName = job.Name[:min(len(job.Name), longestPrefix-len(tail))] + tail
	pod.Spec.Hostname = job.Name + "-" + n
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			tellIndex(&list[i])
		}
	}
	return pod
}

// tellIndex adds the variable to c, unless c sets it itself.
func tellIndex(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == indexVariable }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
	}})
}
