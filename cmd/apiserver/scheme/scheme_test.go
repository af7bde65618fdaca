package scheme

import (
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestEveryServedKindIsAlsoInternal(t *testing.T) {
	types, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for _, gvk := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "Pod"}, {Group: "apps", Version: "v1", Kind: "DeploymentList"}, {Group: "events.k8s.io", Version: "v1", Kind: "Event"},
		{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}, {Group: "autoscaling", Version: "v1", Kind: "Scale"},
	} {
		for _, version := range []string{gvk.Version, runtime.APIVersionInternal} {
			if !types.Scheme.Recognizes(gvk.GroupKind().WithVersion(version)) {
				t.Errorf("%s is unknown", gvk.GroupKind().WithVersion(version))
			}
		}
	}
}

func TestEventsSurviveConversion(t *testing.T) {
	types, err := New()
	if err != nil {
		t.Fatal(err)
	}
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	want := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Name: "p"}, Reason: "R", Message: "m",
		Source: corev1.EventSource{Component: "c"}, FirstTimestamp: at, LastTimestamp: at, Count: 3, Type: "Normal",
		EventTime: metav1.NewMicroTime(at.Time), Series: &corev1.EventSeries{Count: 2}, Action: "A", Related: &corev1.ObjectReference{Name: "r"},
		ReportingController: "rc", ReportingInstance: "ri",
	}
	var middle eventsv1.Event
	var got corev1.Event
	if err := types.Scheme.Convert(want, &middle, nil); err != nil {
		t.Fatal(err)
	}
	if err := types.Scheme.Convert(&middle, &got, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestReadQuery(t *testing.T) {
	yes, tail := "Stdout", int64(5)
	since := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for _, tt := range []struct {
		query string
		into  any
		want  any
		bad   bool
	}{
		{query: "container=c&follow&tailLines=5&stream=Stdout&previous=false&sinceTime=2026-01-01T00:00:00Z&unknown=x", into: &corev1.PodLogOptions{},
			want: &corev1.PodLogOptions{Container: "c", Follow: true, TailLines: &tail, Stream: &yes, SinceTime: &since}},
		{query: "command=sh&command=a,b&stdin=true&tty=1", into: &corev1.PodExecOptions{},
			want: &corev1.PodExecOptions{Command: []string{"sh", "a,b"}, Stdin: true, TTY: true}},
		{query: "ports=80,81&ports=82", into: &corev1.PodPortForwardOptions{}, want: &corev1.PodPortForwardOptions{Ports: []int32{80, 81, 82}}},
		{query: "tailLines=many", into: &corev1.PodLogOptions{}, bad: true},
	} {
		q, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		err = readQuery(q, tt.into)
		if (err != nil) != tt.bad {
			t.Errorf("%s: %v", tt.query, err)
		}
		if diff := cmp.Diff(tt.want, tt.into, cmp.Comparer(func(a, b metav1.Time) bool { return a.Time.Equal(b.Time) })); !tt.bad && diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.query, diff)
		}
	}
}
