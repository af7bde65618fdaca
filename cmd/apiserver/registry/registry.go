// Package registry assembles the REST storage of every built-in resource.
//
// Most resources are a line in a table (core.go, groups.go) and the generic storage of package store. What differs in
// meaning has a package of its own below this one.
package registry

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/orlop-io/orlop/cmd/apiserver/kubeletclient"
	"github.com/orlop-io/orlop/cmd/apiserver/rbac"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/components"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/csr"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/devices"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/namespaces"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/pods"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/proxy"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/scale"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/services"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	"github.com/orlop-io/orlop/cmd/apiserver/reviews"
	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// Config is what the storages need of the server.
type Config struct {
	Store    store.Config
	Kubelet  kubeletclient.Config
	Services services.Config
	// AllowPrivileged lets pods have privileged containers.
	AllowPrivileged bool
	// EventTTL is how many seconds events are kept.
	EventTTL uint64
	// Guard keeps users from granting what they do not have; nil where RBAC is not an authorizer.
	Guard *rbac.Guard
	// Signer signs service account tokens; nil leaves out serviceaccounts/token.
	Signer *satoken.Signer
	// MaxTokenLifetime bounds tokens; zero means no bound. ExtendTokens is reviews.TokenConfig.Extend.
	MaxTokenLifetime time.Duration
	ExtendTokens     bool
	Authenticator    authenticator.Request
	Audiences        authenticator.Audiences
	Authorizer       authorizer.Authorizer
	Rules            authorizer.RuleResolver
	// PolicyWritten is told of every network policy that was stored; nil tells nobody.
	PolicyWritten func(*networkingv1.NetworkPolicy)
	// ComponentChecks ask the parts of the control plane how they are, by name.
	ComponentChecks map[string]components.Check
}

// Group is the storage of one API group, by version and resource.
type Group struct {
	Name     string
	Versions []schema.GroupVersion
	Storage  map[string]map[string]rest.Storage
}

// API is the storage of all built-in resources.
type API struct {
	Groups    []Group
	Allocator *services.Allocator
	// Kubelet finds a node's kubelet.
	Kubelet func(ctx context.Context, node string) (kubeletclient.Kubelet, error)
	// Pods is the storage of pods, whether they are served or not.
	Pods *store.Storage
	// Binding is that of pods/binding.
	Binding *pods.Binding
}

// builder holds storages while they are assembled.
type builder struct {
	cfg    Config
	stores map[schema.GroupResource]*store.Storage
	out    map[schema.GroupVersion]map[string]rest.Storage
	// kubelets and binding are there once pods was called.
	kubelets *kubeletclient.Client
	binding  *pods.Binding
}

// Build opens the storages. ctx bounds work that outlives a request.
func Build(ctx context.Context, cfg Config) (*API, error) {
	b := &builder{cfg: cfg, stores: map[schema.GroupResource]*store.Storage{}, out: map[schema.GroupVersion]map[string]rest.Storage{}}
	resources := append(coreResources(cfg), groupResources(cfg)...)
	resources = append(resources, services.AddressResource())
	for _, r := range append(resources, devices.Resources(b.namespaceLabels, cfg.Authorizer)...) {
		s, err := store.New(cfg.Store, r)
		if err != nil {
			return nil, err
		}
		b.stores[r.GroupResource()] = s
		for _, gv := range append([]schema.GroupVersion{r.GV}, r.Also...) {
			b.put(gv, r.Plural, s)
			if s.HasStatus() {
				b.put(gv, r.Plural+"/status", s.Status())
			}
		}
	}
	allocator, err := b.services(ctx)
	if err != nil {
		return nil, err
	}
	b.namespaces()
	b.networkPolicies()
	for _, add := range []func() error{b.pods, b.scales, b.access, b.tokens} {
		if err := add(); err != nil {
			return nil, err
		}
	}
	csrs := b.stores[certificatesv1.Resource("certificatesigningrequests")]
	b.put(certificatesv1.SchemeGroupVersion, "certificatesigningrequests/approval", csr.Approval(csrs))
	return &API{Groups: b.groups(), Allocator: allocator, Kubelet: b.kubelets.Kubelet, Pods: b.core("pods"), Binding: b.binding}, nil
}

func (b *builder) put(gv schema.GroupVersion, name string, s rest.Storage) {
	if b.out[gv] == nil {
		b.out[gv] = map[string]rest.Storage{}
	}
	b.out[gv][name] = s
}

func (b *builder) core(resource string) *store.Storage { return b.stores[corev1.Resource(resource)] }

// namespaceLabels reads the labels of a namespace, for rules that depend on them.
func (b *builder) namespaceLabels(ctx context.Context, name string) (map[string]string, error) {
	obj, err := b.core("namespaces").Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Namespace).Labels, nil
}

func (b *builder) services(ctx context.Context) (*services.Allocator, error) {
	ranges, err := services.NewRanges(b.cfg.Store.Options)
	if err != nil {
		return nil, err
	}
	return services.Allocate(ctx, b.cfg.Services, services.Stores{
		Services: b.core("services"), Ranges: ranges,
		Addresses: b.stores[networkingv1.Resource("ipaddresses")], CIDRs: b.stores[networkingv1.Resource("servicecidrs")],
	})
}

func (b *builder) namespaces() {
	main, finalize := namespaces.New(b.core("namespaces"))
	b.put(corev1.SchemeGroupVersion, "namespaces", main)
	b.put(corev1.SchemeGroupVersion, "namespaces/status", main.Status()) // anew: it must know what New set
	b.put(corev1.SchemeGroupVersion, "namespaces/finalize", finalize)
}

// networkPolicies lets others know of policies, but not of those that a dry run only tries.
func (b *builder) networkPolicies() {
	if b.cfg.PolicyWritten == nil {
		return
	}
	s := b.stores[networkingv1.Resource("networkpolicies")]
	s.AfterCreate = func(obj runtime.Object, o *metav1.CreateOptions) {
		if len(o.DryRun) == 0 {
			b.cfg.PolicyWritten(obj.(*networkingv1.NetworkPolicy))
		}
	}
	s.AfterUpdate = func(obj runtime.Object, o *metav1.UpdateOptions) {
		if len(o.DryRun) == 0 {
			b.cfg.PolicyWritten(obj.(*networkingv1.NetworkPolicy))
		}
	}
}

func (b *builder) pods() error {
	nodes, main := b.core("nodes"), b.core("pods")
	kubelets, err := kubeletclient.New(b.cfg.Kubelet, func(ctx context.Context, name string) (*corev1.Node, error) {
		obj, err := nodes.Get(ctx, name, &metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return obj.(*corev1.Node), nil
	})
	if err != nil {
		return err
	}
	b.kubelets = kubelets
	streams := pods.NewStreams(main, kubelets.Kubelet)
	if b.binding, err = pods.NewBinding(main); err != nil {
		return err
	}
	for name, s := range map[string]rest.Storage{
		"bindings":                 pods.LegacyBinding{Binding: b.binding},
		"pods/binding":             b.binding,
		"pods/ephemeralcontainers": pods.NewEphemeralContainers(main),
		"pods/eviction":            pods.NewEviction(main, b.stores[policyv1.Resource("poddisruptionbudgets")]),
		"pods/resize":              pods.NewResize(main),
		"pods/log":                 streams.Log(),
		"pods/exec":                streams.Exec(),
		"pods/attach":              streams.Attach(),
		"pods/portforward":         streams.PortForward(),
		"pods/proxy":               proxy.Pods(main),
		"nodes/proxy":              proxy.Nodes(kubelets.Kubelet),
		"services/proxy":           proxy.Services(b.core("services"), b.stores[discoveryv1.Resource("endpointslices")]),
		"componentstatuses":        components.New(b.cfg.ComponentChecks, b.cfg.Store.Table(corev1.Resource("componentstatuses"))),
	} {
		b.put(corev1.SchemeGroupVersion, name, s)
	}
	return nil
}

func (b *builder) scales() error {
	table := b.cfg.Store.Table(autoscalingv1.Resource("scales"))
	for _, r := range []schema.GroupVersionResource{
		appsv1.SchemeGroupVersion.WithResource("deployments"),
		appsv1.SchemeGroupVersion.WithResource("replicasets"),
		appsv1.SchemeGroupVersion.WithResource("statefulsets"),
		corev1.SchemeGroupVersion.WithResource("replicationcontrollers"),
	} {
		b.put(r.GroupVersion(), r.Resource+"/scale", scale.New(b.stores[r.GroupResource()], r.GroupVersion(), table))
	}
	return nil
}

// access puts the guard before roles and bindings, and adds the reviews.
func (b *builder) access() error {
	for name, s := range reviews.Authentication(b.cfg.Authenticator, b.cfg.Audiences) {
		b.put(authenticationv1.SchemeGroupVersion, name, s)
	}
	for name, s := range reviews.Authorization(b.cfg.Authorizer, b.cfg.Rules) {
		b.put(authorizationv1.SchemeGroupVersion, name, s)
	}
	if b.cfg.Guard == nil {
		return nil
	}
	for _, name := range []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		s, err := rbac.NewPolicyStorage(b.stores[rbacv1.Resource(name)].Store, name, b.cfg.Guard)
		if err != nil {
			return err
		}
		b.put(rbacv1.SchemeGroupVersion, name, s)
	}
	return nil
}

func (b *builder) tokens() error {
	if b.cfg.Signer == nil {
		return nil
	}
	t, err := reviews.NewToken(reviews.TokenConfig{
		Signer: b.cfg.Signer, Audiences: b.cfg.Audiences,
		ServiceAccounts: b.core("serviceaccounts"), Pods: b.core("pods"), Secrets: b.core("secrets"), Nodes: b.core("nodes"),
		MaxLifetime: b.cfg.MaxTokenLifetime, Extend: b.cfg.ExtendTokens,
	})
	if err != nil {
		return err
	}
	b.put(corev1.SchemeGroupVersion, "serviceaccounts/token", t)
	return nil
}

// groups brings the storages into the order in which they are installed, which is that of discovery.
func (b *builder) groups() []Group {
	var out []Group
	at := map[string]int{}
	for _, gv := range scheme.Served() {
		if b.out[gv] == nil {
			continue
		}
		i, ok := at[gv.Group]
		if !ok {
			i = len(out)
			at[gv.Group] = i
			out = append(out, Group{Name: gv.Group, Storage: map[string]map[string]rest.Storage{}})
		}
		out[i].Versions = append(out[i].Versions, gv)
		out[i].Storage[gv.Version] = b.out[gv]
	}
	return out
}
