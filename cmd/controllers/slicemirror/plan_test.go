package slicemirror

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSlices(t *testing.T) {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "n"}, Subsets: []corev1.EndpointSubset{{
		Addresses:         []corev1.EndpointAddress{{IP: "10.0.0.2"}, {IP: "fd00::1"}},
		NotReadyAddresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}},
		Ports:             []corev1.EndpointPort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}},
	}}}
	got := Slices(e)
	if len(got) != 2 {
		t.Fatalf("two families, but %d slices", len(got))
	}
	for name, s := range got {
		if *s.Ports[0].Port != 5432 {
			t.Errorf("%s: port %d", name, *s.Ports[0].Port)
		}
		if s.AddressType == "IPv4" && (len(s.Endpoints) != 2 || *s.Endpoints[0].Conditions.Ready || !*s.Endpoints[1].Conditions.Ready) {
			t.Errorf("%s: %+v", name, s.Endpoints)
		}
	}
	e.Subsets[0].Addresses = e.Subsets[0].Addresses[:1]
	for name := range Slices(e) {
		if got[name] == nil {
			t.Errorf("a change of addresses changed the name to %s", name)
		}
	}
}

func TestMirrored(t *testing.T) {
	svc, e := &corev1.Service{}, &corev1.Endpoints{}
	if !Mirrored(svc, e) {
		t.Error("hand-made endpoints are not mirrored")
	}
	svc.Spec.Selector = map[string]string{"a": "b"}
	if Mirrored(svc, e) {
		t.Error("a selector's endpoints are mirrored")
	}
}

// Slices are found by the labels of the endpoints that they mirror, and those of two Services are two, however long the names.
func TestSlicesAreOfTheirEndpoints(t *testing.T) {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("a", 50) + "-one", Namespace: "n",
		Labels:      map[string]string{"team": "x", discoveryv1.LabelServiceName: "of-nobody"},
		Annotations: map[string]string{"note": "y", corev1.LastAppliedConfigAnnotation: "{}", corev1.EndpointsLastChangeTriggerTime: "now"}},
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.2"}}}}}
	other := e.DeepCopy()
	other.Name = strings.Repeat("a", 50) + "-two"
	theirs := Slices(other)
	for name, s := range Slices(e) {
		if theirs[name] != nil {
			t.Errorf("slice %s is of both", name)
		}
		if len(s.Labels) != 3 || s.Labels["team"] != "x" || s.Labels[discoveryv1.LabelServiceName] != e.Name || len(s.Annotations) != 1 || s.Annotations["note"] != "y" {
			t.Errorf("labels %v, annotations %v", s.Labels, s.Annotations)
		}
	}
}
