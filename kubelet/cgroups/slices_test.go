package cgroups

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/kubelet/systemd"
)

// keeper is a systemd that refuses a slice whose parent it does not know.
type keeper struct {
	slices map[string]systemd.Bounds
	calls  int
}

func (k *keeper) Set(slice string, b systemd.Bounds) error {
	k.calls++
	if i := strings.LastIndexByte(strings.TrimSuffix(slice, ".slice"), '-'); i > 0 {
		if _, ok := k.slices[slice[:i]+".slice"]; !ok {
			return errors.New("no parent of " + slice)
		}
	}
	k.slices[slice] = k.slices[slice].With(b)
	return nil
}

func (k *keeper) Stop(slice string) error {
	delete(k.slices, slice)
	return nil
}

func (k *keeper) String() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(k.slices)) {
		b := k.slices[name]
		out = append(out, fmt.Sprintf("%s weight=%d quota=%v memory=%d tasks=%d", name, b.CPUWeight, b.CPUQuota, b.Memory, b.Tasks))
	}
	return strings.Join(out, "\n")
}

// Systemd knows all slices and their bounds before they are used, is told once of each, and forgets those of pods that are
// gone.
func TestSystemdIsTold(t *testing.T) {
	k := &keeper{slices: map[string]systemd.Bounds{}}
	v2 := []Hierarchy{{Dir: t.TempDir(), Unified: true, Controllers: []string{"cpu", "memory", "pids"}}}
	cfg := Config{Hierarchies: v2, Driver: Systemd, Slices: k, CPUQuota: true, PodPids: 50}
	c, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p := pod(v1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("1", "128Mi")})
	n := podName(c.root, v1.PodQOSBurstable, p.UID)
	for range 2 {
		if err := errors.Join(c.tell(c.root, rootLimits(list("2", "1Gi"))), c.tell(n, podLimits(p, c.cfg))); err != nil {
			t.Fatal(err)
		}
	}
	want := `kubepods-burstable-pod1_2_3.slice weight=59 quota=100ms memory=134217728 tasks=50
kubepods-burstable.slice weight=0 quota=0s memory=0 tasks=0
kubepods.slice weight=174 quota=0s memory=1073741824 tasks=0`
	if got := k.String(); got != want {
		t.Errorf("systemd knows\n%s\nwant\n%s", got, want)
	}
	if k.calls != 3 {
		t.Errorf("systemd was called %d times for 3 slices", k.calls)
	}
	// Less than all bounds leaves the others.
	if err := c.tell(n, limits{Quota: 50 * time.Millisecond, Period: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if b := k.slices["kubepods-burstable-pod1_2_3.slice"]; b.Memory != 128<<20 || b.CPUQuota != 50*time.Millisecond {
		t.Errorf("after a change of one bound: %+v", b)
	}
	if err := c.forget(p.UID); err != nil || len(k.slices) != 2 || len(c.told) != 2 {
		t.Errorf("after the pod: %v, systemd knows\n%s", err, k)
	}
	// Where systemd owns nothing, it is not needed.
	cfg.Slices, cfg.Driver = nil, Cgroupfs
	if _, err := New(cfg, c.log); err != nil {
		t.Error(err)
	}
	cfg.Driver = Systemd
	if _, err := New(cfg, c.log); err == nil {
		t.Error("slices without systemd are accepted")
	}
}
