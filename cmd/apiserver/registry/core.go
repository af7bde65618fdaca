package registry

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/namespaces"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/pods"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/services"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// all is kubectl's category of what "get all" shows.
func all() []string { return []string{"all"} }

func coreResources(cfg Config) []*store.Resource {
	gv := corev1.SchemeGroupVersion
	return []*store.Resource{
		namespaces.Resource(),
		{GV: gv, Kind: "Node", Plural: "nodes", Singular: "node", Short: []string{"no"}, Cluster: true, KeepStatus: true, Fields: nodeFields},
		pods.Resource(cfg.AllowPrivileged),
		services.Resource(),
		{GV: gv, Kind: "Endpoints", Plural: "endpoints", Singular: "endpoints", Short: []string{"ep"}, CreateOnUpdate: true},
		{GV: gv, Kind: "ConfigMap", Plural: "configmaps", Singular: "configmap", Short: []string{"cm"}},
		{GV: gv, Kind: "Secret", Plural: "secrets", Singular: "secret",
			Fields: func(obj runtime.Object) fields.Set {
				return fields.Set{"type": string(obj.(*corev1.Secret).Type)}
			}},
		{GV: gv, Kind: "ServiceAccount", Plural: "serviceaccounts", Singular: "serviceaccount", Short: []string{"sa"}, ReturnDeleted: true},
		{GV: gv, Kind: "Event", Plural: "events", Singular: "event", Short: []string{"ev"}, CreateOnUpdate: true, NoStatus: true,
			TTL: eventTTL(cfg.EventTTL), Fields: eventFields},
		{GV: gv, Kind: "PersistentVolume", Plural: "persistentvolumes", Singular: "persistentvolume", Short: []string{"pv"},
			Cluster: true, ReturnDeleted: true,
			PrepareCreate: func(_ context.Context, obj runtime.Object) {
				obj.(*corev1.PersistentVolume).Status.Phase = corev1.VolumePending
			}},
		{GV: gv, Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims", Singular: "persistentvolumeclaim", Short: []string{"pvc"},
			ReturnDeleted: true,
			PrepareCreate: func(_ context.Context, obj runtime.Object) {
				claim := obj.(*corev1.PersistentVolumeClaim)
				claim.Status.Phase = corev1.ClaimPending
				matchDataSources(&claim.Spec)
			},
			// A claim of before the newer field gets it with its next change.
			PrepareUpdate: func(_ context.Context, obj, old runtime.Object) {
				matchDataSources(&obj.(*corev1.PersistentVolumeClaim).Spec)
				matchDataSources(&old.(*corev1.PersistentVolumeClaim).Spec)
			}},
		{GV: gv, Kind: "LimitRange", Plural: "limitranges", Singular: "limitrange", Short: []string{"limits"}, CreateOnUpdate: true},
		{GV: gv, Kind: "ResourceQuota", Plural: "resourcequotas", Singular: "resourcequota", Short: []string{"quota"}, ReturnDeleted: true},
		{GV: gv, Kind: "PodTemplate", Plural: "podtemplates", Singular: "podtemplate", CreateOnUpdate: true, Generation: true, ReturnDeleted: true},
		{GV: gv, Kind: "ReplicationController", Plural: "replicationcontrollers", Singular: "replicationcontroller", Short: []string{"rc"},
			Categories: all(), Generation: true, Orphan: true, Name: validation.NameIsDNSSubdomain,
			Fields: func(obj runtime.Object) fields.Set {
				return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*corev1.ReplicationController).Status.Replicas))}
			}},
	}
}

func nodeFields(obj runtime.Object) fields.Set {
	return fields.Set{"spec.unschedulable": strconv.FormatBool(obj.(*corev1.Node).Spec.Unschedulable)}
}

func eventTTL(seconds uint64) func(runtime.Object, uint64, bool) (uint64, error) {
	return func(runtime.Object, uint64, bool) (uint64, error) { return seconds, nil }
}

// eventFields serves both APIs of events: both are stored as core events.
func eventFields(obj runtime.Object) fields.Set {
	e := obj.(*corev1.Event)
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}
