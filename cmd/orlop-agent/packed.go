package main

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// packed is a Service or an EndpointSlice as informers keep it: what the agent reads of it, as the API's bytes. As an object it takes ten times as much
// memory, and each collection of garbage follows its pointers.
type packed struct {
	kind                     byte
	namespace, name, version string
	raw                      []byte
}

// GetObjectMeta says what informers need to know. It implements metav1.ObjectMetaAccessor.
func (p *packed) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, ResourceVersion: p.version}
}

// Marshal returns the object's bytes.
func (p *packed) Marshal() ([]byte, error) { return p.raw, nil }

func (p *packed) unpack() (object, error) {
	o, err := newObject(p.kind)
	if err == nil {
		err = o.Unmarshal(p.raw)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s/%s: %w", p.namespace, p.name, err)
	}
	return o, nil
}

// pack is what informers keep of an object: all of what it does not know, such as a tombstone and what is packed already.
func (w *watch) pack(obj any) (any, error) {
	var p *packed
	var err error
	switch o := obj.(type) {
	case *corev1.Service:
		slimService(o)
		p = &packed{kind: kindService, namespace: o.Namespace, name: o.Name, version: o.ResourceVersion}
		p.raw, err = o.Marshal()
	case *discoveryv1.EndpointSlice:
		slimSlice(o, w.node, w.began)
		p = &packed{kind: kindSlice, namespace: o.Namespace, name: o.Name, version: o.ResourceVersion}
		p.raw, err = o.Marshal()
	case *corev1.Node:
		o.ManagedFields, o.Status.Images = nil, nil
		return o, nil
	default:
		return obj, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pack %s/%s: %w", p.namespace, p.name, err)
	}
	return p, nil
}

// slimService drops what neither the model nor an Event about the Service needs.
func slimService(s *corev1.Service) {
	s.ObjectMeta = metav1.ObjectMeta{
		Namespace: s.Namespace, Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion,
		Labels: only(s.Labels, "service.kubernetes.io/service-proxy-name"), Annotations: only(s.Annotations, corev1.AnnotationLoadBalancerSourceRangesKey),
	}
	s.Spec.Selector, s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = nil, nil, nil
	s.Status.Conditions = nil
}

// slimSlice drops what the model of a node does not need: of other nodes it does not ask which.
func slimSlice(s *discoveryv1.EndpointSlice, node string, began time.Time) {
	s.ObjectMeta = metav1.ObjectMeta{
		Namespace: s.Namespace, Name: s.Name, ResourceVersion: s.ResourceVersion, Labels: only(s.Labels, discoveryv1.LabelServiceName),
		Annotations: only(s.Annotations, corev1.EndpointsLastChangeTriggerTime),
	}
	if at, err := time.Parse(time.RFC3339Nano, s.Annotations[corev1.EndpointsLastChangeTriggerTime]); err != nil || at.Before(began) {
		s.Annotations = nil // most, of a large cluster; how long they took is not this process's doing
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		e.TargetRef, e.Hostname, e.DeprecatedTopology, e.Zone = nil, nil, nil, nil
		if e.NodeName != nil && *e.NodeName != node {
			e.NodeName = nil
		}
	}
}

func only(m map[string]string, key string) map[string]string {
	if v, is := m[key]; is {
		return map[string]string{key: v}
	}
	return nil
}
