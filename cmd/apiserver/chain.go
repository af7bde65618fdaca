package apiserver

import (
	"context"
	"debug/elf"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"

	"github.com/orlop-io/orlop/cmd/apiserver/alpha"
	"github.com/orlop-io/orlop/cmd/apiserver/documents"
	"github.com/orlop-io/orlop/cmd/apiserver/kubeletclient"
	"github.com/orlop-io/orlop/cmd/apiserver/metricsapi"
	"github.com/orlop-io/orlop/cmd/apiserver/printers"
	"github.com/orlop-io/orlop/cmd/apiserver/rbac"
	"github.com/orlop-io/orlop/cmd/apiserver/registry"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/services"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
	"github.com/orlop-io/orlop/cmd/apiserver/validation"
	"github.com/orlop-io/orlop/cmd/apiserver/warnings"
)

// derive copies the shared configuration for a server whose types are in a scheme of their own, stored as JSON at gv.
func (b *base) derive(gv schema.GroupVersion, codecs serializer.CodecFactory, served *serverstorage.ResourceConfig) (genericapiserver.Config, error) {
	c := *b.config
	// Hooks belong to one server: the shared ones to the core server.
	c.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	c.MergedResourceConfig = served
	etcd := *b.options.Etcd
	etcd.StorageConfig.Codec = codecs.LegacyCodec(gv)
	etcd.StorageConfig.EncodeVersioner = runtime.NewMultiGroupVersioner(gv)
	etcd.StorageConfig.StorageObjectCountTracker = c.StorageObjectCountTracker
	etcd.SkipHealthEndpoints = true
	if err := etcd.ApplyTo(&c); err != nil {
		return c, fmt.Errorf("apply storage options for %s: %w", gv, err)
	}
	return c, nil
}

func (b *base) newExtensions(next genericapiserver.DelegationTarget) (*apiextensionsapiserver.CustomResourceDefinitions, error) {
	c, err := b.derive(apiextensionsv1.SchemeGroupVersion, apiextensionsapiserver.Codecs, apiextensionsapiserver.DefaultAPIResourceConfigSource())
	if err != nil {
		return nil, err
	}
	cfg := &apiextensionsapiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: c, SharedInformerFactory: b.informers},
		ExtraConfig: apiextensionsapiserver.ExtraConfig{
			CRDRESTOptionsGetter: apiextensionsoptions.NewCRDRESTOptionsGetter(*b.options.Etcd, c.ResourceTransformers, c.StorageObjectCountTracker),
			MasterCount:          1,
			ServiceResolver:      b.resolver,
			AuthResolverWrapper:  b.outbound,
		},
	}
	s, err := cfg.Complete().New(next)
	if err != nil {
		return nil, fmt.Errorf("build server of custom resources: %w", err)
	}
	return s, nil
}

func (b *base) newCore(ctx context.Context, next genericapiserver.DelegationTarget) (*genericapiserver.GenericAPIServer, error) {
	c := *b.config
	c.SkipOpenAPIInstallation = true // see package documents
	s, err := c.Complete(b.informers).New("kube-apiserver", next)
	if err != nil {
		return nil, fmt.Errorf("build server of built-in resources: %w", err)
	}
	api, err := b.registry(ctx, &c)
	if err != nil {
		return nil, err
	}
	b.pods.open(api.Pods)
	// A file may configure policies that no list shows.
	if c.MergedResourceConfig.ResourceEnabled(corev1.SchemeGroupVersion.WithResource("pods")) && b.options.Admission.ConfigFile == "" {
		b.bindings.open(api.Binding, c.AdmissionControl, observers(b.informers))
	}
	for _, g := range append(enabled(api.Groups, c.MergedResourceConfig), b.metrics(api)...) {
		info := genericapiserver.NewDefaultAPIGroupInfo(g.Name, b.types.Scheme, b.types.Parameters, b.types.Codecs)
		info.PrioritizedVersions = g.Versions
		info.VersionedResourcesStorageMap = g.Storage
		if g.Name == "" {
			err = s.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &info)
		} else {
			err = s.InstallAPIGroup(&info)
		}
		if err != nil {
			return nil, fmt.Errorf("install API group %q: %w", g.Name, err)
		}
	}
	b.publishKeys(s)
	build, err := buildID("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("know this program from others: %w", err)
	}
	documents.Install(s.Handler.NonGoRestfulMux, documents.Config{V2: c.OpenAPIConfig, V3: c.OpenAPIV3Config, Services: s.Handler.GoRestfulContainer, Build: build})
	return s, b.addHooks(ctx, s, &c, api)
}

// describeCustom keeps the documents of custom resources in place of the library. What it returns takes them over, between
// the preparation of the server, which makes the service, and its start, which would start the library's controller.
func describeCustom(front *genericapiserver.GenericAPIServer, extensions *apiextensionsapiserver.CustomResourceDefinitions) (func(), error) {
	var service *handler3.OpenAPIService
	custom, err := documents.NewCustom(documents.CustomConfig{
		Definitions: extensions.Informers.Apiextensions().V1().CustomResourceDefinitions().Informer(),
		Publish:     func(path string, d *spec3.OpenAPI) { service.UpdateGroupVersion(path, d) },
		Withdraw:    func(path string) { service.DeleteGroupVersion(path) },
	})
	if err != nil {
		return nil, err
	}
	err = front.AddPostStartHook("describe-custom-resources", func(h genericapiserver.PostStartHookContext) error {
		go custom.Run(h)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("add start hook: %w", err)
	}
	of := extensions.GenericAPIServer
	return func() { service, of.OpenAPIV3VersionedService = of.OpenAPIV3VersionedService, nil }, nil
}

// buildID is what the linker made of all that went into a program.
func buildID(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, name := range []string{".note.go.buildid", ".note.gnu.build-id"} {
		if s := f.Section(name); s != nil {
			id, err := s.Data()
			return string(id), err
		}
	}
	return "", fmt.Errorf("no build ID in %s", path)
}

func (b *base) registry(ctx context.Context, c *genericapiserver.Config) (*registry.API, error) {
	o := b.options
	families, err := o.serviceFamilies()
	if err != nil {
		return nil, err
	}
	cfg := registry.Config{
		Store: store.Config{
			Scheme: b.types.Scheme, Options: c.RESTOptionsGetter,
			ValidateCreate: validation.Create, ValidateUpdate: validation.Update, ValidateStatus: validation.UpdateStatus,
			Drop:  alpha.Drop,
			Begin: growStack,
			Warn:  warnings.For,
			Table: printers.For,
		},
		Kubelet: kubeletclient.Config{
			CertFile: o.KubeletCertFile, KeyFile: o.KubeletKeyFile, CAFile: o.KubeletCAFile,
			AddressTypes: o.addressTypes(), DialTimeout: o.KubeletTimeout,
		},
		Services:        services.Config{Families: families, NodePorts: o.NodePorts},
		AllowPrivileged: o.AllowPrivileged, EventTTL: uint64(o.EventTTL.Seconds()),
		Signer: b.access.signer, MaxTokenLifetime: o.TokenMaxLifetime, ExtendTokens: o.TokenExtend,
		Authenticator: c.Authentication.Authenticator, Audiences: c.Authentication.APIAudiences,
		Authorizer: c.Authorization.Authorizer, Rules: b.access.rules,
		ComponentChecks: componentChecks(b.factory), PolicyWritten: b.unenforced.Written,
	}
	if o.guarded() {
		cfg.Guard = &rbac.Guard{Authorizer: c.Authorization.Authorizer, Policy: b.access.rbac, Client: b.client}
	}
	return registry.Build(ctx, cfg)
}

// metrics is the group metrics.k8s.io. It is served only where kubelets are known by their certificates: what it says
// decides how many pods run.
func (b *base) metrics(api *registry.API) []registry.Group {
	if !b.options.metricsServed() {
		return nil
	}
	gv, core := metricsapi.GroupVersion, b.informers.Core().V1()
	return []registry.Group{{Name: gv.Group, Versions: []schema.GroupVersion{gv},
		Storage: map[string]map[string]rest.Storage{gv.Version: metricsapi.Storage(api.Kubelet, core.Nodes().Lister(), core.Pods().Lister())}}}
}

// enabled leaves out the versions and resources that --runtime-config switches off.
func enabled(groups []registry.Group, on serverstorage.APIResourceConfigSource) []registry.Group {
	var out []registry.Group
	for _, g := range groups {
		left := registry.Group{Name: g.Name, Storage: map[string]map[string]rest.Storage{}}
		for _, gv := range g.Versions {
			resources := map[string]rest.Storage{}
			for name, s := range g.Storage[gv.Version] {
				resource, _, _ := strings.Cut(name, "/")
				if on.ResourceEnabled(gv.WithResource(resource)) {
					resources[name] = s
				}
			}
			if len(resources) > 0 {
				left.Versions, left.Storage[gv.Version] = append(left.Versions, gv), resources
			}
		}
		if len(left.Versions) > 0 {
			out = append(out, left)
		}
	}
	return out
}

// publishKeys serves the documents by which others verify service account tokens.
func (b *base) publishKeys(s *genericapiserver.GenericAPIServer) {
	if b.access.discovery == nil {
		return
	}
	for path, document := range map[string]struct {
		body        []byte
		contentType string
	}{
		satoken.ConfigurationPath: {b.access.discovery.Configuration, "application/json"},
		satoken.KeysPath:          {b.access.discovery.Keys, "application/jwk-set+json"},
	} {
		s.Handler.NonGoRestfulMux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", document.contentType)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			_, _ = w.Write(document.body)
		})
	}
}

func (b *base) newAggregator(core *genericapiserver.GenericAPIServer, extensions *apiextensionsapiserver.CustomResourceDefinitions) (*aggregatorapiserver.APIAggregator, error) {
	c, err := b.derive(apiregistrationv1.SchemeGroupVersion, aggregatorscheme.Codecs, aggregatorapiserver.DefaultAPIResourceConfigSource())
	if err != nil {
		return nil, err
	}
	// The aggregator merges the documents of all servers behind it instead of serving its own.
	c.SkipOpenAPIInstallation = true
	cfg := &aggregatorapiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: c, SharedInformerFactory: b.informers},
		ExtraConfig: aggregatorapiserver.ExtraConfig{
			ProxyClientCertFile: b.options.ProxyCertFile, ProxyClientKeyFile: b.options.ProxyKeyFile,
			ServiceResolver: b.resolver, RejectForwardingRedirects: b.options.AggregatorRejectRedirects,
		},
	}
	s, err := cfg.Complete().NewWithDelegate(core)
	if err != nil {
		return nil, fmt.Errorf("build aggregator: %w", err)
	}
	// Aggregated discovery has the order of the other one.
	for _, service := range builtinServices() {
		gv := metav1.GroupVersion{Group: service.Spec.Group, Version: service.Spec.Version}
		b.config.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(gv, int(service.Spec.GroupPriorityMinimum), int(service.Spec.VersionPriority))
	}
	return s, b.register(s, extensions)
}
