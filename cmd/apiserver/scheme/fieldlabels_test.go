package scheme

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Upstream refuses a selector it does not know, and clients rely on it: an ignored one would select everything.
func TestFieldLabelsAreUpstreams(t *testing.T) {
	types, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		gvk      string
		kind     string
		yes, not []string
	}{
		{"v1", "Pod", []string{"metadata.name", "metadata.namespace", "spec.nodeName", "spec.host", "status.podIPs"}, []string{"spec.priority"}},
		{"v1", "Node", []string{"metadata.name", "spec.unschedulable"}, []string{"metadata.namespace"}},
		{"v1", "ConfigMap", []string{"metadata.name", "metadata.namespace"}, []string{"data"}},
		{"v1", "Namespace", []string{"status.phase"}, []string{"metadata.namespace"}},
		{"apps/v1", "ReplicaSet", []string{"metadata.name", "status.replicas"}, []string{"spec.replicas"}},
		{"apps/v1", "Deployment", []string{"metadata.name"}, []string{"status.replicas"}},
		{"batch/v1", "CronJob", []string{"status.successful"}, []string{"spec.suspend"}},
		{"certificates.k8s.io/v1", "ClusterTrustBundle", []string{"metadata.name", "spec.signerName"}, []string{"metadata.namespace"}},
		{"certificates.k8s.io/v1", "PodCertificateRequest", []string{"metadata.namespace", "spec.signerName", "spec.nodeName"}, []string{"spec.podUID"}},
		{"resource.k8s.io/v1", "ResourceSlice", []string{"spec.nodeName", "spec.driver", "spec.pool.name"}, []string{"spec.pool.generation"}},
		{"events.k8s.io/v1", "Event", []string{"regarding.name", "reportingController"}, []string{"involvedObject.name"}},
		{"autoscaling/v1", "HorizontalPodAutoscaler", []string{"metadata.name"}, []string{"spec.maxReplicas"}},
	} {
		gv, err := schema.ParseGroupVersion(tt.gvk)
		if err != nil {
			t.Fatal(err)
		}
		for _, label := range tt.yes {
			if _, _, err := types.Scheme.ConvertFieldLabel(gv.WithKind(tt.kind), label, "x"); err != nil {
				t.Errorf("%s %s: %v", tt.kind, label, err)
			}
		}
		for _, label := range tt.not {
			if _, _, err := types.Scheme.ConvertFieldLabel(gv.WithKind(tt.kind), label, "x"); err == nil {
				t.Errorf("%s may be selected by %s", tt.kind, label)
			}
		}
	}
}
