// Package scheme builds the one scheme of the API server.
//
// The served v1 type of every kind is also its internal type, so nothing is converted between a request, the
// registry and the store. There are two exceptions: both resources named events share the core type
// (conversion.go), and horizontal pod autoscalers are v2 inside and in the store (autoscaling.go).
package scheme

import (
	"fmt"
	"reflect"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// Types is a scheme with the codecs made for it.
type Types struct {
	Scheme     *runtime.Scheme
	Codecs     serializer.CodecFactory
	Parameters runtime.ParameterCodec
}

// group is one API group with its served versions, the storage version first.
type group struct {
	versions []schema.GroupVersion
	add      []func(*runtime.Scheme) error
}

// groups is in order of precedence in discovery, upstream's.
func groups() []group {
	one := func(gv schema.GroupVersion, add func(*runtime.Scheme) error) group {
		return group{[]schema.GroupVersion{gv}, []func(*runtime.Scheme) error{add}}
	}
	return []group{
		one(corev1.SchemeGroupVersion, corev1.AddToScheme),
		one(eventsv1.SchemeGroupVersion, eventsv1.AddToScheme),
		one(authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme),
		one(authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme),
		{
			[]schema.GroupVersion{autoscalingv2.SchemeGroupVersion, autoscalingv1.SchemeGroupVersion},
			[]func(*runtime.Scheme) error{autoscalingv2.AddToScheme, autoscalingv1.AddToScheme},
		},
		one(batchv1.SchemeGroupVersion, batchv1.AddToScheme),
		one(certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme),
		one(networkingv1.SchemeGroupVersion, networkingv1.AddToScheme),
		one(policyv1.SchemeGroupVersion, policyv1.AddToScheme),
		one(rbacv1.SchemeGroupVersion, rbacv1.AddToScheme),
		one(storagev1.SchemeGroupVersion, storagev1.AddToScheme),
		one(admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme),
		one(schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme),
		one(coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme),
		one(nodev1.SchemeGroupVersion, nodev1.AddToScheme),
		one(discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme),
		one(flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme),
		one(resourcev1.SchemeGroupVersion, resourcev1.AddToScheme),
		one(storagemigrationv1.SchemeGroupVersion, storagemigrationv1.AddToScheme),
		one(appsv1.SchemeGroupVersion, appsv1.AddToScheme),
	}
}

// Served lists the group versions of built-in types in order of precedence in discovery.
func Served() []schema.GroupVersion {
	var out []schema.GroupVersion
	for _, g := range groups() {
		out = append(out, g.versions...)
	}
	return out
}

// New builds the scheme. Each of extend is called on it last; defaulting functions come in this way.
func New(extend ...func(*runtime.Scheme) error) (Types, error) {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	for _, g := range groups() {
		for _, add := range g.add {
			if err := add(s); err != nil {
				return Types{}, fmt.Errorf("register %s: %w", g.versions[0].Group, err)
			}
		}
		if err := s.SetVersionPriority(g.versions...); err != nil {
			return Types{}, fmt.Errorf("order versions of %s: %w", g.versions[0].Group, err)
		}
		for _, gv := range g.versions {
			addInternal(s, gv)
		}
	}
	for _, add := range append([]func(*runtime.Scheme) error{addEventConversions, addAutoscalerConversions, addFieldLabels, addConnectOptions}, extend...) {
		if err := add(s); err != nil {
			return Types{}, err
		}
	}
	return Types{Scheme: s, Codecs: serializer.NewCodecFactory(s), Parameters: runtime.NewParameterCodec(s)}, nil
}

// addInternal registers the types of gv a second time, as the internal version of its group.
func addInternal(s *runtime.Scheme, gv schema.GroupVersion) {
	internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
	if gv == eventsv1.SchemeGroupVersion {
		s.AddKnownTypes(internal, &corev1.Event{}, &corev1.EventList{})
		return
	}
	for kind, t := range s.KnownTypes(gv) {
		if !strings.HasPrefix(t.PkgPath(), "k8s.io/api/") {
			continue // ListOptions, WatchEvent and the like have internal versions of their own
		}
		if gv == autoscalingv1.SchemeGroupVersion && strings.HasPrefix(kind, "HorizontalPod") {
			continue // v2 is the internal version
		}
		s.AddKnownTypeWithName(internal.WithKind(kind), reflect.New(t).Interface().(runtime.Object))
	}
}
