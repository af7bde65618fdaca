package main

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/proxy"
)

// What changed while this process watches is timed, and takes memory; what was there before is not.
func TestSlicesKeepWhenTheyChanged(t *testing.T) {
	began := time.Now()
	for after, want := range map[time.Duration]bool{-time.Hour: false, time.Second: true} {
		at := began.Add(after)
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: at.Format(time.RFC3339Nano), "other": "x"},
		}}
		w := &watch{began: began}
		kept, err := w.pack(s)
		if err != nil {
			t.Fatal(err)
		}
		slice, ok := proxy.PackedSlice(kept.(*packed).content()).Unpack()
		if slice.Triggered.Equal(at) != want || !ok {
			t.Errorf("%s: triggered %s", after, slice.Triggered)
		}
	}
}
