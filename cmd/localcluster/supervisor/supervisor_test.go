package supervisor

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMajorVersion(t *testing.T) {
	for printed, want := range map[string]int{
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n":           1,
		"containerd github.com/containerd/containerd/v2 v2.4.2 0123456789abcdef\n":                2,
		"containerd github.com/containerd/containerd v1.7.24 88bf19b2105c8b17560993bee28a01ddc2f": 1,
	} {
		if got, err := majorVersion(printed); err != nil || got != want {
			t.Errorf("%q: %d, %v", printed, got, err)
		}
	}
	if _, err := majorVersion("command not found"); err == nil {
		t.Error("no error without a version")
	}
}

func TestContainerdConfig(t *testing.T) {
	for major, head := range map[int]string{1: "version = 2\n", 2: "version = 3\n"} {
		got, err := containerdConfig(major, "localhost/pause:v1", "/certs")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{head, `"localhost/pause:v1"`, "restrict_oom_score_adj = true", `"/opt/cni/bin"`, `config_path = "/certs"`} {
			if !strings.Contains(got, want) {
				t.Errorf("%d.x: no %s in\n%s", major, want, got)
			}
		}
	}
	if _, err := containerdConfig(3, "", ""); err == nil {
		t.Error("containerd 3 is accepted unseen")
	}
}

func TestNextDelay(t *testing.T) {
	var delays []time.Duration
	var d time.Duration
	for range 9 {
		d = nextDelay(d, time.Second)
		delays = append(delays, d)
	}
	if delays[0] > time.Second || delays[8] != maxDelay {
		t.Errorf("delays %v", delays)
	}
	if got := nextDelay(maxDelay, steady); got != firstDelay {
		t.Errorf("after a steady run the delay is %v", got)
	}
}

func TestParseFlagsEnv(t *testing.T) {
	got := parseFlagsEnv("# kubeadm\nOTHER=1\nKUBELET_KUBEADM_ARGS=\"--node-ip=1.2.3.4  --hostname-override=a\"\n")
	if d := cmp.Diff([]string{"--node-ip=1.2.3.4", "--hostname-override=a"}, got); d != "" {
		t.Error(d)
	}
	if got := parseFlagsEnv("KUBELET_KUBEADM_ARGS=\n"); len(got) != 0 {
		t.Errorf("got %q of nothing", got)
	}
}

// A cluster's own containerd finds its shim, and not the machine's.
func TestHostEnv(t *testing.T) {
	for containerd, want := range map[string]string{
		"":                   "PATH=/usr/local/sbin:",
		"/opt/c2/containerd": "PATH=/opt/c2:/usr/local/sbin:",
	} {
		if env := hostEnv(containerd); !strings.HasPrefix(env[0], want) {
			t.Errorf("with containerd %q the environment begins %q, want %q", containerd, env[0], want)
		}
	}
}
