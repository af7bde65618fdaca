// Package warnings says what a client should know about an object that is accepted nevertheless: what is deprecated, has no
// effect, or is lost when it is applied again.
//
// It judges single objects and changes none. The texts are those that clients know; each begins with the field's path.
package warnings

import (
	"crypto/tls"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/orlop-io/orlop/cmd/apiserver/podtemplate"
)

// For returns the warnings about obj, which replaces old, or is new if old is nil. A template that did not change is not warned
// about again, and neither is a pod: people write those rarely, and controllers do not read.
func For(obj, old runtime.Object) []string {
	switch o := obj.(type) {
	case *corev1.Pod:
		if old != nil {
			return nil
		}
		return pod(&corev1.PodTemplateSpec{ObjectMeta: o.ObjectMeta, Spec: o.Spec}, nil, true)
	case *corev1.Service:
		return service(o)
	case *corev1.PersistentVolume:
		return persistentVolume(o)
	case *corev1.PersistentVolumeClaim:
		return claim(&o.Spec, o.Annotations)
	case *corev1.Node:
		return node(o)
	case *corev1.Secret:
		return secret(o)
	}
	template, path := podtemplate.Of(obj)
	if template == nil {
		return nil
	}
	if old != nil {
		if before, _ := podtemplate.Of(old); before != nil && equality.Semantic.DeepEqual(before, template) {
			return nil
		}
	}
	return pod(template, path, false)
}

func service(s *corev1.Service) []string {
	var out []string
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		out = append(out, fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	spec := field.NewPath("spec")
	headless := s.Spec.ClusterIP == corev1.ClusterIPNone
	if !headless {
		for i, ip := range s.Spec.ClusterIPs {
			out = append(out, address(spec.Child("clusterIPs").Index(i), ip)...)
		}
	} else {
		for _, f := range []struct {
			name string
			set  bool
		}{{"loadBalancerIP", s.Spec.LoadBalancerIP != ""}, {"externalIPs", len(s.Spec.ExternalIPs) > 0}, {"SessionAffinity", s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP}} {
			if f.set {
				out = append(out, fmt.Sprintf("spec.%s is ignored for headless services", f.name))
			}
		}
	}
	for i, ip := range s.Spec.ExternalIPs {
		out = append(out, address(spec.Child("externalIPs").Index(i), ip)...)
	}
	if s.Spec.LoadBalancerIP != "" {
		out = append(out, address(spec.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		out = append(out, validation.GetWarningsForCIDR(spec.Child("loadBalancerSourceRanges").Index(i), strings.TrimSpace(cidr))...)
	}
	outside := s.Spec.Type == corev1.ServiceTypeExternalName
	if outside && len(s.Spec.ExternalIPs) > 0 {
		out = append(out, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", s.Spec.Type))
	}
	if !outside && s.Spec.ExternalName != "" {
		out = append(out, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	return out
}

// address warns of an IP address that is written in an unusual way.
func address(p *field.Path, ip string) []string {
	if ip == "" {
		return nil
	}
	return validation.GetWarningsForIP(p, ip)
}

func node(n *corev1.Node) []string {
	var out []string
	if n.Spec.ConfigSource != nil {
		out = append(out, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return out
}

// secret warns of a certificate and a key that do not fit, which only show when somebody serves with them.
func secret(s *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}
