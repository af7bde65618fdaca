package sysctls

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
)

func pod(names ...string) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{}}}
	for _, n := range names {
		p.Spec.SecurityContext.Sysctls = append(p.Spec.SecurityContext.Sysctls, v1.Sysctl{Name: n, Value: "1"})
	}
	return p
}

func TestForbidden(t *testing.T) {
	onHost := func(p *v1.Pod) *v1.Pod { p.Spec.HostNetwork, p.Spec.HostIPC = true, true; return p }
	for _, tt := range []struct {
		name    string
		pod     *v1.Pod
		allowed []string
		want    string
	}{
		{"none", &v1.Pod{}, nil, ""},
		{"safe", pod("kernel.shm_rmid_forced", "net.ipv4.tcp_rmem"), nil, ""},
		{"safe with slashes", pod("net/ipv4/tcp_syncookies"), nil, ""},
		{"unsafe", pod("kernel.msgmax"), nil, `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"of no namespace", pod("vm.overcommit_memory"), nil, `forbidden sysctl: "vm.overcommit_memory" not allowlisted`},
		{"allowed by name", pod("kernel.msgmax"), []string{"kernel.msgmax"}, ""},
		{"allowed by a beginning", pod("net.core.somaxconn"), []string{"net.core.*"}, ""},
		{"another beginning", pod("net.ipv4.ip_forward"), []string{"net.core.*"}, `forbidden sysctl: "net.ipv4.ip_forward" not allowlisted`},
		{"the node's network", onHost(pod("net.ipv4.tcp_syncookies")), nil, `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
		{"the node's memory", onHost(pod("kernel.shm_rmid_forced")), nil, `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
	} {
		if got := Forbidden(tt.pod, tt.allowed); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCheck(t *testing.T) {
	if err := Check([]string{"kernel.msg*", "kernel.shm*", "net.ipv4.route.min_pmtu", "fs.mqueue.*", "net/ipv4/*"}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"vm.*", "kernel.*", "*"} {
		if Check([]string{bad}) == nil {
			t.Errorf("%s is allowed, and is the whole node's", bad)
		}
	}
	if CheckDefaults(map[string]string{"vm.swappiness": "0"}) == nil {
		t.Error("a default of no namespace is taken")
	}
}

func TestSet(t *testing.T) {
	defaults := map[string]string{"net.ipv4.ip_forward": "1", "kernel.shmall": "9", "net.core.somaxconn": "5"}
	p := pod("net/core/somaxconn")
	if d := cmp.Diff(map[string]string{"net.ipv4.ip_forward": "1", "kernel.shmall": "9", "net.core.somaxconn": "1"}, Set(p, defaults)); d != "" {
		t.Error(d)
	}
	p = pod()
	p.Spec.HostNetwork = true
	if d := cmp.Diff(map[string]string{"kernel.shmall": "9"}, Set(p, defaults)); d != "" {
		t.Error(d)
	}
}
