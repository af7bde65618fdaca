package pods

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLogOptions(t *testing.T) {
	now := new(metav1.NewTime(time.Unix(1, 0)))
	for _, tt := range []struct {
		name    string
		options corev1.PodLogOptions
		want    string
	}{
		{"none", corev1.PodLogOptions{}, ""},
		{"all good", corev1.PodLogOptions{TailLines: new(int64(0)), LimitBytes: new(int64(1)), SinceSeconds: new(int64(1)), Stream: new(corev1.LogStreamAll)}, ""},
		{"a time and one stream", corev1.PodLogOptions{SinceTime: now, Stream: new(corev1.LogStreamStderr)}, ""},
		{"lines", corev1.PodLogOptions{TailLines: new(int64(-1))}, "tailLines: Invalid value: -1: must be greater than or equal to 0"},
		{"bytes", corev1.PodLogOptions{LimitBytes: new(int64(0))}, "limitBytes: Invalid value: 0: must be greater than 0"},
		{"seconds", corev1.PodLogOptions{SinceSeconds: new(int64(0))}, "sinceSeconds: Invalid value: 0: must be greater than 0"},
		{"two beginnings", corev1.PodLogOptions{SinceSeconds: new(int64(1)), SinceTime: now}, "[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"},
		{"no such stream", corev1.PodLogOptions{Stream: new("Stdin")}, `stream: Unsupported value: "Stdin": supported values: "Stdout", "Stderr", "All"`},
		{"the last lines of one stream", corev1.PodLogOptions{TailLines: new(int64(1)), Stream: new(corev1.LogStreamStdout)},
			"[]: Forbidden: `tailLines` and specific `stream` are mutually exclusive for now"},
	} {
		got := ""
		if err := validateLog(&tt.options).ToAggregate(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	// Options are judged before the pod is looked for.
	if _, err := new(Log).Get(t.Context(), "p", &corev1.PodLogOptions{LimitBytes: new(int64(0))}); !apierrors.IsInvalid(err) {
		t.Errorf("get: %v", err)
	}
}
