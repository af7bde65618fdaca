package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// What docs/cni.md says of containerd with the plugin as a lone program, for both major versions: that in PATH, and 2.x.
func TestPluginAloneInContainerd(t *testing.T) {
	o := newOrlop(t)
	two, err := clustertest.Containerd2()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"containerd", two} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		version, err := exec.Command(path, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.Fields(string(version))[2], func(t *testing.T) {
			c := startContainerd(t, o.bin, path, !strings.Contains(string(version), " 1."))
			c.lone(t)
		})
	}
}

// loneContainerd is one with network and mounts of its own, the plugin, and nothing else of Orlop.
type loneContainerd struct {
	dir, group, pause string
	pid               int
	asksStatus        bool // 2.x asks the plugin whether it is ready
	runtime           runtimeapi.RuntimeServiceClient
}

const loneConfig1 = `version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "DIR/s"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIR/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "DIR/bin"
    conf_dir = "DIR/net.d"
`

const loneConfig2 = `version = 3
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri"]
[grpc]
  address = "DIR/s"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIR/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "PAUSE"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["DIR/bin"]
    conf_dir = "DIR/net.d"
`

const loneConflist = `{
  "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "lone",
  "plugins": [{
    "type": "orlop-cni", "bridge": "lone0", "podCIDRsFile": "DIR/pod-cidrs.json", "ipMasq": true, "stateDir": "DIR/leases",
    "capabilities": {"portMappings": true}
  }]
}`

func startContainerd(t *testing.T, bin, program string, two bool) *loneContainerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "lone-*") // short: sockets' names have a limit
	if err != nil {
		t.Fatal(err)
	}
	c := &loneContainerd{dir: dir, group: filepath.Base(dir), pause: "localhost/pause:lone", asksStatus: two}
	fill := strings.NewReplacer("DIR", dir, "PAUSE", c.pause)
	config := loneConfig1
	if two {
		config = loneConfig2
	}
	for _, d := range []string{"bin", "net.d"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"config.toml": config, "net.d/10-lone.conflist": loneConflist} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(fill.Replace(content)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plugin, err := os.ReadFile(filepath.Join(bin, "orlop-cni"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin", "orlop-cni"), plugin, 0o755)
	}
	if err == nil {
		err = os.Symlink("orlop-cni", filepath.Join(dir, "bin", "loopback"))
	}
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c",
		`ip link set lo up && exec "$0" -c "$1"`, program, filepath.Join(dir, "config.toml"))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.pid = cmd.Process.Pid
	t.Cleanup(func() {
		c.removeSandboxes()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + c.group)
		for _, g := range groups {
			_ = os.Remove(g)
		}
		if t.Failed() {
			t.Log(log.String())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c.runtime = runtimeapi.NewRuntimeServiceClient(conn)
	c.wait(t, "answer", func(ctx context.Context) bool {
		_, err := c.runtime.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil
	})
	archive := filepath.Join(bin, "images", "pause.tar")
	ctr := filepath.Join(filepath.Dir(program), "ctr")
	script := `"$0" -a "$1" -n k8s.io images import "$2" && "$0" -a "$1" -n k8s.io images tag "$("$0" -a "$1" -n k8s.io images ls -q name~=pause: | head -1)" "$3"`
	if out, err := exec.Command("sh", "-ec", script, ctr, filepath.Join(dir, "s"), archive, c.pause).CombinedOutput(); err != nil {
		t.Fatalf("import %s: %v: %s", archive, err, out)
	}
	return c
}

func (c *loneContainerd) wait(t *testing.T, what string, done func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for !done(ctx) {
		if ctx.Err() != nil {
			t.Fatalf("no %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// inside runs a program in containerd's network namespace.
func (c *loneContainerd) inside(args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(c.pid), "-n"}, args...)...).CombinedOutput()
	return string(out), err
}

// removeSandboxes leaves no process behind when the test failed in between.
func (c *loneContainerd) removeSandboxes() {
	if c.runtime == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	list, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return
	}
	for _, s := range list.Items {
		_, _ = c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id})
		_, _ = c.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id})
	}
}

func (c *loneContainerd) networkReady(ctx context.Context) (ready bool, why string) {
	r, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return false, err.Error()
	}
	for _, cond := range r.Status.Conditions {
		if cond.Type == "NetworkReady" {
			return cond.Status, cond.Message
		}
	}
	return false, "not told"
}

// lone takes a sandbox from its beginning to its end.
func (c *loneContainerd) lone(t *testing.T) {
	ctx := t.Context()
	if ready, why := c.networkReady(ctx); ready == c.asksStatus || c.asksStatus && !strings.Contains(why, "no pod CIDR") {
		t.Errorf("before the node has a pod CIDR: network ready %v, %q", ready, why)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "pod-cidrs.json"), []byte(`{"podCIDRs": ["10.89.0.0/24", "fd89::/64"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c.wait(t, "ready network", func(ctx context.Context) bool { ready, _ := c.networkReady(ctx); return ready })
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "n"},
		PortMappings: []*runtimeapi.PortMapping{{HostPort: 8089, ContainerPort: 80}},
		Linux:        &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/" + c.group},
	}
	run, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: run.PodSandboxId})
	if err != nil {
		t.Fatal(err)
	}
	addrs := []string{status.Status.Network.GetIp()}
	for _, more := range status.Status.Network.GetAdditionalIps() {
		addrs = append(addrs, more.Ip)
	}
	if got := strings.Join(addrs, " "); got != "10.89.0.2 fd89::2" {
		t.Errorf("the sandbox has %q", got)
	}
	for _, a := range addrs {
		// Nobody listens; that somebody says so is the network.
		if out, err := c.inside("bash", "-c", "exec 3<>/dev/tcp/"+a+"/81"); err == nil || !strings.Contains(out, "refused") {
			t.Errorf("from the node to %s: %v %s", a, err, out)
		}
	}
	c.leases(t, 1, run.PodSandboxId, "8089")
	if _, err := c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: run.PodSandboxId}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: run.PodSandboxId}); err != nil {
		t.Fatal(err)
	}
	c.leases(t, 0)
	c.wait(t, "end of the link", func(context.Context) bool {
		out, err := c.inside("ip", "-o", "link", "show", "type", "veth")
		return err == nil && strings.TrimSpace(out) == ""
	})
}

// leases wants a number of them, and words in them.
func (c *loneContainerd) leases(t *testing.T, n int, words ...string) {
	t.Helper()
	out, err := c.inside(filepath.Join(c.dir, "bin", "orlop-cni"), "ipam", "-dir", filepath.Join(c.dir, "leases"), "list")
	if err != nil || strings.Count(out, "\n") != n+1 {
		t.Errorf("want %d leases: %v\n%s", n, err, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("no %s among leases:\n%s", w, out)
		}
	}
}
