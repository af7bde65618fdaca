package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pluginDir is where the node agent puts the CNI plugin.
const pluginDir = "/opt/cni/bin"

// check is one thing that must hold before anything is written. The names are
// kubeadm's, because people pass them to --ignore-preflight-errors.
type check struct {
	name string
	run  func(context.Context) error
}

func initChecks(p Paths, c Config, programs string) []check {
	checks := commonChecks(c.CRISocket, programs)
	for _, port := range []int{int(c.Port), schedulerPort, kcmPort, 10250, etcdClientPort, etcdPeerPort} {
		checks = append(checks, portCheck(port))
	}
	for _, comp := range components(c) {
		checks = append(checks, absent("FileAvailable--etc-kubernetes-manifests-"+comp.name+".yaml", p.manifest(comp.name)))
	}
	return append(checks, check{"DirAvailable--var-lib-etcd", func(context.Context) error {
		entries, err := os.ReadDir(p.at(hostEtcd))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(entries) > 0 {
			return fmt.Errorf("%s is not empty: it holds another cluster's data (orlop reset removes it)", hostEtcd)
		}
		return nil
	}})
}

func joinChecks(p Paths, socket, programs string) []check {
	return append(commonChecks(socket, programs),
		portCheck(10250),
		absent("FileAvailable--etc-kubernetes-kubelet.conf", p.kubernetes("kubelet.conf")),
		absent("FileAvailable--etc-kubernetes-bootstrap-kubelet.conf", p.kubernetes("bootstrap-kubelet.conf")),
		absent("FileAvailable--etc-kubernetes-pki-ca.crt", p.pki("ca.crt")),
	)
}

func commonChecks(socket, programs string) []check {
	return []check{
		{"IsPrivilegedUser", func(context.Context) error {
			if os.Geteuid() != 0 {
				return errors.New("run it as root")
			}
			return nil
		}},
		{"CRI", func(ctx context.Context) error {
			conn, err := dialCRI(socket)
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if _, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
				return fmt.Errorf("no container runtime answers at %s: %w (apt-get install containerd runc, then start it)", socket, err)
			}
			return nil
		}},
		{"CRI-CNI", func(ctx context.Context) error {
			conn, err := dialCRI(socket)
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			st, err := runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
			if err != nil {
				return nil // check CRI says so
			}
			return checkPluginDirs(st.GetInfo()["config"])
		}},
		{"FileContent--proc-sys-net-ipv4-ip_forward", func(context.Context) error {
			content, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
			if err != nil {
				return err
			}
			if strings.TrimSpace(string(content)) != "1" {
				return errors.New("this host does not forward packets between pods: sysctl -w net.ipv4.ip_forward=1")
			}
			return nil
		}},
		{"FileExisting-orlop-kubelet", func(context.Context) error {
			program := filepath.Join(programs, "orlop-kubelet")
			if _, err := os.Stat(program); err != nil {
				return fmt.Errorf("%w: put orlop-kubelet beside orlop", err)
			}
			return nil
		}},
		{"FileExisting-mount", func(context.Context) error {
			_, err := exec.LookPath("mount")
			return err
		}},
		{"Hostname", func(context.Context) error {
			if defaultNodeName() == "" {
				return errors.New("this host has no name: set one, or pass --node-name")
			}
			return nil
		}},
	}
}

// checkPluginDirs reads from containerd's configuration where it looks for CNI plugins. Another runtime's says nothing.
func checkPluginDirs(config string) error {
	var cfg struct {
		CNI struct {
			Dir  string   `json:"binDir"`  // 1.x
			Dirs []string `json:"binDirs"` // 2.x
		} `json:"cni"`
	}
	if json.Unmarshal([]byte(config), &cfg) != nil {
		return nil
	}
	dirs := cfg.CNI.Dirs
	if cfg.CNI.Dir != "" {
		dirs = append(dirs, cfg.CNI.Dir)
	}
	if len(dirs) == 0 || slices.ContainsFunc(dirs, func(d string) bool { return filepath.Clean(d) == pluginDir }) {
		return nil
	}
	return fmt.Errorf("containerd looks for CNI plugins in %s, and the node agent puts its own into %s: set bin_dir of its CNI configuration in /etc/containerd/config.toml to %[2]s, then restart it",
		strings.Join(dirs, ", "), pluginDir)
}

func absent(name, path string) check {
	return check{name, func(context.Context) error {
		if fileExists(path) {
			return fmt.Errorf("%s already exists: this host is a node (orlop reset undoes it)", path)
		}
		return nil
	}}
}

func portCheck(port int) check {
	return check{"Port-" + strconv.Itoa(port), func(context.Context) error {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return fmt.Errorf("port %d is in use: %w", port, err)
		}
		return l.Close()
	}}
}

// preflight runs the checks and joins what fails; ignored ones become warnings.
func preflight(ctx context.Context, out io.Writer, checks []check, ignore []string) error {
	var errs []error
	for _, c := range checks {
		err := c.run(ctx)
		switch {
		case err == nil:
		case slices.ContainsFunc(ignore, func(n string) bool { return strings.EqualFold(n, c.name) || n == "all" }):
			say(out, "preflight", fmt.Sprintf("WARNING %s: %v", c.name, err))
		default:
			errs = append(errs, fmt.Errorf("[ERROR %s]: %w", c.name, err))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	errs = append(errs, errors.New("mend these, or pass --ignore-preflight-errors=NAME,... if you know better"))
	return &ExitError{Code: 3, Err: fmt.Errorf("this host is not ready:\n%w", errors.Join(errs...))}
}
