package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"
	baseversion "k8s.io/component-base/version"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/orlop-io/orlop/kubelet"
	"github.com/orlop-io/orlop/kubelet/identity"
	"github.com/orlop-io/orlop/kubelet/node"
	"github.com/orlop-io/orlop/kubelet/server"
)

// configure joins flags, file and defaults, and says all that is wrong with them at once.
func configure(fs *pflag.FlagSet, f *flags, file *kubeletconfig.KubeletConfiguration, log *slog.Logger) (kubelet.Config, error) {
	override(fs, f, file)
	name, err := nodeName(f.hostname)
	if err != nil {
		return kubelet.Config{}, err
	}
	ips, err := nodeIPs(f.nodeIP)
	if err != nil {
		return kubelet.Config{}, err
	}
	certDir := f.certDir
	if certDir == "" {
		certDir = filepath.Join(f.rootDir, "pki")
	}
	out := kubelet.Config{
		Node: name, NodeIPs: ips, RootDir: f.rootDir,
		PodLogsDir: or(file.PodLogsDir, "/var/log/pods"), ContainerLogsDir: "/var/log/containers",
		ManifestDir: file.StaticPodPath, Endpoint: file.ContainerRuntimeEndpoint, ImageEndpoint: file.ImageServiceEndpoint,
		CgroupDriver: file.CgroupDriver, CgroupRoot: strings.Trim(file.CgroupRoot, "/"),
		CPUQuota: value(file.CPUCFSQuota, true), PodPids: value(file.PodPidsLimit, -1),
		ClusterDNS: file.ClusterDNS, ClusterDomain: file.ClusterDomain, ResolvConf: value(file.ResolverConfig, "/etc/resolv.conf"),
		SeccompDefault: value(file.SeccompDefault, false), ParallelStarts: f.parallelStarts, ParallelPulls: parallelPulls(file),
		PauseImage: f.pauseImage, OOMScore: int(value(file.OOMScoreAdj, -999)),
		Version: baseversion.Get().GitVersion,
	}
	if file.CPUCFSQuotaPeriod != nil {
		out.CPUPeriod = file.CPUCFSQuotaPeriod.Duration
	}
	var errs []error
	errs = append(errs, limits(file, &out), checkPulls(file))
	if file.FailSwapOn == nil || *file.FailSwapOn {
		errs = append(errs, noSwap())
	}
	out.Registration, err = registration(f, file, &out)
	errs = append(errs, err)
	var signed *identity.Signed
	certificates := identity.NewMetrics()
	out.Metrics = append(out.Metrics, certificates)
	out.Server, signed, err = serving(f, file, certDir, name, ips, certificates)
	errs = append(errs, err)
	if signed != nil {
		out.Served = signed.Run
	}
	if f.kubeconfig != "" {
		id := identity.Config{Node: name, Kubeconfig: f.kubeconfig, Bootstrap: f.bootstrap, CertDir: certDir, Rotate: file.RotateCertificates, Metrics: certificates}
		out.Connect = func(ctx context.Context, asked func(method, host, code string)) (kubelet.Clients, error) {
			id.Asked = asked
			c, err := identity.Connect(ctx, id, log)
			if err != nil {
				return kubelet.Clients{}, err
			}
			return clients(c, file)
		}
	} else if f.bootstrap != "" {
		errs = append(errs, errors.New("--bootstrap-kubeconfig needs --kubeconfig, where the result is kept"))
	}
	return out, errors.Join(errs...)
}

// clients are bounded by what the file says of requests in general, and of events.
func clients(c *identity.Connection, file *kubeletconfig.KubeletConfiguration) (out kubelet.Clients, err error) {
	qps, burst := float32(value(file.KubeAPIQPS, 50)), int(or(file.KubeAPIBurst, 100))
	eventQPS := float32(value(file.EventRecordQPS, 50))
	if eventQPS == 0 {
		eventQPS = -1 // of events alone, 0 is no bound
	}
	var errs [4]error
	out.API, errs[0] = c.Client(qps, burst)
	out.Statuses, errs[1] = c.Client(qps, burst)
	out.Events, errs[2] = c.Client(eventQPS, int(or(file.EventBurst, 100)))
	out.Heartbeats, errs[3] = c.Client(-1, 0)
	return out, errors.Join(errs[:]...)
}

// override writes the flags that were given, and defaults, over the file.
func override(fs *pflag.FlagSet, f *flags, file *kubeletconfig.KubeletConfiguration) {
	over := func(flag string, field *string, val string) {
		if fs.Changed(flag) || *field == "" {
			*field = val
		}
	}
	over("container-runtime-endpoint", &file.ContainerRuntimeEndpoint, f.endpoint)
	over("image-service-endpoint", &file.ImageServiceEndpoint, f.imageEndpoint)
	over("pod-manifest-path", &file.StaticPodPath, f.manifests)
	over("cgroup-driver", &file.CgroupDriver, or(f.cgroupDriver, "cgroupfs"))
	over("cgroup-root", &file.CgroupRoot, f.cgroupRoot)
	over("cluster-domain", &file.ClusterDomain, f.clusterDomain)
	over("provider-id", &file.ProviderID, f.providerID)
	if fs.Changed("cluster-dns") {
		file.ClusterDNS = f.clusterDNS
	}
	if fs.Changed("resolv-conf") {
		file.ResolverConfig = &f.resolvConf
	}
	if fs.Changed("max-pods") {
		file.MaxPods = f.maxPods
	}
	if fs.Changed("register-node") || file.RegisterNode == nil {
		file.RegisterNode = &f.registerNode
	}
}

func registration(f *flags, file *kubeletconfig.KubeletConfiguration, k *kubelet.Config) (node.Config, error) {
	out := node.Config{
		Name: k.Node, IPs: k.NodeIPs, Labels: f.nodeLabels, Taints: file.RegisterWithTaints, Register: *file.RegisterNode,
		Unschedulable: !f.unschedulable, ProviderID: file.ProviderID, Port: or(file.Port, 10250), Version: k.Version,
		MaxPods: int64(or(file.MaxPods, 110)), RootDir: k.RootDir, Reserved: v1.ResourceList{},
		StatusEvery: file.NodeStatusUpdateFrequency.Duration, ReportEvery: file.NodeStatusReportFrequency.Duration,
		LeaseDuration: time.Duration(file.NodeLeaseDurationSeconds) * time.Second,
	}
	if host, err := os.Hostname(); err == nil {
		out.Hostname = strings.ToLower(host)
	}
	if f.hostname != "" {
		out.Hostname = k.Node
	}
	var errs []error
	for _, s := range f.taints {
		t, err := parseTaint(s)
		errs = append(errs, err)
		out.Taints = append(out.Taints, t)
	}
	for key, val := range f.nodeLabels {
		if bad := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(val)...); len(bad) > 0 {
			errs = append(errs, fmt.Errorf("--node-labels: %s=%s: %s", key, val, strings.Join(bad, "; ")))
		}
	}
	for field, reserved := range map[string]map[string]string{"kubeReserved": file.KubeReserved, "systemReserved": file.SystemReserved} {
		list, err := amounts(field, reserved)
		errs = append(errs, err)
		for name, q := range list {
			sum := out.Reserved[name]
			sum.Add(q)
			out.Reserved[name] = sum
		}
	}
	out.Thresholds = k.Eviction.Thresholds
	if file.PodsPerCore > 0 {
		out.MaxPods = min(out.MaxPods, int64(file.PodsPerCore)*int64(runtime.NumCPU()))
	}
	return out, errors.Join(errs...)
}

// certified gives the certificate to serve with: one that the cluster signs where the configuration says so and names no
// files, and there is a cluster.
func certified(f *flags, file *kubeletconfig.KubeletConfiguration, certDir, name string, addrs []net.IP, metrics *identity.Metrics) (getCertificate, *identity.Signed, error) {
	if !file.ServerTLSBootstrap || file.TLSCertFile != "" || f.kubeconfig == "" {
		get, err := identity.Serving(certDir, file.TLSCertFile, file.TLSPrivateKeyFile, name, addrs)
		return get, nil, err
	}
	signed, err := identity.NewSigned(certDir, name, name, addrs, metrics)
	if err != nil {
		return nil, nil, err
	}
	return signed.Certificate, signed, nil
}

type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

func serving(f *flags, file *kubeletconfig.KubeletConfiguration, certDir, name string, ips []string, metrics *identity.Metrics) (server.Config, *identity.Signed, error) {
	var addrs []net.IP
	for _, ip := range ips {
		addrs = append(addrs, net.ParseIP(ip))
	}
	var errs []error
	get, signed, err := certified(f, file, certDir, name, addrs, metrics)
	errs = append(errs, err)
	out := server.Config{
		Address:     net.JoinHostPort(file.Address, strconv.Itoa(int(or(file.Port, 10250)))),
		Certificate: get, Settings: file, Profiling: value(file.EnableProfilingHandler, true), HideLogs: !value(file.EnableSystemLogHandler, true),
		Auth: server.AuthConfig{
			Tokens: value(file.Authentication.Webhook.Enabled, true), TokenLife: file.Authentication.Webhook.CacheTTL.Duration,
			Anonymous: value(file.Authentication.Anonymous.Enabled, false),
			AllowAll:  file.Authorization.Mode == kubeletconfig.KubeletAuthorizationModeAlwaysAllow,
			AllowLife: file.Authorization.Webhook.CacheAuthorizedTTL.Duration, DenyLife: file.Authorization.Webhook.CacheUnauthorizedTTL.Duration,
		},
	}
	if port := value(file.HealthzPort, 10248); port > 0 {
		out.HealthAddress = net.JoinHostPort(or(file.HealthzBindAddress, "127.0.0.1"), strconv.Itoa(int(port)))
	}
	if file.TLSMinVersion != "" {
		out.MinTLS, err = cliflag.TLSVersion(file.TLSMinVersion)
		errs = append(errs, err)
	}
	if len(file.TLSCipherSuites) > 0 {
		out.Ciphers, err = cliflag.TLSCipherSuites(file.TLSCipherSuites)
		errs = append(errs, err)
	}
	if ca := file.Authentication.X509.ClientCAFile; ca != "" {
		out.Auth.ClientCAs, err = clientCAs(ca)
		errs = append(errs, err)
	}
	return out, signed, errors.Join(errs...)
}

// clientCAs reads the authorities of callers; a changed file counts from the next connection on.
func clientCAs(path string) (func() *x509.CertPool, error) {
	read := func() (*x509.CertPool, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read clientCAFile: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("clientCAFile %s holds no certificate", path)
		}
		return pool, nil
	}
	first, err := read()
	if err != nil {
		return nil, err
	}
	return func() *x509.CertPool {
		if pool, err := read(); err == nil {
			return pool
		}
		return first
	}, nil
}

func nodeName(override string) (string, error) {
	name := override
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("ask host name: %w", err)
		}
		name = host
	}
	name = strings.ToLower(strings.TrimSpace(name))
	if bad := validation.IsDNS1123Subdomain(name); len(bad) > 0 {
		return "", fmt.Errorf("node name %q: %s", name, strings.Join(bad, "; "))
	}
	return name, nil
}

func nodeIPs(flag string) ([]string, error) {
	if flag == "" || flag == "0.0.0.0" || flag == "::" {
		return node.Addresses()
	}
	var out []string
	for _, s := range strings.Split(flag, ",") {
		ip := net.ParseIP(strings.TrimSpace(s))
		if ip == nil {
			return nil, fmt.Errorf("--node-ip %q is not an address", s)
		}
		out = append(out, ip.String())
	}
	return out, nil
}

func checkPulls(file *kubeletconfig.KubeletConfiguration) error {
	n := file.MaxParallelImagePulls
	switch {
	case n == nil:
		return nil
	case *n < 1:
		return fmt.Errorf("maxParallelImagePulls %d must be a positive number", *n)
	case *n > 1 && value(file.SerializeImagePulls, false):
		return fmt.Errorf("maxParallelImagePulls cannot be larger than 1 unless serializeImagePulls is set to false")
	}
	return nil
}

func parallelPulls(file *kubeletconfig.KubeletConfiguration) int {
	switch {
	case file.SerializeImagePulls != nil && *file.SerializeImagePulls:
		return 1
	case file.MaxParallelImagePulls != nil:
		return int(*file.MaxParallelImagePulls)
	}
	return 0
}

func noSwap() error {
	text, err := os.ReadFile("/proc/swaps")
	if err == nil && strings.Count(strings.TrimSpace(string(text)), "\n") > 0 {
		return errors.New("this machine has swap, and failSwapOn is not set to false in the configuration")
	}
	return nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
