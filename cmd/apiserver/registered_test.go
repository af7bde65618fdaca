package apiserver

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

func TestRegistered(t *testing.T) {
	there := map[string]apiregistrationv1.ConditionStatus{"a": apiregistrationv1.ConditionTrue, "b": apiregistrationv1.ConditionFalse}
	check := registered([]string{"a", "b", "c"}, func(name string) (*apiregistrationv1.APIService, error) {
		status, ok := there[name]
		if !ok {
			return nil, errors.New("not found")
		}
		return &apiregistrationv1.APIService{Status: apiregistrationv1.APIServiceStatus{Conditions: []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: status}}}}, nil
	})
	if err := check.Check(&http.Request{}); err == nil || !strings.Contains(err.Error(), "missing APIService: [b c]") {
		t.Errorf("with one that is away and one that is not there: %v", err)
	}
	there["b"], there["c"] = apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionTrue
	if err := check.Check(&http.Request{}); err != nil {
		t.Error(err)
	}
	delete(there, "a")
	if err := check.Check(&http.Request{}); err != nil {
		t.Errorf("after one has gone again: %v, want the start to stay complete", err)
	}
}

// Every health check has the name by which people exclude or ask for it.
func TestHealthByName(t *testing.T) {
	for _, name := range strings.Fields(`ping log etcd poststarthook/crd-informer-synced poststarthook/rbac/bootstrap-roles poststarthook/start-service-ip-repair-controllers
		poststarthook/start-kubernetes-service-cidr-controller poststarthook/start-legacy-token-tracking-controller poststarthook/priority-and-fairness-config-producer poststarthook/scheduling/bootstrap-system-priority-classes
		poststarthook/apiservice-registration-controller poststarthook/kube-apiserver-autoregistration autoregister-completion`) {
		for _, path := range []string{"/livez/", "/readyz/", "/healthz/"} {
			if body, err := shared.client.Discovery().RESTClient().Get().AbsPath(path + name).DoRaw(t.Context()); err != nil || string(body) != "ok" {
				t.Errorf("%s%s: %s, %v", path, name, body, err)
			}
		}
	}
	body, err := shared.client.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "true").Param("exclude", "etcd").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(body), "[+]etcd excluded: ok") || !strings.Contains(string(body), "[+]shutdown ok") || !strings.Contains(string(body), "[+]informer-sync ok") {
		t.Errorf("readyz: %s, %v", body, err)
	}
}

// Dashboards and alerts are written against these names.
func TestMetricsHaveUpstreamsNames(t *testing.T) {
	if _, err := shared.client.CoreV1().Pods(namespace(t, "metrics")).Create(t.Context(), pod("p", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	body, err := shared.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(`apiserver_request_total apiserver_request_duration_seconds_bucket apiserver_current_inflight_requests apiserver_longrunning_requests
		apiserver_resource_objects apiserver_storage_size_bytes apiserver_admission_controller_admission_duration_seconds_bucket apiserver_flowcontrol_dispatched_requests_total
		apiserver_watch_events_total apiserver_audit_event_total etcd_request_duration_seconds_bucket authentication_attempts workqueue_depth process_resident_memory_bytes go_goroutines
		kubernetes_build_info kubernetes_feature_enabled aggregator_unavailable_apiservice rest_client_requests_total authenticated_user_requests
		pod_security_evaluations_total
		kube_apiserver_clusterip_allocator_available_ips kube_apiserver_clusterip_allocator_allocation_total kube_apiserver_nodeport_allocator_allocated_ports`) {
		if !strings.Contains(string(body), "\n"+name) {
			t.Errorf("no metric %s", name)
		}
	}
}
