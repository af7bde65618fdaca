package registry

import (
	"context"
	"strconv"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orlop-io/orlop/cmd/apiserver/controlplane"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/csr"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// groupResources describes the resources of all groups but core.
func groupResources(cfg Config) []*store.Resource {
	out := []*store.Resource{
		{GV: eventsv1.SchemeGroupVersion, Kind: "Event", Plural: "events", Singular: "event", Short: []string{"ev"}, CreateOnUpdate: true,
			NoStatus: true, TTL: eventTTL(cfg.EventTTL), Fields: eventFields, Validate: newEvent},
		{GV: autoscalingv2.SchemeGroupVersion, Kind: "HorizontalPodAutoscaler", Plural: "horizontalpodautoscalers",
			Singular: "horizontalpodautoscaler", Short: []string{"hpa"}, Categories: all(),
			Also:          []schema.GroupVersion{autoscalingv1.SchemeGroupVersion},
			PrepareCreate: func(_ context.Context, obj runtime.Object) { dropOldAnnotations(obj) },
			PrepareUpdate: func(_ context.Context, obj, _ runtime.Object) { dropOldAnnotations(obj) },
		},
		csr.Resource(), csr.TrustBundles(), csr.PodRequests(),
		{GV: storagemigrationv1.SchemeGroupVersion, Kind: "StorageVersionMigration", Plural: "storageversionmigrations",
			Singular: "storageversionmigration", Cluster: true},
		{GV: policyv1.SchemeGroupVersion, Kind: "PodDisruptionBudget", Plural: "poddisruptionbudgets", Singular: "poddisruptionbudget",
			Short: []string{"pdb"}, Generation: true},
		{GV: schedulingv1.SchemeGroupVersion, Kind: "PriorityClass", Plural: "priorityclasses", Singular: "priorityclass", Short: []string{"pc"},
			Cluster: true, Generation: true},
		{GV: coordinationv1.SchemeGroupVersion, Kind: "Lease", Plural: "leases", Singular: "lease", CreateOnUpdate: true, Conditional: true},
		{GV: nodev1.SchemeGroupVersion, Kind: "RuntimeClass", Plural: "runtimeclasses", Singular: "runtimeclass", Cluster: true},
		{GV: discoveryv1.SchemeGroupVersion, Kind: "EndpointSlice", Plural: "endpointslices", Singular: "endpointslice", Generation: true},
		{GV: flowcontrolv1.SchemeGroupVersion, Kind: "FlowSchema", Plural: "flowschemas", Singular: "flowschema", Cluster: true, Generation: true},
		{GV: flowcontrolv1.SchemeGroupVersion, Kind: "PriorityLevelConfiguration", Plural: "prioritylevelconfigurations",
			Singular: "prioritylevelconfiguration", Cluster: true, Generation: true},
	}
	for _, more := range [][]*store.Resource{workloads(), network(), access(), storage(), admission()} {
		out = append(out, more...)
	}
	return out
}

func workloads() []*store.Resource {
	apps, batch := appsv1.SchemeGroupVersion, batchv1.SchemeGroupVersion
	return []*store.Resource{
		{GV: apps, Kind: "ControllerRevision", Plural: "controllerrevisions", Singular: "controllerrevision"},
		{GV: apps, Kind: "DaemonSet", Plural: "daemonsets", Singular: "daemonset", Short: []string{"ds"}, Categories: all(), Generation: true,
			PrepareCreate: func(_ context.Context, obj runtime.Object) { numberTemplate(obj.(*appsv1.DaemonSet), nil) },
			PrepareUpdate: func(_ context.Context, obj, old runtime.Object) {
				numberTemplate(obj.(*appsv1.DaemonSet), old.(*appsv1.DaemonSet))
			}},
		{GV: apps, Kind: "Deployment", Plural: "deployments", Singular: "deployment", Short: []string{"deploy"}, Categories: all(), Generation: true},
		{GV: apps, Kind: "ReplicaSet", Plural: "replicasets", Singular: "replicaset", Short: []string{"rs"}, Categories: all(), Generation: true,
			Fields: func(obj runtime.Object) fields.Set {
				return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*appsv1.ReplicaSet).Status.Replicas))}
			}},
		// The name of a stateful set becomes its pods' host name, which holds no dots.
		{GV: apps, Kind: "StatefulSet", Plural: "statefulsets", Singular: "statefulset", Short: []string{"sts"}, Categories: all(), Generation: true,
			Name: validation.NameIsDNSLabel},
		{GV: batch, Kind: "CronJob", Plural: "cronjobs", Singular: "cronjob", Short: []string{"cj"}, Categories: all(), Generation: true},
		jobResource(),
	}
}

func network() []*store.Resource {
	gv := networkingv1.SchemeGroupVersion
	return []*store.Resource{
		{GV: gv, Kind: "IngressClass", Plural: "ingressclasses", Singular: "ingressclass", Cluster: true, Generation: true},
		{GV: gv, Kind: "Ingress", Plural: "ingresses", Singular: "ingress", Short: []string{"ing"}, Generation: true},
		{GV: gv, Kind: "ServiceCIDR", Plural: "servicecidrs", Singular: "servicecidr", Cluster: true},
		{GV: gv, Kind: "NetworkPolicy", Plural: "networkpolicies", Singular: "networkpolicy", Short: []string{"netpol"}, Generation: true,
			Warn: func(runtime.Object) []string { return []string{controlplane.UnenforcedNote} }},
	}
}

// access holds the kinds of RBAC. Their names may hold colons, as those of bootstrap roles do.
func access() []*store.Resource {
	gv := rbacv1.SchemeGroupVersion
	name := path.ValidatePathSegmentName
	return []*store.Resource{
		{GV: gv, Kind: "ClusterRole", Plural: "clusterroles", Singular: "clusterrole", Cluster: true, Name: name, CreateOnUpdate: true},
		{GV: gv, Kind: "ClusterRoleBinding", Plural: "clusterrolebindings", Singular: "clusterrolebinding", Cluster: true, Name: name, CreateOnUpdate: true},
		{GV: gv, Kind: "Role", Plural: "roles", Singular: "role", Name: name, CreateOnUpdate: true},
		{GV: gv, Kind: "RoleBinding", Plural: "rolebindings", Singular: "rolebinding", Name: name, CreateOnUpdate: true},
	}
}

func storage() []*store.Resource {
	gv := storagev1.SchemeGroupVersion
	return []*store.Resource{
		{GV: gv, Kind: "CSIDriver", Plural: "csidrivers", Singular: "csidriver", Cluster: true, Generation: true},
		{GV: gv, Kind: "CSINode", Plural: "csinodes", Singular: "csinode", Cluster: true},
		{GV: gv, Kind: "CSIStorageCapacity", Plural: "csistoragecapacities", Singular: "csistoragecapacity"},
		{GV: gv, Kind: "StorageClass", Plural: "storageclasses", Singular: "storageclass", Short: []string{"sc"}, Cluster: true, ReturnDeleted: true},
		{GV: gv, Kind: "VolumeAttachment", Plural: "volumeattachments", Singular: "volumeattachment", Cluster: true, ReturnDeleted: true},
		{GV: gv, Kind: "VolumeAttributesClass", Plural: "volumeattributesclasses", Singular: "volumeattributesclass", Short: []string{"vac"}, Cluster: true, ReturnDeleted: true},
	}
}

func admission() []*store.Resource {
	gv := admissionregistrationv1.SchemeGroupVersion
	return []*store.Resource{
		{GV: gv, Kind: "MutatingWebhookConfiguration", Plural: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration",
			Cluster: true, Generation: true, Categories: []string{"api-extensions"}},
		{GV: gv, Kind: "ValidatingWebhookConfiguration", Plural: "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration",
			Cluster: true, Generation: true, Categories: []string{"api-extensions"}},
		{GV: gv, Kind: "ValidatingAdmissionPolicy", Plural: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy",
			Cluster: true, Generation: true, Categories: []string{"api-extensions"}},
		{GV: gv, Kind: "ValidatingAdmissionPolicyBinding", Plural: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding",
			Cluster: true, Generation: true, Categories: []string{"api-extensions"}},
		{GV: gv, Kind: "MutatingAdmissionPolicy", Plural: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy",
			Cluster: true, Generation: true, Categories: []string{"api-extensions"}},
		{GV: gv, Kind: "MutatingAdmissionPolicyBinding", Plural: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding",
			Cluster: true, Generation: true, Categories: []string{"api-extensions"}},
	}
}

func jobFields(obj runtime.Object) fields.Set {
	return fields.Set{"status.successful": strconv.Itoa(int(obj.(*batchv1.Job).Status.Succeeded))}
}

func dropOldAnnotations(obj runtime.Object) {
	scheme.DropAutoscalerAnnotations(obj.(*autoscalingv2.HorizontalPodAutoscaler))
}
