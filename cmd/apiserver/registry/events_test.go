package registry

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNewEvent(t *testing.T) {
	whole := corev1.Event{EventTime: metav1.NewMicroTime(time.Unix(1, 0)), Type: "Normal", ReportingController: "a.b/c", ReportingInstance: "i", Action: "a", Reason: "r"}
	for _, tt := range []struct {
		name   string
		mutate func(*corev1.Event)
		want   string
	}{
		{"whole", func(*corev1.Event) {}, "[]"},
		{"no time", func(e *corev1.Event) { e.EventTime = metav1.MicroTime{} }, "[eventTime: Required value]"},
		{"type", func(e *corev1.Event) { e.Type = "Odd" }, `[type: Invalid value: "": has invalid value: Odd]`},
		{"count", func(e *corev1.Event) { e.Count = 1 }, `[count: Invalid value: "": needs to be unset]`},
		{"source", func(e *corev1.Event) { e.Source.Host = "h" }, `[source: Invalid value: "": needs to be unset]`},
	} {
		e := whole.DeepCopy()
		tt.mutate(e)
		got := "[]"
		if errs := newEvent(t.Context(), e); len(errs) > 0 {
			got = errs.ToAggregate().Error()
			got = "[" + got + "]"
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
