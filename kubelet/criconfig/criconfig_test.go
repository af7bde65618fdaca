package criconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func ptr[T any](v T) *T { return &v }

func basePod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u1", Labels: map[string]string{"app": "x"}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "img", Ports: []v1.ContainerPort{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 81}}}}},
	}
}

func TestSandbox(t *testing.T) {
	p := basePod()
	cfg := Sandbox{Pod: p, Attempt: 2, Hostname: "p", SeccompDefault: true}.Config()
	if len(cfg.PortMappings) != 1 || cfg.PortMappings[0].HostPort != 8080 {
		t.Errorf("port mappings %v", cfg.PortMappings)
	}
	if f, ok := Find(cfg.Labels, cfg.Annotations); !ok || f.UID != "u1" || cfg.Labels["app"] != "x" {
		t.Errorf("labels %v", cfg.Labels)
	}
	if cfg.Linux.SecurityContext.Seccomp.ProfileType != runtimeapi.SecurityProfile_RuntimeDefault {
		t.Error("seccomp default not applied")
	}
	p.Spec.HostNetwork, p.Spec.HostPID = true, true
	cfg = Sandbox{Pod: p, Hostname: "p"}.Config()
	ns := cfg.Linux.SecurityContext.NamespaceOptions
	if cfg.Hostname != "" || len(cfg.PortMappings) != 0 || ns.Network != runtimeapi.NamespaceMode_NODE || ns.Pid != runtimeapi.NamespaceMode_NODE {
		t.Errorf("host namespaces: %v", cfg)
	}
}

// What the kubelet writes on a container it must be able to read back after a restart.
func TestFoundAgain(t *testing.T) {
	p := basePod()
	p.Spec.Containers[0].TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
	res := v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}}
	p.Spec.Containers[0].Resources = res
	mounts := []v1.VolumeMountStatus{{Name: "v", MountPath: "/v", VolumeStatus: &v1.VolumeStatus{Image: &v1.ImageVolumeStatus{ImageRef: "x@sha256:2"}}}}
	cfg, err := Container{Pod: p, Spec: &p.Spec.Containers[0], Attempt: 7, ImageRef: "sha256:1", MountStatuses: mounts}.Config()
	if err != nil {
		t.Fatal(err)
	}
	got, ok := Find(cfg.Labels, cfg.Annotations)
	want := Found{UID: "u1", Namespace: "ns", Name: "p", Container: "c", Attempt: 7, SpecImage: "img", MessagePolicy: v1.TerminationMessageFallbackToLogsOnError, Resources: &res, MountStatuses: mounts}
	if d := cmp.Diff(want, got); !ok || d != "" {
		t.Error(d)
	}
	if cfg.LogPath != "c/7.log" {
		t.Errorf("log path %s", cfg.LogPath)
	}
	if _, ok := Find(map[string]string{"a": "b"}, nil); ok {
		t.Error("took a stranger for ours")
	}
}

func TestNonRoot(t *testing.T) {
	for _, tt := range []struct {
		name string
		user *int64
		uid  *int64
		img  string
		want string
	}{
		{"user given", ptr(int64(5)), nil, "", ""},
		{"root given", ptr(int64(0)), nil, "", "breaks non-root policy"},
		{"image numeric", nil, ptr(int64(9)), "", ""},
		{"image root", nil, ptr(int64(0)), "", "image will run as root"},
		{"image silent", nil, nil, "", "image will run as root"},
		{"image by name", nil, nil, "www", "non-numeric user (www)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := basePod()
			p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: tt.user}
			_, err := Container{Pod: p, Spec: &p.Spec.Containers[0], ImageUID: tt.uid, ImageUser: tt.img}.Config()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// Whatever the source of the pod: without user namespaces /proc stays masked, and the container says why it does not run.
func TestProcStaysMasked(t *testing.T) {
	p := basePod()
	for kind, refused := range map[v1.ProcMountType]bool{v1.DefaultProcMount: false, v1.UnmaskedProcMount: true} {
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{ProcMount: &kind}
		cfg, err := Container{Pod: p, Spec: &p.Spec.Containers[0]}.Config()
		if refused && (err == nil || !strings.Contains(err.Error(), "procMount: Unmasked: ")) {
			t.Errorf("%s: error %v", kind, err)
		}
		if !refused && (err != nil || len(cfg.Linux.SecurityContext.MaskedPaths) == 0) {
			t.Errorf("%s: error %v, masked %v", kind, err, cfg.GetLinux().GetSecurityContext().GetMaskedPaths())
		}
	}
}

func TestResources(t *testing.T) {
	p := basePod()
	c := &p.Spec.Containers[0]
	c.Resources = v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("1Gi")},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("2Gi")},
	}
	got := Resources(p, c, v1.PodQOSBurstable, Node{Memory: 4 << 30, CPUQuota: true})
	if got.CpuShares != 256 || got.CpuQuota != 50000 || got.CpuPeriod != 100000 || got.MemoryLimitInBytes != 2<<30 || got.OomScoreAdj != 750 {
		t.Errorf("%+v", got)
	}
	if got.Unified != nil {
		t.Errorf("one process is out of memory, and all are to be killed: %v", got.Unified)
	}
	if u := Resources(p, c, v1.PodQOSBurstable, Node{KillTogether: true}).Unified; u["memory.oom.group"] != "1" {
		t.Errorf("all are to be killed together, and the runtime is told %v", u)
	}
	if adj := OOMScoreAdj(p, c, v1.PodQOSGuaranteed, 4<<30); adj != -997 {
		t.Errorf("guaranteed %d", adj)
	}
	if adj := OOMScoreAdj(p, c, v1.PodQOSBestEffort, 4<<30); adj != 1000 {
		t.Errorf("best effort %d", adj)
	}
}

// A container's profile goes before its pod's, and a file of the node is told by its full name.
func TestSeccompProfiles(t *testing.T) {
	file := "profiles/audit.json"
	local := &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &file}
	runtime := &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}
	for _, tt := range []struct {
		name      string
		pod, own  *v1.SeccompProfile
		byDefault bool
		want      runtimeapi.SecurityProfile_ProfileType
		ref       string
	}{
		{"nobody asks", nil, nil, false, runtimeapi.SecurityProfile_Unconfined, ""},
		{"the node's default", nil, nil, true, runtimeapi.SecurityProfile_RuntimeDefault, ""},
		{"the pod's", runtime, nil, false, runtimeapi.SecurityProfile_RuntimeDefault, ""},
		{"the container's own", runtime, local, true, runtimeapi.SecurityProfile_Localhost, "/var/lib/kubelet/seccomp/profiles/audit.json"},
		{"none, asked for", nil, &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}, true, runtimeapi.SecurityProfile_Unconfined, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := basePod()
			p.Spec.SecurityContext = &v1.PodSecurityContext{SeccompProfile: tt.pod}
			p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{SeccompProfile: tt.own}
			cfg, err := Container{Pod: p, Spec: &p.Spec.Containers[0], SeccompDefault: tt.byDefault, SeccompDir: "/var/lib/kubelet/seccomp"}.Config()
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Linux.SecurityContext.Seccomp; got.ProfileType != tt.want || got.LocalhostRef != tt.ref {
				t.Errorf("the runtime is asked for %v %q", got.ProfileType, got.LocalhostRef)
			}
		})
	}
}
