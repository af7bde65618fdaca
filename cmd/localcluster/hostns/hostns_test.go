package hostns

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/orlop-io/orlop/cmd/localcluster/cgroups"
	"golang.org/x/sys/unix"
)

func input() MountInput {
	return MountInput{
		Trees: cgroups.Trees{
			{Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
			{Mount: "/sys/fs/cgroup/unified", V2: true},
		},
		Links:  map[string]string{"cpu": "cpu,cpuacct"},
		Points: []string{"/", "/sys", "/sys/kernel/debug", "/run", "/run/orlop/other/fabric", "/runaway"},
		Files:  map[string]string{"/etc/resolv.conf": "/run/systemd/resolve/stub-resolv.conf"},
		Own:    func(p string) string { return "/own" + p },
	}
}

func find(t *testing.T, plan []Mount, target string) int {
	t.Helper()
	i := slices.IndexFunc(plan, func(m Mount) bool { return m.Target == target && !m.Detach })
	if i < 0 {
		t.Fatalf("nothing is mounted at %s", target)
	}
	return i
}

func TestPlanMountsHybrid(t *testing.T) {
	plan := PlanMounts(input())
	if plan[0].Flags != unix.MS_REC|unix.MS_PRIVATE {
		t.Error("the first step does not cut the tree off from the machine's")
	}
	if last := plan[len(plan)-1]; last.Target != "/" || last.Flags != unix.MS_REC|unix.MS_SHARED {
		t.Errorf("the last step is %+v, want / shared", last)
	}
	var detached []string
	for _, m := range plan {
		if m.Detach {
			detached = append(detached, m.Target)
		}
	}
	if d := cmp.Diff([]string{"/run/orlop/other/fabric", "/run", "/sys"}, detached); d != "" {
		t.Error("detached, innermost first:", d)
	}
	v1 := plan[find(t, plan, "/sys/fs/cgroup/cpu,cpuacct")]
	if v1.Type != "cgroup" || v1.Data != "cpu,cpuacct" || !v1.Dir {
		t.Errorf("v1 mount is %+v", v1)
	}
	if m := plan[find(t, plan, "/sys/fs/cgroup/unified")]; m.Type != "cgroup2" {
		t.Errorf("v2 mount is %+v", m)
	}
	if m := plan[find(t, plan, "/sys/fs/cgroup/cpu")]; m.Link != "cpu,cpuacct" {
		t.Errorf("link is %+v", m)
	}
	resolv := plan[find(t, plan, "/run/systemd/resolve/stub-resolv.conf")]
	if !resolv.File || resolv.Source != "/own/etc/resolv.conf" {
		t.Errorf("resolv.conf is %+v, want a file made on the fresh /run", resolv)
	}
	if find(t, plan, "/run") > find(t, plan, "/run/systemd/resolve/stub-resolv.conf") {
		t.Error("/run is mounted over what was mounted in it")
	}
	if find(t, plan, "/sys/kernel/debug") < find(t, plan, "/sys") {
		t.Error("/sys is mounted over debugfs")
	}
	if slices.ContainsFunc(plan, func(m Mount) bool { return m.Target == "/sys/kernel/security" }) {
		t.Error("securityfs is mounted where the machine has none")
	}
}

func TestPlanMountsUnified(t *testing.T) {
	in := input()
	in.Trees = cgroups.Trees{{Mount: "/sys/fs/cgroup", V2: true}}
	in.Links = nil
	for _, m := range PlanMounts(in) {
		if strings.HasPrefix(m.Target, "/sys/fs/cgroup") && m.Type != "cgroup2" {
			t.Errorf("unexpected mount %+v", m)
		}
	}
}

func TestNewBootID(t *testing.T) {
	a, err := newBootID()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := newBootID()
	if a == b || len(a) != 36 || a[14] != '4' {
		t.Errorf("boot ids %s, %s", a, b)
	}
}
