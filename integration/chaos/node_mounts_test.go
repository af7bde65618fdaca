package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// mountsPropagate mounts something in a container, and something on its node, below a folder that three containers have in
// three ways: each must see what its way says and no more.
func mountsPropagate(t *testing.T, c *clustertest.Cluster) {
	const dir = "/root/propagates"
	ns, host := c.Namespace(t), c.Nodes[1]
	_, err := c.Exec(host, "mkdir", "-p", dir+"/by-pod", dir+"/by-node")
	must(t, err)
	defer func() {
		_, _ = c.Exec(host, "sh", "-c", "umount "+dir+"/*; rmdir "+dir+"/* "+dir)
	}()
	ways := []corev1.MountPropagationMode{corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone}
	pids := map[corev1.MountPropagationMode]int{}
	for i, way := range ways {
		p := c.RunPod(t, ns, c.Pod(fmt.Sprintf("way-%d", i), []string{"netexec"}, clustertest.On(host), func(p *corev1.Pod) {
			privileged := way == corev1.MountPropagationBidirectional // the API server wants that
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &privileged}
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/m", MountPropagation: &way}}
		}))
		pids[way] = processOf(t, c, p)
	}
	must(t, mountIn(pids[corev1.MountPropagationBidirectional], "/m/by-pod"))
	_, err = c.Exec(host, "mount", "-t", "tmpfs", "tmpfs", dir+"/by-node")
	must(t, err)
	for _, tt := range []struct {
		way  corev1.MountPropagationMode
		sees int
	}{{corev1.MountPropagationBidirectional, 2}, {corev1.MountPropagationHostToContainer, 2}, {corev1.MountPropagationNone, 0}} {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pids[tt.way]))
		must(t, err)
		if n := strings.Count(string(mounts), " /m/by-"); n != tt.sees {
			t.Errorf("with propagation %s the container sees %d mounts, want %d:\n%s", tt.way, n, tt.sees, mounts)
		}
	}
	if out, err := c.Exec(host, "mountpoint", dir+"/by-pod"); err != nil {
		t.Errorf("the node does not see what a container mounted: %v, %s", err, out)
	}
	for i := range ways {
		remove(t, c, ns, fmt.Sprintf("way-%d", i))
	}
	for i := range ways {
		gone(t, c, ns, fmt.Sprintf("way-%d", i))
	}
	time.Sleep(time.Second)
	if out, err := c.Exec(host, "mountpoint", dir+"/by-node"); err != nil {
		t.Errorf("a pod's end took the node's own mount: %v, %s", err, out)
	}
}

// mountIn mounts an empty file system in the mount namespace of a process.
func mountIn(pid int, target string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		done <- func() error {
			ns, err := os.Open(filepath.Join("/proc", fmt.Sprint(pid), "ns/mnt"))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("leave the other threads' root: %w", err)
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter mounts of process %d: %w", pid, err)
			}
			if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
				return fmt.Errorf("mount %s: %w", target, err)
			}
			return nil
		}()
	}()
	return <-done
}
