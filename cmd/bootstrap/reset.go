package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	mountutils "k8s.io/mount-utils"
)

func resetCommand() *cobra.Command {
	var socket string
	var force bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Undo init or join: this host is no node any more",
		Long: `Undo init or join on this host: stop the kubelet, remove its pods, and remove what
init and join wrote, with etcd's data. Other nodes and the API are not told:
run "kubectl delete node NAME" first where the cluster lives on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return &ExitError{Code: 3, Err: errors.New("[ERROR IsPrivilegedUser]: run it as root")}
			}
			if !force && !confirm(cmd.InOrStdin(), cmd.OutOrStdout()) {
				return errors.New("nothing was changed")
			}
			return runReset(cmd.Context(), cmd.OutOrStdout(), Paths{}, socket)
		},
	}
	cmd.Flags().StringVar(&socket, "cri-socket", "unix:///run/containerd/containerd.sock", "socket of the container runtime")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

func confirm(in io.Reader, out io.Writer) bool {
	fmt.Fprint(out, "[reset] All that runs here through the kubelet ends, and etcd's data is removed. Go on? [y/N]: ")
	var answer string
	_, _ = fmt.Fscanln(in, &answer) // no answer is a no
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes")
}

// runReset tells of all that failed; a second run does the rest.
func runReset(ctx context.Context, out io.Writer, p Paths, socket string) error {
	var errs []error
	step := func(what string, run func() error) {
		say(out, "reset", what)
		if err := run(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", strings.ToLower(what), err))
		}
	}
	if systemdRuns() && fileExists(unitPath) {
		step("Stopping kubelet.service", func() error {
			msg, err := exec.CommandContext(ctx, "systemctl", "disable", "--now", "kubelet.service").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(msg)))
			}
			return errors.Join(os.Remove(unitPath), exec.CommandContext(ctx, "systemctl", "daemon-reload").Run())
		})
	}
	// config.yaml first: without it no supervisor starts the kubelet again,
	// and the kubelet without manifests starts no pod again.
	step("Removing the kubelet's configuration", func() error {
		return removeAll(p.kubelet("config.yaml"), p.kubelet("kubeadm-flags.env"), p.at("/etc/kubernetes/manifests"))
	})
	step("Waiting for the kubelet to end", func() error { return waitKubeletGone(ctx) })
	step("Removing pods", func() error { return removePods(ctx, socket) })
	if systemdRuns() { // the kubelet, which would stop them, has gone
		step("Stopping the slices of pods", func() error {
			msg, err := exec.CommandContext(ctx, "systemctl", "stop", "kubepods.slice").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(msg)))
			}
			return nil
		})
	}
	if err := errors.Join(errs...); err != nil {
		// Pods need the network's configuration to be removed: it stays until they are gone.
		return fmt.Errorf("%w\nmend this and reset again; the network and files are still there", err)
	}
	step("Removing the pod network and Services", func() error { return cleanNetwork(ctx) })
	step("Unmounting "+p.kubelet("pods"), func() error { return unmountBelow(p.kubelet("pods")) })
	step("Removing files", func() error {
		dirs := []string{"/etc/kubernetes", hostEtcd, "/etc/cni/net.d/10-orlop.conflist", "/opt/cni/bin/orlop-cni", "/var/lib/cni/orlop", "/run/orlop"}
		for i := range dirs {
			dirs[i] = p.at(dirs[i])
		}
		kubelet, err := filepath.Glob(p.kubelet("*"))
		return errors.Join(err, removeAll(append(dirs, kubelet...)...))
	})
	return errors.Join(errs...)
}

// removeAll removes what the paths hold. A path that is a mount point keeps
// its folder: only what lies in it is ours.
func removeAll(paths ...string) error {
	var errs []error
	for _, path := range paths {
		if mounted, err := mountutils.New("").IsMountPoint(path); err == nil && mounted {
			inside, err := filepath.Glob(filepath.Join(path, "*"))
			errs = append(errs, err)
			for _, in := range inside {
				errs = append(errs, os.RemoveAll(in))
			}
			continue
		}
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// waitKubeletGone waits until no kubelet answers: one that still runs would make again what is being removed.
func waitKubeletGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("not within 20 s"))
	defer cancel()
	return waitFor(ctx, 100*time.Millisecond, "kubelet to end (stop whoever supervises it, then reset again)", func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", kubeletHealthzAddress)
		if err != nil {
			return nil
		}
		conn.Close()
		return errors.New("it still listens at " + kubeletHealthzAddress)
	})
}

func removePods(ctx context.Context, socket string) error {
	conn, err := dialCRI(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	list, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("ask %s for its pods: %w", socket, err)
	}
	var errs []error
	for _, s := range list.Items {
		name := s.Metadata.Namespace + "/" + s.Metadata.Name
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		if _, err := runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil && status.Code(err) != codes.NotFound {
			errs = append(errs, fmt.Errorf("stop pod %s: %w", name, err))
		} else if _, err := runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil && status.Code(err) != codes.NotFound {
			errs = append(errs, fmt.Errorf("remove pod %s: %w", name, err))
		}
		cancel()
	}
	return errors.Join(errs...)
}

// cleanNetwork has the agent remove what it made: it alone knows its programs, routes, links and tables.
func cleanNetwork(ctx context.Context) error {
	programs, err := programDir()
	if err != nil {
		return err
	}
	msg, err := exec.CommandContext(ctx, filepath.Join(programs, "orlop-agent"), "uninstall").CombinedOutput()
	if err != nil {
		return fmt.Errorf("orlop-agent uninstall: %w: %s", err, strings.TrimSpace(string(msg)))
	}
	return nil
}

// unmountBelow unmounts everything below dir, deepest first.
func unmountBelow(dir string) error {
	mounter := mountutils.New("")
	points, err := mounter.List()
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		if strings.HasPrefix(points[i].Path, dir+"/") {
			errs = append(errs, mounter.Unmount(points[i].Path))
		}
	}
	return errors.Join(errs...)
}
