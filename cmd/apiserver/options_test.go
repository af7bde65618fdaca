package apiserver

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/compatibility"

	"github.com/orlop-io/orlop/cmd/apiserver/registry"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

func TestServiceRanges(t *testing.T) {
	for text, want := range map[string]string{
		"10.96.0.0/12":                "10.96.0.0/12",
		"10.96.0.9/12,fd00::/108":     "10.96.0.0/12 fd00::/108",
		"fd00::/64":                   "fd00::/64",
		"fd00::/48":                   "larger than a /64",
		"10.0.0.0/30":                 "less than 8 addresses",
		"10.0.0.0/16,10.1.0.0/16":     "one of each family",
		"10.0.0.0/16,fd00::/108,::/9": "larger than a /64",
		"10.0.0.0":                    "no '/'",
	} {
		o := NewOptions()
		o.ServiceRange = text
		var got string
		ranges, err := o.serviceRanges()
		for _, p := range ranges {
			got += " " + p.String()
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || err == nil && strings.TrimSpace(got) != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestOptionsThatDoNotGoTogether(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"short tokens", func(o *Options) { o.TokenMaxLifetime = time.Minute }, "--service-account-max-token-expiration: must be between 1 hour and 2^32 seconds"},
		{"a key without an issuer", func(o *Options) { o.TokenSigningFile = "x" }, "go together"},
		{"an authorizer twice", func(o *Options) { o.AuthorizationModes = []string{modeRBAC, modeRBAC} }, "stands twice"},
		{"an authorizer that is none", func(o *Options) { o.AuthorizationModes = []string{"ABAC"} }, `"ABAC" is not one of`},
		{"half a certificate", func(o *Options) { o.KubeletCertFile = "x" }, "--kubelet-client-certificate and --kubelet-client-key go together"},
	} {
		o := NewOptions()
		o.Etcd.StorageConfig.Transport.ServerList = []string{"http://127.0.0.1:2379"}
		tt.change(o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// kubeadm's manifests and what people add to them must be understood; what is not there must be refused, not ignored.
func TestFlags(t *testing.T) {
	fs := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	NewOptions().AddFlags(fs)
	for _, name := range strings.Fields(`
		advertise-address allow-privileged authorization-mode client-ca-file enable-admission-plugins disable-admission-plugins
		enable-bootstrap-token-auth etcd-cafile etcd-certfile etcd-keyfile etcd-servers kubelet-client-certificate kubelet-client-key
		kubelet-preferred-address-types proxy-client-cert-file proxy-client-key-file requestheader-allowed-names
		requestheader-client-ca-file requestheader-extra-headers-prefix requestheader-group-headers requestheader-username-headers
		secure-port service-account-issuer service-account-key-file service-account-signing-key-file service-cluster-ip-range
		tls-cert-file tls-private-key-file anonymous-auth api-audiences admission-control-config-file audit-log-path audit-policy-file
		aggregator-reject-forwarding-redirect bind-address cors-allowed-origins default-watch-cache-size delete-collection-workers enable-aggregator-routing
		enable-garbage-collector enable-priority-and-fairness encryption-provider-config endpoint-reconciler-type etcd-compaction-interval
		etcd-count-metric-poll-period etcd-prefix event-ttl external-hostname feature-gates goaway-chance http2-max-streams-per-connection
		kubelet-certificate-authority kubelet-timeout livez-grace-period max-mutating-requests-inflight max-requests-inflight
		min-request-timeout permit-port-sharing profiling request-timeout runtime-config service-account-extend-token-expiration
		service-account-jwks-uri service-account-lookup service-account-max-token-expiration service-node-port-range
		show-hidden-metrics-for-version disabled-metrics shutdown-delay-duration shutdown-send-retry-after storage-backend
		storage-media-type tls-cipher-suites tls-min-version tls-sni-cert-key token-auth-file tracing-config-file v vmodule logging-format
		watch-cache watch-cache-sizes`) {
		if fs.Lookup(name) == nil {
			t.Errorf("--%s is not understood", name)
		}
	}
	for _, name := range strings.Fields(`oidc-issuer-url authentication-token-webhook-config-file authorization-webhook-config-file authorization-config insecure-port egress-selector-config-file`) {
		if err := fs.Parse([]string{"--" + name + "=x"}); err == nil || !strings.Contains(err.Error(), "unknown flag") {
			t.Errorf("--%s: %v, want it refused", name, err)
		}
	}
}

func TestRuntimeConfig(t *testing.T) {
	types, err := scheme.New()
	if err != nil {
		t.Fatal(err)
	}
	groups := []registry.Group{
		{Name: "", Versions: scheme.Served()[:1], Storage: map[string]map[string]rest.Storage{"v1": {"pods": nil, "pods/status": nil}}},
		{Name: "apps", Versions: append(scheme.Served()[:0:0], appsv1.SchemeGroupVersion), Storage: map[string]map[string]rest.Storage{"v1": {"deployments": nil, "deployments/scale": nil, "daemonsets": nil}}},
	}
	if groups[0].Versions[0] != corev1.SchemeGroupVersion {
		t.Fatal("the first version is not v1")
	}
	for config, want := range map[string]string{
		"":                             "/pods /pods/status apps/daemonsets apps/deployments apps/deployments/scale",
		"apps/v1=false":                "/pods /pods/status",
		"apps/v1=false,api/all=true":   "/pods /pods/status",
		"api/beta=true":                "/pods /pods/status apps/daemonsets apps/deployments apps/deployments/scale",
		"nonsense.example.org/v1=true": "unknown api groups nonsense.example.org/v1",
		"api/all=false":                "invalid runtime-config with only api/all=false",
	} {
		o := genericoptions.NewAPIEnablementOptions()
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		o.AddFlags(fs)
		if config != "" {
			if err := fs.Parse([]string{"--runtime-config=" + config}); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		if errs := o.Validate(types.Scheme); len(errs) > 0 {
			got = append(got, errs[0].Error())
		} else {
			c := genericapiserver.NewConfig(types.Codecs)
			c.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
			served := serverstorage.NewResourceConfig()
			served.EnableVersions(scheme.Served()...)
			if err := o.ApplyTo(c, served, types.Scheme); err != nil {
				t.Fatal(err)
			}
			for _, g := range enabled(groups, c.MergedResourceConfig) {
				for _, resources := range g.Storage {
					for name := range resources {
						got = append(got, g.Name+"/"+name)
					}
				}
			}
			slices.Sort(got)
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%q: %s, want %s", config, text, want)
		}
	}
}
