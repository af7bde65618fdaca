package scheme

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// fieldLabels names what may stand in a field selector besides metadata.name and metadata.namespace. Each has
// its value in the attribute function of its resource, in package registry.
func fieldLabels() map[schema.GroupVersionKind][]string {
	core := corev1.SchemeGroupVersion.WithKind
	return map[schema.GroupVersionKind][]string{
		core("Pod"): {
			"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
			"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName",
		},
		core("Node"):                  {"spec.unschedulable"},
		core("Namespace"):             {"status.phase"},
		core("Secret"):                {"type"},
		core("Service"):               {"spec.clusterIP", "spec.type"},
		core("ReplicationController"): {"status.replicas"},
		appsv1.SchemeGroupVersion.WithKind("ReplicaSet"): {"status.replicas"},
		core("Event"): {
			"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
			"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
			"reason", "reportingComponent", "source", "type",
		},
		batchv1.SchemeGroupVersion.WithKind("Job"):                              {"status.successful"},
		batchv1.SchemeGroupVersion.WithKind("CronJob"):                          {"status.successful"}, // and no CronJob has it
		certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"): {"spec.signerName"},
		certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"):        {"spec.signerName"},
		certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"):     {"spec.signerName", "spec.podName", "spec.nodeName"},
		resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"):                 {"spec.nodeName", "spec.driver", "spec.pool.name"},
	}
}

// eventFields maps the selectors of events.k8s.io to those of core events, under which both are stored.
func eventFields() map[string]string {
	return map[string]string{
		"regarding.kind": "involvedObject.kind", "regarding.namespace": "involvedObject.namespace",
		"regarding.name": "involvedObject.name", "regarding.uid": "involvedObject.uid",
		"regarding.apiVersion": "involvedObject.apiVersion", "regarding.resourceVersion": "involvedObject.resourceVersion",
		"regarding.fieldPath": "involvedObject.fieldPath",
		"reason":              "reason", "reportingController": "reportingComponent", "type": "type",
		"metadata.name": "metadata.name", "metadata.namespace": "metadata.namespace",
	}
}

// clusterWide tells the kinds of fieldLabels that are in no namespace, which then is no field of theirs.
func clusterWide(kind string) bool {
	return slices.Contains([]string{"Node", "Namespace", "CertificateSigningRequest", "ClusterTrustBundle", "ResourceSlice"}, kind)
}

func addFieldLabels(s *runtime.Scheme) error {
	for gvk, labels := range fieldLabels() {
		known := map[string]bool{"metadata.name": true, "metadata.namespace": !clusterWide(gvk.Kind)}
		for _, l := range labels {
			known[l] = true
		}
		err := s.AddFieldLabelConversionFunc(gvk, func(label, value string) (string, string, error) {
			// spec.host is the name that clients before 1.0 used.
			if gvk.Kind == "Pod" && label == "spec.host" {
				return "spec.nodeName", value, nil
			}
			if !known[label] {
				return "", "", fmt.Errorf("field label not supported: %s", label)
			}
			return label, value, nil
		})
		if err != nil {
			return fmt.Errorf("register field labels of %s: %w", gvk.Kind, err)
		}
	}
	fields := eventFields()
	return s.AddFieldLabelConversionFunc(eventsv1.SchemeGroupVersion.WithKind("Event"), func(label, value string) (string, string, error) {
		if to, ok := fields[label]; ok {
			return to, value, nil
		}
		return "", "", fmt.Errorf("field label not supported: %s", label)
	})
}
