package apiserver

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The fields that the documentation lists may stand in a selector; others are refused, never ignored.
func TestDocumentedFieldSelectors(t *testing.T) {
	for path, fields := range map[string]string{
		"/api/v1/pods": "metadata.name metadata.namespace spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork " +
			"status.phase status.podIP status.podIPs status.nominatedNodeName",
		"/api/v1/events": "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion " +
			"involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type",
		"/api/v1/secrets": "type", "/api/v1/namespaces": "status.phase", "/api/v1/nodes": "spec.unschedulable", "/api/v1/services": "spec.clusterIP spec.type",
		"/api/v1/replicationcontrollers": "status.replicas", "/apis/apps/v1/replicasets": "status.replicas", "/apis/batch/v1/jobs": "status.successful",
		"/apis/certificates.k8s.io/v1/certificatesigningrequests": "spec.signerName",
	} {
		rest := shared.client.CoreV1().RESTClient()
		for _, field := range strings.Fields(fields) {
			if err := rest.Get().RequestURI(path + "?fieldSelector=" + field + "%3Dnone").Do(t.Context()).Error(); err != nil {
				t.Errorf("%s by %s: %v", path, field, err)
			}
		}
		err := rest.Get().RequestURI(path + "?fieldSelector=spec.none%3D1").Do(t.Context()).Error()
		if !apierrors.IsBadRequest(err) || !strings.HasSuffix(err.Error(), "field label not supported: spec.none") {
			t.Errorf("%s by an unknown field: %v", path, err)
		}
	}
	ns := namespace(t, "selectors")
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: appsv1.ReplicaSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	set.Spec.Template.Labels, set.Spec.Template.Spec = map[string]string{"a": "b"}, pod("a", nil).Spec
	if _, err := shared.client.AppsV1().ReplicaSets(ns).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for selector, want := range map[string]int{"status.replicas=0": 1, "status.replicas!=0": 0} {
		list, err := shared.client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != want {
			t.Errorf("replica sets with %s: %d, %v, want %d", selector, len(list.Items), err, want)
		}
	}
}

// Operators read the flags of a running server there.
func TestFlagsAreTold(t *testing.T) {
	body, err := shared.client.Discovery().RESTClient().Get().AbsPath("/flagz").SetHeader("Accept", "text/plain").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(body), "service-cluster-ip-range") || !strings.Contains(string(body), "apiserver flagz") {
		t.Errorf("%v: %.300s", err, body)
	}
}
