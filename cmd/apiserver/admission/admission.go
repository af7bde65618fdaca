// Package admission holds the plugins that change or refuse writes to the API beyond what k8s.io/apiserver brings, and
// the order in which all run.
//
// A plugin fails closed: when it cannot find out what it must know, the write is refused.
package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/server"
)

// entry is one plugin of ours.
type entry struct {
	name string
	on   bool // by default
	make func() adm.Interface
}

// entries lists our plugins; order has no meaning here.
func entries() []entry {
	return []entry{
		{"LimitRanger", true, func() adm.Interface { return newLimitRanger() }},
		{"ServiceAccount", true, func() adm.Interface { return newServiceAccount() }},
		{"NodeRestriction", false, func() adm.Interface { return newNodeRestriction() }},
		{"Priority", true, func() adm.Interface { return newPriority() }},
		{"TaintNodesByCondition", true, func() adm.Interface { return newTaintNodes() }},
		{"CertificateApproval", true, func() adm.Interface { return newCertificateApproval() }},
		{"CertificateSigning", true, func() adm.Interface { return newCertificateSigning() }},
		{"ClusterTrustBundleAttest", true, func() adm.Interface { return newTrustBundleAttest() }},
		{"CertificateSubjectRestriction", true, func() adm.Interface { return newSubjectRestriction() }},
		{"DefaultStorageClass", true, func() adm.Interface { return newDefaultStorageClass() }},
		{"DefaultIngressClass", true, func() adm.Interface { return newDefaultIngressClass() }},
		{"RuntimeClass", true, func() adm.Interface { return newRuntimeClass() }},
		{"PodTopologyLabels", true, func() adm.Interface { return newPodTopology() }},
		{"AlwaysPullImages", false, func() adm.Interface { return newAlwaysPull() }},
		{"PersistentVolumeClaimResize", true, func() adm.Interface { return newClaimResize() }},
		{"StorageObjectInUseProtection", true, func() adm.Interface { return newInUse() }},
		{"AlwaysAdmit", false, func() adm.Interface { return alwaysAdmit{} }},
		{"AlwaysDeny", false, func() adm.Interface { return alwaysDeny{} }},
		{"NamespaceAutoProvision", false, func() adm.Interface { return newAutoProvision() }},
		{"NamespaceExists", false, func() adm.Interface { return newNamespaceExists() }},
		{"LimitPodHardAntiAffinityTopology", false, func() adm.Interface { return newHardAntiAffinity() }},
		{"ExtendedResourceToleration", false, func() adm.Interface { return newExtendedTolerations() }},
		{"OwnerReferencesPermissionEnforcement", false, func() adm.Interface { return newOwnerReferences() }},
		{"DenyServiceExternalIPs", false, func() adm.Interface { return newExternalIPs() }},
	}
}

// Register makes all plugins known under upstream's names, those of k8s.io/apiserver included.
func Register(plugins *adm.Plugins, patience *Patience) {
	server.RegisterAllAdmissionPlugins(plugins)
	plugins.Register(resourcequota.PluginName, newQuota)
	for _, e := range entries() {
		plugins.Register(e.name, func(io.Reader) (adm.Interface, error) { return e.make(), nil })
	}
	plugins.Register(tolerationsName, func(io.Reader) (adm.Interface, error) { return newDefaultTolerations(*patience), nil })
	plugins.Register(nodeSelectorName, func(config io.Reader) (adm.Interface, error) { return newPodNodeSelector(config) })
	plugins.Register(podSecurityName, func(config io.Reader) (adm.Interface, error) { return newPodSecurity(config) })
}

// upstreamOrder is the order in which upstream runs its plugins: those that fill in come before those that judge, and
// quota, which counts, comes last but for the one that denies everything.
func upstreamOrder() []string {
	return []string{
		"AlwaysAdmit", "NamespaceAutoProvision", lifecycle.PluginName, "NamespaceExists", "LimitPodHardAntiAffinityTopology",
		"LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "AlwaysPullImages",
		"ImagePolicyWebhook", "PodSecurity", "PodNodeSelector", "Priority", "DefaultTolerationSeconds",
		"PodTolerationRestriction", "EventRateLimit", "ExtendedResourceToleration", "DefaultStorageClass",
		"StorageObjectInUseProtection", "OwnerReferencesPermissionEnforcement", "PersistentVolumeClaimResize", "RuntimeClass",
		"CertificateApproval", "CertificateSigning", "ClusterTrustBundleAttest", "CertificateSubjectRestriction",
		"DefaultIngressClass", "PodTopologyLabels", "DenyServiceExternalIPs",
		mutatingpolicy.PluginName, mutatingwebhook.PluginName, validatingpolicy.PluginName, validatingwebhook.PluginName,
		resourcequota.PluginName, "AlwaysDeny",
	}
}

// RecommendedOrder lists the plugins that Register knows, in the order in which they must run.
func RecommendedOrder() []string {
	known := builtIn()
	for _, e := range entries() {
		known = append(known, e.name)
	}
	known = append(known, nodeSelectorName, tolerationsName)
	return slices.DeleteFunc(upstreamOrder(), func(name string) bool { return !slices.Contains(known, name) })
}

// DefaultOn lists the plugins that run unless they are switched off. A plugin that upstream has on by default is off here
// when the controller that it depends on is not there.
func DefaultOn() []string {
	on := append(builtIn(), tolerationsName)
	for _, e := range entries() {
		if e.on {
			on = append(on, e.name)
		}
	}
	return slices.DeleteFunc(RecommendedOrder(), func(name string) bool { return !slices.Contains(on, name) })
}

// DefaultOff lists the known plugins that are not in DefaultOn.
func DefaultOff() []string {
	on := DefaultOn()
	return slices.DeleteFunc(RecommendedOrder(), func(name string) bool { return slices.Contains(on, name) })
}

// The plugins that take a configuration, unlike our others.
const (
	podSecurityName  = "PodSecurity"
	nodeSelectorName = "PodNodeSelector"
	tolerationsName  = "DefaultTolerationSeconds"
)

// builtIn lists the plugins that libraries bring; all are on.
func builtIn() []string {
	return []string{lifecycle.PluginName, mutatingpolicy.PluginName, mutatingwebhook.PluginName,
		validatingpolicy.PluginName, validatingwebhook.PluginName, podSecurityName, resourcequota.PluginName}
}

// caches are the informers that a plugin must have seen whole before it can judge.
type caches struct {
	synced []func() bool
}

// wait lets early requests wait for the caches instead of judging them by half the facts.
func (c *caches) wait(ctx context.Context, a adm.Attributes) error {
	done := func() bool { return !slices.ContainsFunc(c.synced, func(f func() bool) bool { return !f() }) }
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			return adm.NewForbidden(a, errors.New("not yet ready to handle request"))
		}
		select {
		case <-ctx.Done():
			return adm.NewForbidden(a, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// podOf returns the pod that a request writes; ok is false for requests about anything else.
func podOf(a adm.Attributes, subresources ...string) (*corev1.Pod, bool, error) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetOperation() == adm.Delete {
		return nil, false, nil
	}
	if sub := a.GetSubresource(); sub != "" && !slices.Contains(subresources, sub) {
		return nil, false, nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("resource was marked with kind Pod but was unable to be converted: %T", a.GetObject()))
	}
	return pod, true, nil
}
