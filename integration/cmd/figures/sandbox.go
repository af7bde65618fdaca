package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// boxes is a containerd with a network of its own, whose pods get theirs from one chain of plugins.
type boxes struct {
	name    string
	dir     string
	log     bytes.Buffer
	cmd     *exec.Cmd
	conn    *grpc.ClientConn
	runtime runtimeapi.RuntimeServiceClient
	made    int
}

// row is one kind of sandbox of one containerd, and what its calls took, in milliseconds.
type row struct {
	name      string
	of        *boxes
	network   runtimeapi.NamespaceMode
	port      bool
	run, stop []float64
}

const boxImage = "localhost/pause:figures"

const boxConfig = `version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "DIR/s"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIR/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + boxImage + `"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "BIN"
    conf_dir = "DIR/net.d"
`

// runSandboxes measures what a runtime's answers to RunPodSandbox and StopPodSandbox take with the peers' usual chain, and with one program in
// its place: the two in turn.
func runSandboxes(ctx context.Context, bin, ours, peers string, out io.Writer) (misses []string, err error) {
	const rounds = 40
	plugin := func(kind string) map[string]any {
		return map[string]any{"type": kind, "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "ipMasq": true,
			"ipam": map[string]any{"type": "host-local", "dataDir": "DIR/leases", "ranges": []any{[]any{map[string]any{"subnet": "10.80.0.0/20"}}}}}
	}
	ports := map[string]any{"portMappings": true}
	alone := plugin("orlop-cni")
	alone["capabilities"] = ports
	mine, err := startBoxes(ctx, "orlop-cni", bin, ours, alone)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mine.close(context.WithoutCancel(ctx))) }()
	theirs, err := startBoxes(ctx, "bridge + host-local + portmap", bin, peers, plugin("bridge"), map[string]any{"type": "portmap", "capabilities": ports})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, theirs.close(context.WithoutCancel(ctx))) }()
	const pod, node = runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE
	rows := []*row{
		{name: "the node's network, no plugin", of: mine, network: node},
		{name: mine.name, of: mine, network: pod},
		{name: theirs.name, of: theirs, network: pod},
		{name: mine.name + ", one host port", of: mine, network: pod, port: true},
		{name: theirs.name + ", one host port", of: theirs, network: pod, port: true},
	}
	for i := range rounds + 1 {
		for _, r := range rows {
			run, stop, err := r.of.once(ctx, r.network, r.port)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			if i > 0 { // the first makes the bridge
				r.run, r.stop = append(r.run, run), append(r.stop, stop)
			}
		}
	}
	fmt.Fprintf(out, "| ms that containerd takes, medians of %d (5th to 95th percentile) | RunPodSandbox | StopPodSandbox |\n|---|---|---|\n", rounds)
	for _, r := range rows {
		fmt.Fprintf(out, "| %s | %.1f (%.1f to %.1f) | %.1f (%.1f to %.1f) |\n", r.name, median(r.run), percentile(r.run, 5), percentile(r.run, 95),
			median(r.stop), percentile(r.stop, 5), percentile(r.stop, 95))
	}
	fmt.Fprintln(out)
	for i := 1; i < len(rows); i += 2 {
		if a, b := median(rows[i].run), median(rows[i+1].run); a > b {
			misses = append(misses, fmt.Sprintf("RunPodSandbox takes %.1f ms with %s and %.1f with %s", a, rows[i].name, b, rows[i+1].name))
		}
	}
	return misses, nil
}

// once takes one sandbox from its beginning to its end.
func (b *boxes) once(ctx context.Context, network runtimeapi.NamespaceMode, port bool) (run, stop float64, err error) {
	b.made++
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: fmt.Sprint("p", b.made), Uid: fmt.Sprint("u", b.made), Namespace: "n"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    "/" + filepath.Base(b.dir),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: network}},
		},
	}
	if port {
		config.PortMappings = []*runtimeapi.PortMapping{{HostPort: int32(10000 + b.made), ContainerPort: 80}}
	}
	began := time.Now()
	made, err := b.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return 0, 0, fmt.Errorf("run sandbox: %w", err)
	}
	run = time.Since(began).Seconds() * 1000
	began = time.Now()
	if _, err := b.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
		return 0, 0, fmt.Errorf("stop sandbox: %w", err)
	}
	stop = time.Since(began).Seconds() * 1000
	if _, err := b.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
		return 0, 0, fmt.Errorf("remove sandbox: %w", err)
	}
	return run, stop, nil
}

// startBoxes starts containerd in namespaces of its own, with programs for plugins; its folder is in the place of DIR in their configurations.
func startBoxes(ctx context.Context, name, bin, programs string, plugins ...map[string]any) (b *boxes, err error) {
	dir, err := os.MkdirTemp("", "boxes-*") // short: sockets' names have a limit
	if err != nil {
		return nil, err
	}
	b = &boxes{name: name, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start containerd: %w: %s", err, b.log.Bytes()), b.close(context.WithoutCancel(ctx)))
		}
	}()
	conflist, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "figures", "plugins": plugins})
	if err != nil {
		return b, err
	}
	if err := os.Mkdir(filepath.Join(dir, "net.d"), 0o755); err != nil {
		return b, err
	}
	fill := strings.NewReplacer("DIR", dir, "BIN", programs)
	for file, content := range map[string]string{"config.toml": boxConfig, "net.d/10-figures.conflist": string(conflist)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(fill.Replace(content)), 0o600); err != nil {
			return b, err
		}
	}
	b.cmd = exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", `ip link set lo up && exec containerd -c "$0"`, filepath.Join(dir, "config.toml"))
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	if err := b.cmd.Start(); err != nil {
		b.cmd = nil
		return b, err
	}
	socket := filepath.Join(dir, "s")
	if b.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return b, err
	}
	b.runtime = runtimeapi.NewRuntimeServiceClient(b.conn)
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := until(wait, func(ctx context.Context) bool {
		_, err := b.runtime.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil
	}); err != nil {
		return b, err
	}
	script := `ctr -a "$0" -n k8s.io images import "$1" && ctr -a "$0" -n k8s.io images tag "$(ctr -a "$0" -n k8s.io images ls -q name~=pause: | head -1)" "$2"`
	if said, err := exec.CommandContext(ctx, "sh", "-ec", script, socket, filepath.Join(bin, "images", "pause.tar"), boxImage).CombinedOutput(); err != nil {
		return b, fmt.Errorf("import the image pause: %w: %s", err, said)
	}
	return b, nil
}

// close ends containerd and what it runs, and leaves nothing behind.
func (b *boxes) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if b.conn != nil {
		if list, err := b.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err == nil {
			for _, s := range list.Items {
				_, _ = b.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id})
				_, _ = b.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id})
			}
		}
		b.conn.Close()
	}
	if b.cmd != nil {
		_ = b.cmd.Process.Signal(syscall.SIGTERM)
		_ = b.cmd.Wait() // its exit code is that of the signal
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(b.dir)) // the pattern is right
	for _, g := range groups {
		_ = os.Remove(g) // some controllers have none
	}
	return os.RemoveAll(b.dir)
}
