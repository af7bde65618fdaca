package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What docs/cni.md says of podman with the plugin as a lone program: two containers talk, a host port leads to one, one has the address that it asks for,
// and nothing is left.
func TestPluginAloneInPodman(t *testing.T) {
	o := newOrlop(t)
	if _, err := exec.LookPath("podman"); err != nil {
		t.Fatalf("%v: go run ./integration/cmd/deps -need test installs it", err)
	}
	p := startPodman(t, o.bin)
	version := strings.Fields(o.must(t, "version"))
	image := p.load(t, filepath.Join(o.bin, "images", "orlop-testimage.tar"), version[len(version)-1])
	server := p.run(t, "run", "-d", "--name", "server", "--hostname", "served", "--network", "orlop", "-p", "8098:8080", image, "netexec", "--http-port=8080")
	addr := p.run(t, "inspect", "-f", "{{.NetworkSettings.Networks.orlop.IPAddress}}", "server")
	if addr != "10.98.0.2" {
		t.Errorf("the first container has the address %q", addr)
	}
	six := p.run(t, "inspect", "-f", "{{.NetworkSettings.Networks.orlop.GlobalIPv6Address}}", "server")
	if six != "fd98::2" {
		t.Errorf("the first container has the IPv6 address %q", six)
	}
	wget := func(url string) []string { return []string{"wget", "-qO-", "-T", "5", url} }
	for _, url := range []string{"http://" + addr + ":8080/hostname", "http://[" + six + "]:8080/hostname", "http://10.98.0.1:8098/hostname"} {
		args := append([]string{"run", "--rm", "--network", "orlop:ip=10.98.0.9", image}, wget(url)...)
		if got := p.run(t, args...); got != "served" {
			t.Errorf("%s from another container: %q", url, got)
		}
	}
	for _, url := range []string{"http://" + addr + ":8080/clientip", "http://127.0.0.1:8098/hostname"} {
		got, err := p.inside(append([]string{filepath.Join(o.bin, "testimage")}, wget(url)...)...)
		if want := map[bool]string{true: "10.98.0.1:", false: "served"}[strings.HasSuffix(url, "clientip")]; err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s from the node: %q, %v", url, got, err)
		}
	}
	list := p.leases(t)
	if strings.Count(list, "\n") != 2 || !strings.Contains(list, server[:12]) || !strings.Contains(list, "8098") { // a heading, and it
		t.Errorf("leases of the one container that runs:\n%s", list)
	}
	p.run(t, "rm", "-f", "-t", "0", "server")
	if list := p.leases(t); strings.Count(list, "\n") != 1 {
		t.Errorf("leases of nobody:\n%s", list)
	}
	rules, err := p.inside("nft", "list", "ruleset")
	if err != nil || strings.Contains(rules, "8098") {
		t.Errorf("rules of nobody: %v\n%s", err, rules)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		links, err := p.inside("ip", "-o", "link", "show", "type", "veth")
		if err == nil && strings.TrimSpace(links) == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("links of nobody: %v\n%s", err, links)
		}
	}
}

// lonePodman is one with network and mounts of its own: what it keeps below /run and /dev/shm is gone with them.
type lonePodman struct {
	dir string
	pid int
}

const podmanConf = `[network]
network_backend = "cni"
cni_plugin_dirs = ["DIR/bin"]
network_config_dir = "DIR/net.d"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
`

const podmanConflist = `{
  "cniVersion": "0.4.0", "name": "orlop",
  "plugins": [{
    "type": "orlop-cni", "podCIDRs": ["10.98.0.0/24", "fd98::/64"], "ipMasq": true, "stateDir": "DIR/leases",
    "capabilities": {"portMappings": true, "ips": true, "mac": true}
  }]
}`

func startPodman(t *testing.T, bin string) *lonePodman {
	t.Helper()
	p := &lonePodman{dir: t.TempDir()}
	fill := strings.NewReplacer("DIR", p.dir)
	for _, d := range []string{"bin", "net.d"} {
		if err := os.Mkdir(filepath.Join(p.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	plugin, err := os.ReadFile(filepath.Join(bin, "orlop-cni"))
	if err == nil {
		err = os.WriteFile(filepath.Join(p.dir, "bin", "orlop-cni"), plugin, 0o755)
	}
	for name, content := range map[string]string{
		"containers.conf": podmanConf, "net.d/10-orlop.conflist": podmanConflist, "policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`,
	} {
		if err == nil {
			err = os.WriteFile(filepath.Join(p.dir, name), []byte(fill.Replace(content)), 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c",
		"ip link set lo up && mount -t tmpfs run /run && mount -t tmpfs shm /dev/shm && echo ready && exec sleep infinity")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_, _ = p.podman("rm", "-f", "-a", "-t", "0")
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		p.removeGroups(t)
	})
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("namespaces for podman: %v", err)
	}
	return p
}

func (p *lonePodman) group() string { return "podman-" + filepath.Base(filepath.Dir(p.dir)) }

// removeGroups removes the cgroups in which podman had containers, once the last of its processes has ended.
func (p *lonePodman) removeGroups(t *testing.T) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, _ := exec.Command("find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", "*/"+p.group()+"*").Output() // folders of others go meanwhile
		groups := strings.Fields(string(out))
		if len(groups) == 0 {
			return
		}
		for _, g := range groups {
			if err := os.Remove(g); err != nil && time.Now().After(end) {
				t.Errorf("podman is gone, its cgroup is not: %v", err)
				return
			}
		}
	}
}

// inside runs a program in podman's namespaces.
func (p *lonePodman) inside(args ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(p.pid), "-n", "-m"}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(p.dir, "containers.conf"))
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, said.String())
	}
	return string(out), err
}

func (p *lonePodman) podman(args ...string) (string, error) {
	if args[0] == "run" {
		args = append([]string{"run", "--cgroup-parent", "/" + p.group()}, args[1:]...)
	}
	global := []string{"podman", "--root", filepath.Join(p.dir, "root"), "--runroot", "/run/podman-root", "--tmpdir", "/run/podman-tmp", "--storage-driver", "vfs"}
	out, err := p.inside(append(global, args...)...)
	return strings.TrimSpace(out), err
}

func (p *lonePodman) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.podman(args...)
	if err != nil {
		t.Fatalf("podman %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// load takes an image out of an archive that has several names for it, and returns its digest.
func (p *lonePodman) load(t *testing.T, archive, tag string) string {
	t.Helper()
	return p.run(t, "pull", "-q", "--signature-policy", filepath.Join(p.dir, "policy.json"), "oci-archive:"+archive+":"+tag)
}

func (p *lonePodman) leases(t *testing.T) string {
	t.Helper()
	out, err := p.inside(filepath.Join(p.dir, "bin", "orlop-cni"), "ipam", "-dir", filepath.Join(p.dir, "leases"), "list")
	if err != nil {
		t.Fatal(err)
	}
	return out
}
