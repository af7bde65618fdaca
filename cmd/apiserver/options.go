package apiserver

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	apiserveradmission "k8s.io/apiserver/pkg/admission"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/util/keyutil"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/metrics"

	"github.com/orlop-io/orlop/cmd/apiserver/admission"
)

// Options are the flags of the API server. Their names and meanings are kube-apiserver's; a flag that is not here is
// not understood, and the program says so instead of ignoring it.
type Options struct {
	Run       *genericoptions.ServerRunOptions
	Serving   *genericoptions.SecureServingOptions
	Etcd      *genericoptions.EtcdOptions
	Audit     *genericoptions.AuditOptions
	Features  *genericoptions.FeatureOptions
	Admission *genericoptions.AdmissionOptions
	Proxies   *genericoptions.RequestHeaderAuthenticationOptions
	Logging   *logsapi.LoggingConfiguration
	APIs      *genericoptions.APIEnablementOptions
	Traces    *genericoptions.TracingOptions
	Metrics   *metrics.Options

	ClientCAFile    string
	Anonymous       bool
	AuthnConfigFile string
	BootstrapTokens bool
	TokenFile       string
	APIAudiences    []string

	AuthorizationModes []string

	TokenIssuers     []string
	TokenKeyFiles    []string
	TokenSigningFile string
	TokenMaxLifetime time.Duration
	TokenExtend      bool
	TokenLookup      bool
	TokenKeysURL     string

	KubeletCertFile, KubeletKeyFile, KubeletCAFile string
	KubeletAddressTypes                            []string
	KubeletTimeout                                 time.Duration

	Patience           *admission.Patience
	AllowPrivileged    bool
	ServiceRange       string
	NodePorts          utilnet.PortRange
	EndpointReconciler string
	EventTTL           time.Duration

	ProxyCertFile, ProxyKeyFile string
	AggregatorRouting           bool
	// AggregatorRejectRedirects answers 502 where an extension API server redirects, instead of handing the redirect on.
	AggregatorRejectRedirects bool

	// flags are those that AddFlags bound, for /flagz; nil where there are none.
	flags *pflag.FlagSet
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	o := &Options{
		Run:       genericoptions.NewServerRunOptions(),
		Serving:   genericoptions.NewSecureServingOptions(),
		Etcd:      genericoptions.NewEtcdOptions(storagebackend.NewDefaultConfig("/registry", nil)),
		Audit:     genericoptions.NewAuditOptions(),
		Features:  genericoptions.NewFeatureOptions(),
		Admission: genericoptions.NewAdmissionOptions(),
		Proxies:   &genericoptions.RequestHeaderAuthenticationOptions{},
		Logging:   logsapi.NewLoggingConfiguration(),
		APIs:      genericoptions.NewAPIEnablementOptions(),
		Traces:    genericoptions.NewTracingOptions(),
		Metrics:   metrics.NewOptions(),

		Patience:            admission.NewPatience(),
		Anonymous:           true,
		AuthorizationModes:  []string{modeAlwaysAllow},
		TokenExtend:         true,
		TokenLookup:         true,
		KubeletAddressTypes: []string{"Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"},
		KubeletTimeout:      5 * time.Second,
		ServiceRange:        "10.0.0.0/24",
		NodePorts:           utilnet.PortRange{Base: 30000, Size: 2768},
		EndpointReconciler:  reconcileLease,
		EventTTL:            time.Hour,

		AggregatorRejectRedirects: true,
	}
	o.Serving.BindPort = 6443
	o.Serving.Required = true
	o.Serving.ServerCert.CertDirectory = ""
	o.Etcd.DefaultStorageMediaType = "application/vnd.kubernetes.protobuf"
	o.Admission.Plugins = apiserveradmission.NewPlugins()
	admission.Register(o.Admission.Plugins, o.Patience)
	o.Admission.RecommendedPluginOrder = admission.RecommendedOrder()
	o.Admission.DefaultOffPlugins = sets.New(admission.DefaultOff()...)
	return o
}

const (
	modeNode        = "Node"
	modeRBAC        = "RBAC"
	modeAlwaysAllow = "AlwaysAllow"
	modeAlwaysDeny  = "AlwaysDeny"

	reconcileLease = "lease"
	reconcileNone  = "none"
)

// AddFlags binds o to fs.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	o.flags = fs
	o.Run.AddUniversalFlags(fs)
	o.Serving.AddFlags(fs)
	o.Etcd.AddFlags(fs)
	o.Audit.AddFlags(fs)
	o.Features.AddFlags(fs)
	o.Admission.AddFlags(fs)
	o.Proxies.AddFlags(fs)
	logsapi.AddFlags(o.Logging, fs)
	o.APIs.AddFlags(fs)
	o.Traces.AddFlags(fs)
	o.Metrics.AddFlags(fs)

	fs.StringVar(&o.ClientCAFile, "client-ca-file", o.ClientCAFile, "Clients with a certificate signed by an authority in this file are the user of its common name.")
	fs.BoolVar(&o.Anonymous, "anonymous-auth", o.Anonymous, "Requests without any credential are those of system:anonymous; otherwise they are refused.")
	fs.StringVar(&o.AuthnConfigFile, "authentication-config", o.AuthnConfigFile, "File of an AuthenticationConfiguration; what it says of anonymous requests takes the place of --anonymous-auth.")
	fs.BoolVar(&o.BootstrapTokens, "enable-bootstrap-token-auth", o.BootstrapTokens, "Accept the tokens of Secrets of type bootstrap.kubernetes.io/token in kube-system.")
	fs.StringVar(&o.TokenFile, "token-auth-file", o.TokenFile, "CSV file of bearer tokens, read at the start: token, user, uid, and groups in quotes.")
	fs.StringSliceVar(&o.APIAudiences, "api-audiences", o.APIAudiences, "Audiences of this server; tokens must be for one of them. The first service account issuer if empty.")
	fs.StringSliceVar(&o.AuthorizationModes, "authorization-mode", o.AuthorizationModes, "Ordered list of authorizers: AlwaysAllow, AlwaysDeny, Node, RBAC.")

	fs.StringArrayVar(&o.TokenIssuers, "service-account-issuer", o.TokenIssuers, "Issuer of service account tokens; repeated, the first signs and all are accepted.")
	fs.StringArrayVar(&o.TokenKeyFiles, "service-account-key-file", o.TokenKeyFiles, "PEM file of keys that verify service account tokens; may be repeated.")
	fs.StringVar(&o.TokenSigningFile, "service-account-signing-key-file", o.TokenSigningFile, "PEM file of the private key that signs service account tokens.")
	fs.DurationVar(&o.TokenMaxLifetime, "service-account-max-token-expiration", o.TokenMaxLifetime, "Longest life of a service account token; 0 is no limit.")
	fs.BoolVar(&o.TokenExtend, "service-account-extend-token-expiration", o.TokenExtend, "Let projected tokens live longer than asked for, for clients that never read them again.")
	fs.BoolVar(&o.TokenLookup, "service-account-lookup", o.TokenLookup, "Refuse service account tokens whose account, pod, secret or node is gone.")
	fs.StringVar(&o.TokenKeysURL, "service-account-jwks-uri", o.TokenKeysURL, "URL of the token keys in the discovery document; this server's external address if empty.")

	fs.StringVar(&o.KubeletCertFile, "kubelet-client-certificate", o.KubeletCertFile, "Client certificate for connections to kubelets.")
	fs.StringVar(&o.KubeletKeyFile, "kubelet-client-key", o.KubeletKeyFile, "Key of the client certificate for connections to kubelets.")
	fs.StringVar(&o.KubeletCAFile, "kubelet-certificate-authority", o.KubeletCAFile, "Authority that kubelets' serving certificates are verified against; not verified if empty.")
	fs.StringSliceVar(&o.KubeletAddressTypes, "kubelet-preferred-address-types", o.KubeletAddressTypes, "Node address types to use for connections to kubelets, best first.")
	fs.DurationVar(&o.KubeletTimeout, "kubelet-timeout", o.KubeletTimeout, "Time to connect to a kubelet.")

	fs.Int64Var(&o.Patience.NotReady, "default-not-ready-toleration-seconds", o.Patience.NotReady, "How long pods that do not say it themselves stay on a node that is not ready.")
	fs.Int64Var(&o.Patience.Unreachable, "default-unreachable-toleration-seconds", o.Patience.Unreachable, "How long pods that do not say it themselves stay on a node that cannot be reached.")
	fs.BoolVar(&o.AllowPrivileged, "allow-privileged", o.AllowPrivileged, "Allow privileged containers.")
	fs.StringVar(&o.ServiceRange, "service-cluster-ip-range", o.ServiceRange, "Range of cluster IPs, in CIDR notation; or two of different families, separated by a comma, of which the first is the default.")
	fs.Var(&o.NodePorts, "service-node-port-range", "Range of node ports, as in 30000-32767.")
	fs.StringVar(&o.EndpointReconciler, "endpoint-reconciler-type", o.EndpointReconciler, "How the endpoints of the Service kubernetes are kept: lease or none.")
	fs.DurationVar(&o.EventTTL, "event-ttl", o.EventTTL, "How long events are kept.")

	fs.StringVar(&o.ProxyCertFile, "proxy-client-cert-file", o.ProxyCertFile, "Client certificate for requests to extension API servers.")
	fs.StringVar(&o.ProxyKeyFile, "proxy-client-key-file", o.ProxyKeyFile, "Key of the client certificate for requests to extension API servers.")
	fs.BoolVar(&o.AggregatorRejectRedirects, "aggregator-reject-forwarding-redirect", o.AggregatorRejectRedirects, "Do not hand redirects of extension API servers on to clients.")
	fs.BoolVar(&o.AggregatorRouting, "enable-aggregator-routing", o.AggregatorRouting, "Send requests to extension API servers and webhooks to endpoints of their Service instead of its cluster IP.")
}

// complete fills in what the flags leave open.
func (o *Options) complete() error {
	if !o.Etcd.EnableWatchCache {
		return nil
	}
	// Events are many, short-lived and hardly ever watched: upstream keeps them out of the cache, too.
	sizes := map[schema.GroupResource]int{{Resource: "events"}: 0, {Group: "events.k8s.io", Resource: "events"}: 0}
	given, err := genericoptions.ParseWatchCacheSizes(o.Etcd.WatchCacheSizes)
	if err != nil {
		return fmt.Errorf("--watch-cache-sizes: %w", err)
	}
	maps.Copy(sizes, given)
	if o.Etcd.WatchCacheSizes, err = genericoptions.WriteWatchCacheSizes(sizes); err != nil {
		return fmt.Errorf("--watch-cache-sizes: %w", err)
	}
	return nil
}

// Validate joins all complaints.
func (o *Options) Validate() error {
	var errs []error
	for _, list := range [][]error{
		o.Run.Validate(), o.Serving.Validate(), o.Etcd.Validate(), o.Audit.Validate(), o.Features.Validate(),
		o.Admission.Validate(), o.Proxies.Validate(), o.Traces.Validate(), o.Metrics.Validate(),
	} {
		errs = append(errs, list...)
	}
	if _, err := o.serviceRanges(); err != nil {
		errs = append(errs, err)
	}
	seen := map[string]bool{}
	for _, m := range o.AuthorizationModes {
		switch {
		case m != modeNode && m != modeRBAC && m != modeAlwaysAllow && m != modeAlwaysDeny:
			errs = append(errs, fmt.Errorf("--authorization-mode: %q is not one of Node, RBAC, AlwaysAllow, AlwaysDeny", m))
		case seen[m]:
			errs = append(errs, fmt.Errorf("--authorization-mode: %q stands twice", m))
		}
		seen[m] = true
	}
	if o.EndpointReconciler != reconcileLease && o.EndpointReconciler != reconcileNone {
		errs = append(errs, fmt.Errorf("--endpoint-reconciler-type: %q is neither lease nor none", o.EndpointReconciler))
	}
	if ip := o.Run.AdvertiseAddress; o.EndpointReconciler == reconcileLease && (ip.IsLoopback() || ip.IsLinkLocalUnicast()) {
		errs = append(errs, fmt.Errorf("--advertise-address: %s cannot be an endpoint of the Service kubernetes; give another, or --endpoint-reconciler-type=none", ip))
	}
	if (o.TokenSigningFile == "") != (len(o.TokenIssuers) == 0) {
		errs = append(errs, errors.New("--service-account-signing-key-file and --service-account-issuer go together"))
	}
	if m := o.TokenMaxLifetime; m != 0 && (m < time.Hour || m > (1<<32)*time.Second) {
		errs = append(errs, errors.New("--service-account-max-token-expiration: must be between 1 hour and 2^32 seconds"))
	}
	for _, issuer := range o.TokenIssuers {
		if strings.Contains(issuer, ":") {
			if _, err := url.Parse(issuer); err != nil {
				errs = append(errs, fmt.Errorf("--service-account-issuer: %q has a colon, but is no URL: %w", issuer, err))
			}
		}
	}
	if (o.ProxyCertFile == "") != (o.ProxyKeyFile == "") {
		errs = append(errs, errors.New("--proxy-client-cert-file and --proxy-client-key-file go together"))
	}
	if (o.KubeletCertFile == "") != (o.KubeletKeyFile == "") {
		errs = append(errs, errors.New("--kubelet-client-certificate and --kubelet-client-key go together"))
	}
	if o.EventTTL < time.Second {
		errs = append(errs, errors.New("--event-ttl: must be at least a second"))
	}
	return errors.Join(errs...)
}

// maxServiceBits bounds the ranges of cluster IPs that the flag may give, as upstream does.
const maxServiceBits = 64

// serviceRanges are the cluster's own ranges of cluster IPs, the one of the default family first.
func (o *Options) serviceRanges() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range strings.Split(o.ServiceRange, ",") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--service-cluster-ip-range: %w", err)
		}
		switch bits := p.Addr().BitLen() - p.Bits(); {
		case bits < 3:
			return nil, fmt.Errorf("--service-cluster-ip-range: %s has less than 8 addresses", p)
		case p.Addr().Is6() && bits > maxServiceBits:
			return nil, fmt.Errorf("--service-cluster-ip-range: %s is larger than a /64", p)
		}
		out = append(out, p.Masked())
	}
	if len(out) > 2 || len(out) == 2 && out[0].Addr().Is6() == out[1].Addr().Is6() {
		return nil, fmt.Errorf("--service-cluster-ip-range: %q: want one range, or one of each family", o.ServiceRange)
	}
	return out, nil
}

// serviceFamilies are the families of the ranges of cluster IPs, the default first.
func (o *Options) serviceFamilies() ([]corev1.IPFamily, error) {
	ranges, err := o.serviceRanges()
	if err != nil {
		return nil, err
	}
	var out []corev1.IPFamily
	for _, p := range ranges {
		family := corev1.IPv4Protocol
		if p.Addr().Is6() {
			family = corev1.IPv6Protocol
		}
		out = append(out, family)
	}
	return out, nil
}

func (o *Options) addressTypes() []corev1.NodeAddressType {
	var out []corev1.NodeAddressType
	for _, t := range o.KubeletAddressTypes {
		out = append(out, corev1.NodeAddressType(t))
	}
	return out
}

// tokenKeys reads the keys that verify service account tokens, and the one that signs them; both may be none.
func (o *Options) tokenKeys() ([]crypto.PublicKey, crypto.Signer, error) {
	var signer crypto.Signer
	var keys []crypto.PublicKey
	if o.TokenSigningFile != "" {
		key, err := keyutil.PrivateKeyFromFile(o.TokenSigningFile)
		if err != nil {
			return nil, nil, fmt.Errorf("read service account signing key: %w", err)
		}
		var ok bool
		if signer, ok = key.(crypto.Signer); !ok {
			return nil, nil, fmt.Errorf("service account signing key %s: %T cannot sign", o.TokenSigningFile, key)
		}
	}
	for _, file := range o.TokenKeyFiles {
		found, err := keyutil.PublicKeysFromFile(file)
		if err != nil {
			return nil, nil, fmt.Errorf("read service account keys: %w", err)
		}
		for _, k := range found {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 && signer != nil {
		keys = append(keys, signer.Public())
	}
	return keys, signer, nil
}

// metricsServed says whether kubelets can be asked for metrics, and be known by their certificates.
func (o *Options) metricsServed() bool { return o.KubeletCertFile != "" && o.KubeletCAFile != "" }
