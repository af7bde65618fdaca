package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	adm "k8s.io/apiserver/pkg/admission"
)

// alwaysAdmit refuses nothing.
type alwaysAdmit struct{}

var _ adm.ValidationInterface = alwaysAdmit{}

func (alwaysAdmit) Handles(adm.Operation) bool { return true }
func (alwaysAdmit) Validate(context.Context, adm.Attributes, adm.ObjectInterfaces) error {
	return nil
}

// alwaysDeny refuses everything.
type alwaysDeny struct{}

var (
	_ adm.MutationInterface   = alwaysDeny{}
	_ adm.ValidationInterface = alwaysDeny{}
)

func (alwaysDeny) Handles(adm.Operation) bool { return true }
func (alwaysDeny) Admit(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	return adm.NewForbidden(a, errors.New("admission control is denying all modifications"))
}
func (d alwaysDeny) Validate(ctx context.Context, a adm.Attributes, o adm.ObjectInterfaces) error {
	return d.Admit(ctx, a, o)
}

// externalIPs keeps Services from taking addresses that belong to others.
type externalIPs struct{ *adm.Handler }

var _ adm.ValidationInterface = externalIPs{}

func newExternalIPs() externalIPs { return externalIPs{adm.NewHandler(adm.Create, adm.Update)} }

func (externalIPs) Validate(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("services") {
		return nil
	}
	service, ok := a.GetObject().(*corev1.Service)
	if !ok {
		return nil // the proxy
	}
	var had []string
	if old, ok := a.GetOldObject().(*corev1.Service); ok && a.GetOperation() == adm.Update {
		had = old.Spec.ExternalIPs
	}
	for _, ip := range service.Spec.ExternalIPs {
		if !slices.Contains(had, ip) {
			return adm.NewForbidden(a, errors.New("Use of external IPs is denied by admission control."))
		}
	}
	return nil
}

// hardAntiAffinity allows required anti-affinity between nodes only: between zones it could shut others out of many.
type hardAntiAffinity struct{ *adm.Handler }

var _ adm.ValidationInterface = hardAntiAffinity{}

func newHardAntiAffinity() hardAntiAffinity {
	return hardAntiAffinity{adm.NewHandler(adm.Create, adm.Update)}
}

func (hardAntiAffinity) Validate(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil || pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
		return err
	}
	for _, term := range pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
		if term.TopologyKey != corev1.LabelHostname {
			return adm.NewForbidden(a, fmt.Errorf("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %v but only key %v is allowed",
				term.TopologyKey, corev1.LabelHostname))
		}
	}
	return nil
}

// extendedTolerations lets pods that ask for devices onto the nodes that are tainted for them.
type extendedTolerations struct{ *adm.Handler }

var _ adm.MutationInterface = extendedTolerations{}

func newExtendedTolerations() extendedTolerations {
	return extendedTolerations{adm.NewHandler(adm.Create, adm.Update)}
}

func (extendedTolerations) Admit(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil {
		return err
	}
	var names []string
	for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range cs {
			for name := range c.Resources.Requests {
				if extended(name) && !slices.Contains(names, string(name)) {
					names = append(names, string(name))
				}
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(had corev1.Toleration) bool { return equal(had, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

// extended says whether a resource is one that Kubernetes itself knows nothing of.
func extended(name corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	if !qualified || strings.Contains(domain, "kubernetes.io") || strings.HasPrefix(domain, corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}
