package bootstrap

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"
	"sigs.k8s.io/yaml"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testConfig() Config {
	return Config{
		NodeName: "a-1", Address: netip.MustParseAddr("192.168.77.11"), Port: 6443,
		PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
		Domain: "cluster.local", ImageRepository: "localhost", Version: "v1", CRISocket: "unix:///run/containerd/containerd.sock",
		Token: "abcdef.0123456789abcdef", TokenTTL: time.Hour,
	}
}

func TestValidate(t *testing.T) {
	if err := testConfig().Validate(); err != nil {
		t.Fatalf("a good config is refused: %v", err)
	}
	for name, tt := range map[string]struct {
		mutate func(*Config)
		want   string
	}{
		"name":          {func(c *Config) { c.NodeName = "A_1" }, "--node-name"},
		"loopback":      {func(c *Config) { c.Address = netip.MustParseAddr("127.0.0.1") }, "--apiserver-advertise-address"},
		"no address":    {func(c *Config) { c.Address = netip.Addr{} }, "--apiserver-advertise-address"},
		"host bits":     {func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.244.0.1/16") }, "did you mean 10.244.0.0/16?"},
		"overlap":       {func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.96.0.0/16") }, "overlaps"},
		"small pods":    {func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.244.0.0/25") }, "holds no /24"},
		"big services":  {func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix("10.0.0.0/8") }, "--service-cidr"},
		"token":         {func(c *Config) { c.Token = "secret" }, "--token"},
		"negative ttl":  {func(c *Config) { c.TokenTTL = -1 }, "--token-ttl"},
		"ipv6 services": {func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix("fd00::/108") }, "only IPv4"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig()
			tt.mutate(&c)
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestPKIIsKeptAndChecked(t *testing.T) {
	p, c := Paths{Root: t.TempDir()}, testConfig()
	cas, err := ensurePKI(p, c, now)
	if err != nil {
		t.Fatal(err)
	}
	before := readTree(t, p.pki(""))
	if _, err := ensurePKI(p, c, now); err != nil {
		t.Fatalf("second run: %v", err)
	}
	if diff := cmp.Diff(before, readTree(t, p.pki(""))); diff != "" {
		t.Errorf("a second run changed the PKI:\n%s", diff)
	}
	for name, mode := range map[string]os.FileMode{"ca.key": 0o600, "sa.key": 0o600, "etcd/peer.key": 0o600, "apiserver.crt": 0o644} {
		info, err := os.Stat(p.pki(name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %v", name, info.Mode(), err, mode)
		}
	}
	api, err := readCert(p.pki("apiserver.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cas["ca"].cert)
	for _, name := range []string{"a-1", "kubernetes.default.svc.cluster.local", "10.96.0.1", "192.168.77.11"} {
		if _, err := api.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now}); err != nil {
			t.Errorf("API server's certificate for %s: %v", name, err)
		}
	}

	c.ExtraSANs = []string{"api.example.org"}
	if _, err := ensurePKI(p, c, now); err == nil || !strings.Contains(err.Error(), "lacks the name api.example.org") {
		t.Errorf("a certificate without a wanted name passes: %v", err)
	}
	if _, err := ensurePKI(p, testConfig(), now.Add(2*leafValidity)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired certificate passes: %v", err)
	}
	if err := os.Remove(p.pki("ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := ensurePKI(p, testConfig(), now); err == nil || !strings.Contains(err.Error(), "has no key") {
		t.Errorf("an authority without its key is made anew or passes: %v", err)
	}
}

func TestKubeconfigs(t *testing.T) {
	p, c := Paths{Root: t.TempDir()}, testConfig()
	c.Endpoint = "api.example.org"
	cas, err := ensurePKI(p, c, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := ensureKubeconfigs(p, c, cas["ca"], now); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ cn, org, server string }{
		"admin.conf":              {"kubernetes-admin", "kubeadm:cluster-admins", "https://api.example.org:6443"},
		"super-admin.conf":        {"kubernetes-super-admin", "system:masters", "https://api.example.org:6443"},
		"kubelet.conf":            {"system:node:a-1", "system:nodes", "https://api.example.org:6443"},
		"controller-manager.conf": {"system:kube-controller-manager", "", "https://192.168.77.11:6443"},
		"scheduler.conf":          {"system:kube-scheduler", "", "https://192.168.77.11:6443"},
	} {
		cfg, err := clientcmd.BuildConfigFromFlags("", p.kubernetes(name))
		if err != nil {
			t.Fatal(err)
		}
		data := cfg.CertData
		if name == "kubelet.conf" { // where the kubelet's own store has it, and renews it
			store, err := certificate.NewFileStore("kubelet-client", p.kubelet("pki"), p.kubelet("pki"), "", "")
			if err != nil {
				t.Fatal(err)
			}
			if cfg.CertFile != store.CurrentPath() || cfg.KeyFile != store.CurrentPath() {
				t.Errorf("kubelet.conf names %s and %s, the kubelet renews %s", cfg.CertFile, cfg.KeyFile, store.CurrentPath())
			}
			pair, err := store.Current()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Update(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), ecKey(t, pair.PrivateKey)); err != nil {
				t.Errorf("the kubelet cannot renew it: %v", err)
			}
			data = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
		}
		cert, err := parseCert(data)
		if err != nil {
			t.Fatal(err)
		}
		got := struct{ cn, org, server string }{cert.Subject.CommonName, strings.Join(cert.Subject.Organization, ","), cfg.Host}
		if got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	other := Paths{Root: t.TempDir()}
	foreign, err := ensurePKI(other, c, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := ensureKubeconfigs(p, c, foreign["ca"], now); err == nil || !strings.Contains(err.Error(), "another authority") {
		t.Errorf("kubeconfigs of another cluster pass: %v", err)
	}
}

func ecKey(t *testing.T, key crypto.PrivateKey) []byte {
	t.Helper()
	out, err := keyPEM(key.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStaticPods(t *testing.T) {
	pods, err := staticPods(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict(pods[name], &pod); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := pod.Spec.Containers[0]
		if c.Command[0] != name || c.Image != "localhost/orlop-server:v1" || !pod.Spec.HostNetwork || *pod.Spec.Priority != systemNodeCritical || pod.Namespace != "kube-system" {
			t.Errorf("%s: unexpected pod:\n%s", name, pods[name])
		}
		for _, m := range c.VolumeMounts {
			if m.MountPath == "/etc/kubernetes/pki" && !m.ReadOnly {
				t.Errorf("%s can write the PKI", name)
			}
		}
	}
	if api := string(pods["kube-apiserver"]); !strings.Contains(api, "--authorization-mode=Node,RBAC") {
		t.Error("the API server's authorization is not Node,RBAC")
	}
}

func TestFillIn(t *testing.T) {
	c := testConfig()
	c.ImageRepository, c.ServiceCIDR, c.Domain = "registry.example.org/orlop", netip.MustParsePrefix("10.20.0.0/16"), "corp.example"
	objs, err := clusterObjects(c, []byte("ca"), now)
	if err != nil {
		t.Fatal(err)
	}
	find := func(kind, name string) *unstructured.Unstructured {
		for _, o := range objs {
			if o.GetKind() == kind && o.GetName() == name {
				return o
			}
		}
		t.Fatalf("no %s %s among the objects", kind, name)
		return nil
	}
	if ip, _, _ := unstructured.NestedString(find("Service", "kube-dns").Object, "spec", "clusterIP"); ip != "10.20.0.10" {
		t.Errorf("kube-dns is at %s", ip)
	}
	if corefile, _, _ := unstructured.NestedString(find("ConfigMap", "coredns").Object, "data", "Corefile"); !strings.Contains(corefile, "kubernetes corp.example ") {
		t.Errorf("Corefile serves another domain:\n%s", corefile)
	}
	containers, _, _ := unstructured.NestedSlice(find("Deployment", "coredns").Object, "spec", "template", "spec", "containers")
	if image := containers[0].(map[string]any)["image"]; image != "registry.example.org/orlop/orlop-server:v1" {
		t.Errorf("coredns runs image %v", image)
	}
	agent := find("DaemonSet", "orlop-agent").Object
	for _, kind := range []string{"initContainers", "containers"} {
		list, _, _ := unstructured.NestedSlice(agent, "spec", "template", "spec", kind)
		if len(list) != 1 || list[0].(map[string]any)["image"] != "registry.example.org/orlop/orlop-agent:v1" {
			t.Errorf("%s of the agent: %v", kind, list)
		}
	}
	find("Secret", "bootstrap-token-abcdef")
}

func TestPartsLeftToSomebodyElse(t *testing.T) {
	for _, tt := range []struct{ cni, proxy, arg string }{
		{"orlop", "orlop", "--kubeconfig=/etc/orlop/kubeconfig.conf"}, {"none", "orlop", "--cni=false"}, {"orlop", "none", "--proxy=false"}, {"none", "none", ""},
	} {
		c := testConfig()
		c.CNI, c.Proxy = tt.cni, tt.proxy
		objs, err := clusterObjects(c, []byte("ca"), now)
		if err != nil {
			t.Fatal(err)
		}
		arg := ""
		for _, o := range objs {
			if list, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers"); o.GetKind() == "DaemonSet" {
				arg = list[0].(map[string]any)["args"].([]any)[0].(string)
			}
		}
		if arg != tt.arg {
			t.Errorf("cni %s, proxy %s: the agent's first argument is %q, want %q", tt.cni, tt.proxy, arg, tt.arg)
		}
	}
	c := testConfig()
	c.CNI, c.Proxy = "flannel", "kube-proxy"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--cni") || !strings.Contains(err.Error(), "--proxy") {
		t.Errorf("unknown: %v", err)
	}
}

func TestProxyMode(t *testing.T) {
	for _, mode := range append(proxyModes(), "") {
		c := testConfig()
		c.ProxyMode = mode
		objs, err := clusterObjects(c, []byte("ca"), now)
		if err := errors.Join(err, c.Validate()); err != nil {
			t.Fatal(err)
		}
		var args []any
		for _, o := range objs {
			if list, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers"); o.GetKind() == "DaemonSet" {
				args = list[0].(map[string]any)["args"].([]any)
			}
		}
		if got := slices.Contains(args, any("--proxy-mode="+mode)); got != (mode != "") || len(args) < 3 {
			t.Errorf("mode %q: the agent's arguments are %v", mode, args)
		}
	}
	for mode, proxy := range map[string]string{"ipvs": ours, "iptables": none} {
		c := testConfig()
		c.ProxyMode, c.Proxy = mode, proxy
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--proxy-mode: ") {
			t.Errorf("--proxy-mode %s --proxy %s: %v", mode, proxy, err)
		}
	}
}

func TestPins(t *testing.T) {
	p := Paths{Root: t.TempDir()}
	ca, err := ensureCA(p, "ca", "kubernetes", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkPins(ca.certPEM(), joinConfig{pins: []string{pinOf(ca.cert)}}); err != nil {
		t.Errorf("the right pin is refused: %v", err)
	}
	if err := checkPins(ca.certPEM(), joinConfig{pins: []string{"sha256:00"}}); err == nil {
		t.Error("a wrong pin passes")
	}
	if err := checkPins(nil, joinConfig{pins: []string{pinOf(ca.cert)}}); err == nil {
		t.Error("no authority passes")
	}
	err = joinConfig{server: "h:1", token: "abcdef.0123456789abcdef", address: testConfig().Address}.validate()
	if err == nil || !strings.Contains(err.Error(), "--discovery-token-ca-cert-hash is required") {
		t.Errorf("joining without a pin is not refused: %v", err)
	}
}

func TestTokens(t *testing.T) {
	secret := tokenSecret("abcdef.0123456789abcdef", "", now.Add(time.Hour))
	var out bytes.Buffer
	if err := printTokens(&out, []corev1.Secret{*secret}, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"abcdef.0123456789abcdef", "1h", "authentication,signing", joinGroup} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	_, err := tokenFrom([]string{"short"})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 2 {
		t.Errorf("a bad token gives %v, want exit code 2", err)
	}
}

// A dry run must print the unit and the pods, no secret, and leave nothing.
func TestDryRun(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	if err := dryRunInit(&out, testConfig(), "/usr/local/bin"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Restart=always", "KillMode=process", "Delegate=yes", "--- /etc/kubernetes/manifests/etcd.yaml", "--node-ip=192.168.77.11"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the output", want)
		}
	}
	for _, secret := range []string{"PRIVATE KEY", "0123456789abcdef"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the output holds a secret (%s)", secret)
		}
	}
	left, _ := os.ReadDir(os.Getenv("TMPDIR"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		out[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPairOfRangesIsRefusedWithAReason(t *testing.T) {
	var p netip.Prefix
	if err := (prefixVar{&p}).Set("10.96.0.0/12,fd00::/108"); err == nil || !strings.Contains(err.Error(), "dual-stack") {
		t.Errorf("two ranges: %v", err)
	}
	if err := (prefixVar{&p}).Set("10.96.0.0/12"); err != nil || p.String() != "10.96.0.0/12" {
		t.Errorf("one range: %v, %v", p, err)
	}
}

// Debian's containerd looks for plugins where the agent puts none: pods would wait for their network for ever.
func TestPluginDirs(t *testing.T) {
	for config, says := range map[string]string{
		`{"cni":{"binDir":"/usr/lib/cni","confDir":"/etc/cni/net.d"}}`: "in /usr/lib/cni, and",
		`{"cni":{"binDir":"/opt/cni/bin/"}}`:                           "",
		`{"cni":{"binDirs":["/usr/lib/cni","/x"]}}`:                    "in /usr/lib/cni, /x, and",
		`{"cni":{"binDirs":["/usr/lib/cni","/opt/cni/bin"]}}`:          "",
		`{"another":1}`:        "",
		`not JSON at all`:      "",
		"":                     "",
		`{"cni":{"binDir":7}}`: "",
	} {
		err := checkPluginDirs(config)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", config, err, says)
		}
	}
}

// A Service whose first creation was cut off is refused for a moment: its own address is taken.
func TestRefusalsThatPass(t *testing.T) {
	kind := schema.GroupKind{Kind: "Service"}
	address := apierrors.NewInvalid(kind, "kube-dns", field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), []string{"10.96.0.10"},
		"failed to allocate IP 10.96.0.10: provided IP is already allocated")})
	port := apierrors.NewInvalid(kind, "kube-dns", field.ErrorList{field.Required(field.NewPath("spec", "ports"), "")})
	if !aboutAddress(fmt.Errorf("apply: %w", address)) {
		t.Error("an address that is taken is refused for good")
	}
	for _, err := range []error{port, apierrors.NewBadRequest("x"), errors.New("x")} {
		if aboutAddress(err) {
			t.Errorf("%v is about an address", err)
		}
	}
}
