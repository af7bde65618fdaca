package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/flagz"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	cliflag "k8s.io/component-base/cli/flag"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of our clients and queues
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"

	"github.com/orlop-io/orlop/cmd/apiserver/controlplane"
	"github.com/orlop-io/orlop/cmd/apiserver/defaults"
	"github.com/orlop-io/orlop/cmd/apiserver/metricsapi"
	"github.com/orlop-io/orlop/cmd/apiserver/openapi"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// Server is an API server that has opened its store and its port, but serves nothing before Run.
type Server struct {
	run func(ctx context.Context) error
}

// Run serves until ctx ends, and returns when all requests have.
func (s *Server) Run(ctx context.Context) error { return s.run(ctx) }

// base is what the three chained servers share.
type base struct {
	options   *Options
	types     scheme.Types
	config    *genericapiserver.Config
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	pods      *direct
	bindings  *bindings
	factory   *serverstorage.DefaultStorageFactory
	access    *access
	resolver  webhook.ServiceResolver
	outbound  webhook.AuthenticationInfoResolverWrapper
	// unenforced tells of network policies.
	unenforced *controlplane.Unenforced
}

// New builds the server. ctx bounds work that outlives single requests; it must be the one that Run gets.
func New(ctx context.Context, o *Options) (*Server, error) {
	b, err := newBase(o)
	if err != nil {
		return nil, err
	}
	notFound := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
	extensions, err := b.newExtensions(genericapiserver.NewEmptyDelegateWithCustomHandler(notFound))
	if err != nil {
		return nil, err
	}
	core, err := b.newCore(ctx, extensions.GenericAPIServer)
	if err != nil {
		return nil, err
	}
	aggregator, err := b.newAggregator(core, extensions)
	if err != nil {
		return nil, err
	}
	describe, err := describeCustom(aggregator.GenericAPIServer, extensions)
	if err != nil {
		return nil, err
	}
	prepared, err := aggregator.PrepareRun()
	if err != nil {
		return nil, fmt.Errorf("prepare server: %w", err)
	}
	describe()
	return &Server{func(ctx context.Context) error {
		if err := b.checkEncryption(ctx); err != nil {
			return err
		}
		return prepared.Run(ctx)
	}}, nil
}

func newBase(o *Options) (*base, error) {
	if err := checkVersion(); err != nil {
		return nil, err
	}
	if err := o.Serving.MaybeDefaultWithSelfSignedCerts("localhost", nil, nil); err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	if err := o.Run.DefaultAdvertiseAddress(o.Serving); err != nil {
		return nil, err
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	types, err := scheme.New(defaults.AddToScheme, metricsapi.AddToScheme)
	if err != nil {
		return nil, err
	}
	b := &base{options: o, types: types, config: genericapiserver.NewConfig(types.Codecs), pods: newDirect()}
	if b.bindings, err = newBindings(types.Scheme, types.Codecs); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.serving, b.clients, b.documents, b.storage, b.security} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *base) serving() error {
	if err := b.options.Run.ApplyTo(b.config); err != nil {
		return fmt.Errorf("apply run options: %w", err)
	}
	if err := b.options.Serving.ApplyTo(&b.config.SecureServing); err != nil {
		return fmt.Errorf("open port: %w", err)
	}
	if err := setLoopback(b.config); err != nil {
		return err
	}
	gc := b.config
	if gc.ExternalAddress == "" {
		gc.ExternalAddress = b.options.Run.AdvertiseAddress.String()
	}
	gc.LoopbackClientConfig.ContentConfig.ContentType = "application/vnd.kubernetes.protobuf"
	gc.LoopbackClientConfig.ContentConfig.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	// The traffic never leaves the process; and the server must not queue behind itself.
	gc.LoopbackClientConfig.DisableCompression = true
	gc.LoopbackClientConfig.QPS = -1
	gc.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	gc.BuildHandlerChainFunc = func(h http.Handler, c *genericapiserver.Config) http.Handler {
		chain := *c
		chain.Authentication.Authenticator = growingAuthenticator(c.Authentication.Authenticator)
		return growing(genericapiserver.DefaultBuildHandlerChain(answerMergePanics(b.bindings.before(h), c.Serializer), &chain))
	}
	if b.options.flags != nil {
		gc.Flagz = flagz.NamedFlagSetsReader{FlagSets: cliflag.NamedFlagSets{FlagSets: map[string]*pflag.FlagSet{"kube-apiserver": b.options.flags}}}
	}
	gc.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	return nil
}

func (b *base) clients() error {
	client, err := kubernetes.NewForConfig(b.config.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	b.client = client
	b.unenforced = controlplane.NewUnenforced(client)
	b.informers = informers.NewSharedInformerFactoryWithOptions(client, 10*time.Minute, informers.WithTransform(forgetFieldOwners))
	informPods(b.informers, b.pods)
	if err := b.options.Features.ApplyTo(b.config, client, b.informers); err != nil {
		return fmt.Errorf("apply feature options: %w", err)
	}
	b.options.Metrics.Apply()
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
	if err := b.options.Traces.ApplyTo(b.config.EgressSelector, b.config); err != nil {
		return fmt.Errorf("apply tracing options: %w", err)
	}
	if err := b.options.Audit.ApplyTo(b.config); err != nil {
		return fmt.Errorf("apply audit options: %w", err)
	}
	return nil
}

// forgetFieldOwners halves what our own caches need: nothing that reads from them asks who set a field.
func forgetFieldOwners(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil && len(m.GetManagedFields()) > 0 {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

func (b *base) documents() error {
	namer := openapinamer.NewDefinitionNamer(b.types.Scheme, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme)
	definitions := utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(definitions)
	b.config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	b.config.OpenAPIConfig.Info.Title = "Kubernetes"
	b.config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	b.config.OpenAPIV3Config.Info.Title = "Kubernetes"
	return nil
}

func definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	out := openapi.GetOpenAPIDefinitions(ref)
	for _, more := range []map[string]common.OpenAPIDefinition{
		apiextensionsopenapi.GetOpenAPIDefinitions(ref), aggregatoropenapi.GetOpenAPIDefinitions(ref),
	} {
		for name, d := range more {
			out[name] = d
		}
	}
	return out
}

// storagePrefixes are the resources that upstream keeps under other names than their own.
func storagePrefixes() map[schema.GroupResource]string {
	return map[schema.GroupResource]string{
		{Resource: "replicationcontrollers"}:                "controllers",
		{Resource: "endpoints"}:                             "services/endpoints",
		{Resource: "services"}:                              "services/specs",
		{Resource: "nodes"}:                                 "minions",
		{Group: "networking.k8s.io", Resource: "ingresses"}: "ingress",
		{Group: "policy", Resource: "podsecuritypolicies"}:  "podsecuritypolicy",
	}
}

func (b *base) storage() error {
	gc, o := b.config, b.options
	redialEtcd(o.Etcd)
	served := serverstorage.NewResourceConfig()
	served.EnableVersions(scheme.Served()...)
	// With the flag's wishes, only custom resources and what the scheme has may be named: all else is a mistake.
	if err := errors.Join(o.APIs.Validate(b.types.Scheme, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme)...); err != nil {
		return fmt.Errorf("--runtime-config: %w", err)
	}
	if err := o.APIs.ApplyTo(gc, served, b.types.Scheme); err != nil {
		return fmt.Errorf("--runtime-config: %w", err)
	}
	encoding := serverstorage.NewDefaultResourceEncodingConfigForEffectiveVersion(b.types.Scheme, gc.EffectiveVersion)
	b.factory = serverstorage.NewDefaultStorageFactory(o.Etcd.StorageConfig, o.Etcd.DefaultStorageMediaType, b.types.Codecs, encoding, gc.MergedResourceConfig, storagePrefixes())
	b.factory.AddCohabitatingResources(schema.GroupResource{Resource: "events"}, schema.GroupResource{Group: "events.k8s.io", Resource: "events"})
	b.factory.StorageConfig.StorageObjectCountTracker = gc.StorageObjectCountTracker
	if err := o.Etcd.ApplyWithStorageFactoryTo(b.factory, gc); err != nil {
		return fmt.Errorf("apply storage options: %w", err)
	}
	return nil
}

func (b *base) security() error {
	gc, o := b.config, b.options
	var err error
	if b.access, err = setAccess(gc, o, b.client, b.informers); err != nil {
		return err
	}
	dyn, err := dynamic.NewForConfig(gc.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	if b.resolver, err = b.newResolver(); err != nil {
		return err
	}
	b.outbound = webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, gc.EgressSelector, gc.LoopbackClientConfig, gc.TracerProvider)
	err = o.Admission.ApplyTo(gc, b.informers, b.client, dyn, utilfeature.DefaultFeatureGate, gc.EffectiveVersion,
		webhookinit.NewPluginInitializer(b.outbound, b.resolver))
	if err != nil {
		return fmt.Errorf("set up admission: %w", err)
	}
	return nil
}

// newResolver finds the servers behind Services. This server itself is one of them, which it must know before its own
// Service has endpoints.
func (b *base) newResolver() (webhook.ServiceResolver, error) {
	services := b.informers.Core().V1().Services().Lister()
	resolver := aggregatorapiserver.NewClusterIPServiceResolver(services)
	if b.options.AggregatorRouting {
		slices, err := proxy.NewEndpointSliceIndexerGetter(b.informers.Discovery().V1().EndpointSlices())
		if err != nil {
			return nil, fmt.Errorf("index endpoint slices: %w", err)
		}
		resolver = aggregatorapiserver.NewEndpointServiceResolver(services, slices)
	}
	self, err := url.Parse(b.config.LoopbackClientConfig.Host)
	if err != nil {
		return nil, fmt.Errorf("read own address: %w", err)
	}
	return aggregatorapiserver.NewLoopbackServiceResolver(resolver, self), nil
}
