package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/orlop-io/orlop/kubelet"
	"github.com/orlop-io/orlop/kubelet/eviction"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// given reads the configuration of a command line whose words may name files by @name; the content of each is in files.
func given(t *testing.T, files map[string]string, args ...string) (*kubeletconfig.KubeletConfiguration, *pflag.FlagSet, *flags, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "@", dir+"/")
	}
	f := &flags{}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	f.register(fs)
	if err := fs.Parse(args); err != nil {
		return nil, fs, f, err
	}
	file, err := readConfig(f.config, f.configDir, f.fields.tree)
	return file, fs, f, err
}

// Every field must have been thought of: one that is silently ignored makes a node other than its owner believes.
func TestEveryFieldHasItsStanding(t *testing.T) {
	known := standings()
	typ := reflect.TypeFor[kubeletconfig.KubeletConfiguration]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if _, ok := known[name]; !ok && name != "" {
			t.Errorf("field %s has no standing", name)
		}
		delete(known, name)
	}
	delete(known, "kind")
	delete(known, "apiVersion")
	for name := range known {
		t.Errorf("there is no field %s", name)
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ file, want string }{
		{"evictonHard: {}", `unknown field "evictonHard"`},
		{"authentication: {anonymus: {}}", `unknown field "anonymus"`},
		{"cpuManagerPolicy: static", `field cpuManagerPolicy: "static" is not supported by this kubelet: it knows only "none"`},
		{"shutdownGracePeriod: 30s", `field shutdownGracePeriod: "30s" is not supported`},
		{"staticPodURL: http://h/", "field staticPodURL is not supported"},
		{"memorySwap: {swapBehavior: LimitedSwap}", `field memorySwap: {"swapBehavior":"LimitedSwap"} is not supported`},
		{"featureGates: {MemoryQoS: true}", "cannot set feature gate MemoryQoS to true"},
		{"featureGates: {NoSuch: true}", "unrecognized feature gate: NoSuch"},
		{"logging: {format: xml}", `logging.format: "xml" is not supported`},
		{"readOnlyPort: 10255", "field readOnlyPort is not supported"},
	} {
		_, _, _, err := given(t, map[string]string{"c": head + tt.file}, "--config=@c")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.file, err, tt.want)
		}
	}
}

// Upstream's defaults, as kubeadm writes them and as `configz` shows them, are no complaint.
func TestDefaultsAreTaken(t *testing.T) {
	_, _, _, err := given(t, map[string]string{"c": head + `
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
`, "d": head + `
cgroupsPerQOS: true
configMapAndSecretChangeDetectionStrategy: Watch
contentType: application/vnd.kubernetes.protobuf
cpuManagerPolicy: none
cpuManagerReconcilePeriod: 10s
enableControllerAttachDetach: true
enableDebugFlagsHandler: true
enableDebuggingHandlers: true
enableServer: true
enableSystemLogHandler: true
eventBurst: 200
eventRecordQPS: 0
hairpinMode: promiscuous-bridge
iptablesDropBit: 15
localStorageCapacityIsolation: true
makeIPTablesUtilChains: true
maxOpenFiles: 1000000
memoryManagerPolicy: None
memorySwap: {swapBehavior: NoSwap}
runtimeRequestTimeout: 2m0s
streamingConnectionIdleTimeout: 4h0m0s
syncFrequency: 1m0s
topologyManagerPolicy: none
topologyManagerScope: container
volumePluginDir: /usr/libexec/kubernetes/kubelet-plugins/volume/exec/
`}, "--config=@c")
	if err != nil {
		t.Error(err)
	}
}

func TestDropIns(t *testing.T) {
	files := map[string]string{
		"main": head + "port: 1\naddress: 192.168.0.1\nclusterDNS: [a, b]\nauthorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 5m}}\nevictionHard: {memory.available: 1Gi}\nfeatureGates: {NodeSwap: false}\n",
		// By name, not in the order of the directory; other files count for nothing.
		"d/10-a.conf":     head + "port: 2\nclusterDNS: [c]\nauthorization: {webhook: {cacheUnauthorizedTTL: 45s}}\n",
		"d/20-b.conf":     head + "port: 3\nevictionHard: {nodefs.available: 5%}\nseccompDefault: true\n",
		"d/sub/30.conf":   head + "maxPods: 7\nserializeImagePulls: null\n",
		"d/99-c.yaml":     head + "port: 9\n",
		"bad/a.conf":      head + "prot: 9\n",
		"headless/a.conf": "port: 9\n",
		"conflict/1.conf": head + "containerLogMaxFiles: 1\n",
		"conflict/2.conf": head + "containerLogMaxFiles: 3\n",
	}
	got, _, _, err := given(t, files, "--config=@main", "--config-dir=@d", "--max-pods=8", "--port=4", "--feature-gates=NodeSwap=true")
	if err != nil {
		t.Fatal(err)
	}
	want := &kubeletconfig.KubeletConfiguration{Port: 4, Address: "192.168.0.1", ClusterDNS: []string{"c"}, MaxPods: 7,
		EvictionHard: map[string]string{"memory.available": "1Gi", "nodefs.available": "5%"}, FeatureGates: map[string]bool{"NodeSwap": false}}
	on := true
	want.SeccompDefault = &on
	want.Kind, want.APIVersion = got.Kind, got.APIVersion
	want.Authorization.Mode = "Webhook"
	want.Authorization.Webhook.CacheAuthorizedTTL.Duration, want.Authorization.Webhook.CacheUnauthorizedTTL.Duration = 5*time.Minute, 45*time.Second
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for dir, complaint := range map[string]string{"bad": `a.conf: error unmarshaling JSON: while decoding JSON: json: unknown field "prot"`, "headless": "not a KubeletConfiguration", "missing": "list configuration directory"} {
		if _, _, _, err := given(t, files, "--config=@main", "--config-dir=@"+dir); err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%s: %v, want %q", dir, err, complaint)
		}
	}
	// Only what comes out of all files must make sense.
	if _, _, _, err := given(t, files, "--config=@main", "--config-dir=@conflict"); err != nil {
		t.Error(err)
	}
}

func TestFlagsGoOverTheFile(t *testing.T) {
	file, _, _, err := given(t, map[string]string{"c": head + "evictionHard: {memory.available: 1Gi}\nseccompDefault: true\n"}, "--config=@c",
		"--eviction-hard=memory.available<5%,nodefs.available<1Gi", "--system-reserved=cpu=100m,memory=1Gi", "--seccomp-default=false", "--anonymous-auth",
		"--enforce-node-allocatable=pods,system-reserved", "--system-reserved-cgroup=/sys", "--allowed-unsafe-sysctls=net.*", "--allowed-unsafe-sysctls=kernel.msg*")
	if err != nil {
		t.Fatal(err)
	}
	have, err := json.Marshal(map[string]any{"hard": file.EvictionHard, "reserved": file.SystemReserved, "seccomp": file.SeccompDefault,
		"anonymous": file.Authentication.Anonymous.Enabled, "enforce": file.EnforceNodeAllocatable, "sysctls": file.AllowedUnsafeSysctls})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"anonymous":true,"enforce":["pods","system-reserved"],"hard":{"memory.available":"5%","nodefs.available":"1Gi"},` +
		`"reserved":{"cpu":"100m","memory":"1Gi"},"seccomp":false,"sysctls":["net.*","kernel.msg*"]}`
	if d := cmp.Diff(want, string(have)); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"--eviction-hard=memory.available=5%", "--seccomp-default=maybe", "--registry-qps=many", "--no-such-flag=1"} {
		if _, _, _, err := given(t, nil, bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestLimits(t *testing.T) {
	certs := t.TempDir() // a key is made once
	read := func(text string) (kubelet.Config, error) {
		file, fs, f, err := given(t, map[string]string{"c": head + text}, "--config=@c", "--node-ip=192.0.2.1", "--cert-dir="+certs, "--hostname-override=n")
		if err != nil {
			t.Fatal(err)
		}
		file.FailSwapOn = new(bool)
		return configure(fs, f, file, slog.New(slog.DiscardHandler))
	}
	cfg, err := read("")
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Eviction.Thresholds) != 6 || cfg.Eviction.Transition != 5*time.Minute || !cfg.BoundPods || cfg.ImageGC.High != 85 || cfg.ImageGC.Low != 80 ||
		cfg.ImageGC.MinAge != 2*time.Minute || cfg.ShownImages != 50 || cfg.LogEvery != 10*time.Second || cfg.PullQPS != 5 || cfg.PullBurst != 10 || cfg.FailCgroupV1 {
		t.Errorf("defaults %+v", cfg)
	}
	cfg, err = read("evictionHard: {memory.available: 1Gi}\nkubeReserved: {cpu: 100m, pid: '100'}\nsystemReserved: {cpu: 200m}\nsystemReservedCgroup: /sys\n" +
		"enforceNodeAllocatable: [pods, system-reserved-compressible]\ncrashLoopBackOff: {maxContainerRestartPeriod: 2s}\n")
	if err != nil {
		t.Fatal(err)
	}
	cpu := cfg.Registration.Reserved["cpu"]
	if cpu.MilliValue() != 300 || len(cfg.Reserved) != 1 || !cfg.Reserved[0].CPUOnly || cfg.Reserved[0].Cgroup != "/sys" || cfg.CrashMax != 2*time.Second {
		t.Errorf("%+v", cfg)
	}
	if want := (eviction.Threshold{Signal: eviction.MemoryAvailable, Below: eviction.Amount{Number: 1 << 30}}); cfg.Registration.Thresholds[0] != want {
		t.Errorf("thresholds of the node %+v", cfg.Registration.Thresholds)
	}
	for text, want := range map[string]string{
		"imageGCHighThresholdPercent: 80":                     "must be less than imageGCHighThresholdPercent",
		"imageMaximumGCAge: 1m":                               "greater than imageMinimumGCAge",
		"containerLogMonitorInterval: 1s":                     "must be 3s or more",
		"containerLogMaxSize: ten":                            "containerLogMaxSize",
		"crashLoopBackOff: {maxContainerRestartPeriod: 10m}":  "must be between 1s and 300s",
		"allowedUnsafeSysctls: ['vm.*']":                      "not known to be namespaced",
		"systemReserved: {gpu: '1'}":                          `cannot reserve "gpu" resource`,
		"enforceNodeAllocatable: [kube-reserved]":             "needs kubeReservedCgroup",
		"enforceNodeAllocatable: [none, pods]":                "none stands alone",
		"enforceNodeAllocatable: [everything]":                `"everything" is not one of`,
		"serializeImagePulls: true\nmaxParallelImagePulls: 2": "cannot be larger than 1",
		"maxParallelImagePulls: 0":                            "must be a positive number",
		"evictionSoft: {memory.available: 1Gi}":               "grace period must be specified",
		"nodeStatusMaxImages: -2":                             "must be -1 or greater",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}
