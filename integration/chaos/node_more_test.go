package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// gone waits until the API server has forgotten a pod.
func gone(t *testing.T, c *clustertest.Cluster, ns, name string) {
	t.Helper()
	wait(t, 90*time.Second, "pod "+name+" to be gone", func() error {
		p, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is %s since %v", p.Status.Phase, p.DeletionTimestamp)
		}
		return err
	})
}

// holdings lists what a host holds for pods, one thing a line.
const holdings = `
find /sys/fs/cgroup -type d -path '*kubepods*' -name 'pod*' 2>/dev/null | sed 's,.*/,cgroup ,' | sort -u
grep -o '/var/lib/kubelet/pods/[^ ]*' /proc/self/mounts | sed 's/^/mount /'
ls /run/netns | grep cni- | sed 's/^/netns /'
find /var/lib/cni/orlop -type f -path '*/addrs/*' | sed 's,.*/,lease ,'
ls /sys/class/net | grep '^orl.*[0-9a-f]' | grep -v orlop0 | sed 's/^/link /'
ls /var/log/pods | sed 's/^/logs /'
ls /var/log/containers | sed 's/^/log /'
ls /var/lib/kubelet/pods | sed 's/^/volumes /'
ctr -n k8s.io containers ls -q | sed 's/^/container /'
ctr -n k8s.io tasks ls -q | sed 's/^/task /'
true`

func held(t *testing.T, c *clustertest.Cluster, host string) []string {
	t.Helper()
	out, err := c.Exec(host, "sh", "-c", holdings)
	must(t, err)
	return strings.Split(out, "\n")
}

// holdsOnly wants a host to hold no more than before.
func holdsOnly(t *testing.T, c *clustertest.Cluster, host string, before []string, within time.Duration) {
	t.Helper()
	wait(t, within, host+" to hold no more than before", func() error {
		left := slices.DeleteFunc(held(t, c, host), func(s string) bool { return slices.Contains(before, s) })
		if len(left) > 0 {
			return fmt.Errorf("%d things more:\n%s", len(left), strings.Join(left[:min(30, len(left))], "\n"))
		}
		return nil
	})
}

// withPlugin puts a script in the place of the network plugin; the plugin itself is called $REAL in it.
func withPlugin(t *testing.T, c *clustertest.Cluster, host, script string) (restore func()) {
	t.Helper()
	const real = "/opt/cni/bin/orlop-cni.real"
	_, err := c.Exec(host, "sh", "-c", `set -e
		mv /opt/cni/bin/orlop-cni `+real+`
		printf '%s\n' "$0" > /opt/cni/bin/orlop-cni
		chmod 755 /opt/cni/bin/orlop-cni`, "#!/bin/sh\nREAL="+real+"\n"+script)
	must(t, err)
	return func() {
		t.Helper()
		_, err := c.Exec(host, "mv", real, "/opt/cni/bin/orlop-cni")
		must(t, err)
	}
}

func create(t *testing.T, c *clustertest.Cluster, ns string, p *corev1.Pod) {
	t.Helper()
	_, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	must(t, err)
}

func remove(t *testing.T, c *clustertest.Cluster, ns, name string) {
	t.Helper()
	must(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true }

// pluginFails has the network plugin fail, first before it did anything, then after it did all: pods say so, wait, and
// leave nothing when they are deleted; those that stay run as soon as the plugin works.
func pluginFails(t *testing.T, c *clustertest.Cluster) {
	host := c.Nodes[1]
	before := held(t, c, host)
	for name, script := range map[string]string{
		"at once": `[ "$CNI_COMMAND" = ADD ] || exec $REAL; echo '{"code":11,"msg":"no link today"}'; exit 1`,
		"after its work": `[ "$CNI_COMMAND" = ADD ] || exec $REAL
$REAL > /dev/null; echo '{"code":11,"msg":"no link today"}'; exit 1`,
	} {
		t.Run(name, func(t *testing.T) {
			ns := c.Namespace(t)
			restore := withPlugin(t, c, host, script)
			create(t, c, ns, c.Pod("stays", []string{"netexec"}, clustertest.On(host)))
			create(t, c, ns, c.Pod("goes", []string{"netexec"}, clustertest.On(host)))
			wait(t, 30*time.Second, "an event to say what is wrong", func() error {
				list, err := c.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
				if err != nil {
					return err
				}
				for _, e := range list.Items {
					if e.Reason == "FailedCreatePodSandBox" && strings.Contains(e.Message, "no link today") && e.InvolvedObject.Name == "stays" {
						return nil
					}
				}
				return fmt.Errorf("%d events, none of them", len(list.Items))
			})
			c.RunPod(t, ns, c.Pod("beside", []string{"netexec", "--http-port=18080"}, clustertest.On(host), hostNetwork))
			time.Sleep(5 * time.Second) // for some more tries
			remove(t, c, ns, "goes")
			gone(t, c, ns, "goes")
			restore()
			c.WaitPod(t, ns, "stays", "ready", clustertest.Ready)
			for _, pod := range []string{"stays", "beside"} {
				remove(t, c, ns, pod)
				gone(t, c, ns, pod)
			}
			holdsOnly(t, c, host, before, 90*time.Second) // what a try left that was cut off is seen by the sweep of each minute
		})
	}
}

// pluginHangs has the network plugin hang for more pods than are made side by side: others start nevertheless.
func pluginHangs(t *testing.T, c *clustertest.Cluster) {
	host := c.Nodes[1]
	before := held(t, c, host)
	ns := c.Namespace(t)
	restore := withPlugin(t, c, host, `[ "$CNI_COMMAND" = ADD ] && sleep 40; exec $REAL`)
	const stuck = 8
	for i := range stuck {
		create(t, c, ns, c.Pod(fmt.Sprintf("stuck-%d", i), []string{"netexec"}, clustertest.On(host)))
	}
	time.Sleep(2 * time.Second)
	begun := time.Now()
	c.RunPod(t, ns, c.Pod("beside", []string{"netexec", "--http-port=18080"}, clustertest.On(host), hostNetwork))
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("a pod beside those that wait for the plugin was ready after %v", took)
	}
	must(t, nodeReady(t.Context(), c, host))
	remove(t, c, ns, "stuck-0")
	restore()
	for i := 1; i < stuck; i++ {
		c.WaitPod(t, ns, fmt.Sprintf("stuck-%d", i), "ready", clustertest.Ready)
	}
	gone(t, c, ns, "stuck-0")
	must(t, c.Client.CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	holdsOnly(t, c, host, before, time.Minute)
}

// diskFull gives what the kubelet writes for pods a disk that is full, or has no inode left: pods that need it wait and say
// why, and run once there is room again; no other notices.
func diskFull(t *testing.T, c *clustertest.Cluster) {
	host := c.Nodes[1]
	for _, tt := range []struct{ name, dir, full, room string }{
		{"logs, no inode", "/var/log/pods", "size=1m,nr_inodes=1", "nr_inodes=1000"},
		{"volumes, no room", "/var/lib/kubelet/pods", "size=16k", "size=1m"},
		{"volumes, no inode", "/var/lib/kubelet/pods", "size=1m,nr_inodes=3", "nr_inodes=1000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns, others := c.Namespace(t), c.Namespace(t)
			c.RunPod(t, others, c.Pod("steady", []string{"netexec"}, clustertest.On(host)))
			w := watchPods(t, c, others)
			_, err := c.Exec(host, "sh", "-c", "mount -t tmpfs -o "+tt.full+" full "+tt.dir+"; head -c 16384 /dev/zero > "+tt.dir+"/filler; true")
			must(t, err)
			defer func() { _, _ = c.Exec(host, "umount", "-l", tt.dir) }()
			create(t, c, ns, c.Pod("waits", []string{"netexec"}, clustertest.On(host)))
			wait(t, 30*time.Second, "an event to say what is wrong", func() error {
				list, err := c.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
				if err != nil {
					return err
				}
				var all []string
				for _, e := range list.Items {
					if strings.Contains(e.Message, "no space left on device") {
						return nil
					}
					all = append(all, e.Reason+": "+e.Message)
				}
				return fmt.Errorf("none of %q", all)
			})
			must(t, nodeReady(t.Context(), c, host))
			_, err = c.Exec(host, "mount", "-o", "remount,"+tt.room, tt.dir)
			must(t, err)
			c.WaitPod(t, ns, "waits", "ready", clustertest.Ready)
			remove(t, c, ns, "waits")
			gone(t, c, ns, "waits")
			w.check(t)
		})
	}
}

// serverAway takes the API server away. Pods run, probes act, containers are restarted and static pods change meanwhile;
// afterwards all of that is told.
func serverAway(t *testing.T, c *clustertest.Cluster) {
	ns, host := c.Namespace(t), c.Nodes[1]
	crowdOf(t, c, ns, host, 11)
	victim := c.RunPod(t, ns, c.Pod("victim", []string{"netexec"}, clustertest.On(host)))
	probed := c.Pod("probed", []string{"netexec"}, clustertest.On(host))
	ask := &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 2, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(8080)}}}
	probed.Spec.Containers[0].ReadinessProbe = ask
	var err error
	manifest := func(name, state string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: %s\n  labels: {state: %s}\nspec:\n  containers:\n  - name: c\n    image: %s\n", name, ns, state, c.Image("pause"))
	}
	write := func(name, text string) {
		t.Helper()
		_, err := c.Exec(host, "sh", "-c", `mkdir -p /etc/kubernetes/manifests; printf '%s' "$0" > /etc/kubernetes/manifests/.tmp && mv /etc/kubernetes/manifests/.tmp /etc/kubernetes/manifests/`+name+`.yaml`, text)
		must(t, err)
	}
	unwrite := func(name string) {
		t.Helper()
		_, err := c.Exec(host, "rm", "-f", "/etc/kubernetes/manifests/"+name+".yaml")
		must(t, err)
	}
	for _, name := range []string{"changes", "leaves"} {
		write(name, manifest(name, "before"))
		c.WaitPod(t, ns, name+"-"+host, "ready", clustertest.Ready)
	}
	defer func() {
		for _, name := range []string{"changes", "comes", "leaves"} {
			unwrite(name)
		}
	}()
	w := watchPods(t, c, ns)
	const server = "/etc/kubernetes/manifests/kube-apiserver.yaml"
	_, err = c.Exec(c.Nodes[0], "mv", server, "/root/kube-apiserver.yaml")
	must(t, err)
	defer func() {
		_, _ = c.Exec(c.Nodes[0], "sh", "-c", "[ -e "+server+" ] || mv /root/kube-apiserver.yaml "+server)
	}()
	wait(t, time.Minute, "the API server to be away", func() error {
		if _, err := c.Client.Discovery().ServerVersion(); err != nil {
			return nil
		}
		return errors.New("it answers")
	})
	away := time.Now()
	w.stop()
	must(t, syscall.Kill(processOf(t, c, victim), syscall.SIGKILL))
	write("changes", manifest("changes", "after"))
	write("comes", manifest("comes", "after"))
	unwrite("leaves")
	runs := func(pod string) error {
		out, err := c.Exec(host, "sh", "-c", "ls -d /var/log/pods/"+ns+"_"+pod+"-"+host+"_*")
		if err != nil || strings.Count(out, ns) != 1 {
			return fmt.Errorf("its logs are %q, %v", strings.TrimSpace(out), err)
		}
		return nil
	}
	wait(t, 90*time.Second, "the static pods to change without an API server", func() error {
		if err := runs("leaves"); err == nil {
			return errors.New("the one whose manifest is gone is still there")
		}
		return errors.Join(runs("comes"), runs("changes"))
	})
	t.Logf("static pods had changed %v after the API server was gone", time.Since(away))
	time.Sleep(time.Until(away.Add(*apart)))
	_, err = c.Exec(c.Nodes[0], "mv", "/root/kube-apiserver.yaml", server)
	must(t, err)
	wait(t, time.Minute, "the API server to answer", func() error { _, err := c.Client.Discovery().ServerVersion(); return err })
	back := time.Now()
	wait(t, time.Minute, "all to be told", func() error {
		if err := nodeReady(t.Context(), c, host); err != nil {
			return err
		}
		p, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), "victim", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := p.Status.ContainerStatuses[0]; s.RestartCount != 1 || !clustertest.Ready(p) {
			return fmt.Errorf("the killed container's status is %+v", s)
		}
		if _, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), "leaves-"+host, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the mirror of the manifest that is gone: %v", err)
		}
		for _, name := range []string{"changes", "comes"} {
			p, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), name+"-"+host, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Labels["state"] != "after" || !clustertest.Ready(p) {
				return fmt.Errorf("the mirror of %s is %s, labels %v", name, p.Status.Phase, p.Labels)
			}
		}
		return nil
	})
	t.Logf("all was told %v after the API server was back", time.Since(back))
	allReady(t, c, ns, time.Minute)
	list, err := c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app"})
	must(t, err)
	for _, p := range list.Items {
		if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 && p.Name != "victim" {
			t.Errorf("%s was restarted %d times", p.Name, n)
		}
	}
}

// churned makes and ends pods while kubelet, runtime and sandboxes are killed at random: nothing of them may stay, and the
// kubelet may hold no more than before.
func churned(t *testing.T, c *clustertest.Cluster) {
	ns, host := c.Namespace(t), c.Nodes[1]
	before := held(t, c, host)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewSource(seed))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const atOnce = 10
	for made := 0; made < *churn; made += atOnce {
		for i := range atOnce {
			p := c.Pod(fmt.Sprintf("churn-%05d", made+i), nil, clustertest.On(host))
			p.Spec.Containers[0].Image = c.Image("pause")
			p.Spec.Volumes = []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "m", MountPath: "/m"}}
			create(t, c, ns, p)
		}
		time.Sleep(time.Duration(rnd.Intn(1500)) * time.Millisecond)
		containerd, kubelet := services(t, c, host)
		switch rnd.Intn(5) {
		case 0:
			kill(t, kubelet)
		case 1:
			kill(t, containerd)
		}
		time.Sleep(time.Duration(rnd.Intn(1000)) * time.Millisecond)
		must(t, c.Client.CoreV1().Pods(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		wait(t, 2*time.Minute, "the round's pods to be gone", func() error {
			list, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
			if err == nil && len(list.Items) > 0 {
				p := &list.Items[0]
				err = fmt.Errorf("%d are there, as %s: %s %+v", len(list.Items), p.Name, p.Status.Phase, p.Status.ContainerStatuses)
			}
			return err
		})
	}
	holdsOnly(t, c, host, before, 2*time.Minute)
}

// flatMemory makes and ends pods, and wants the kubelet to hold as much after the last as after the first tenth.
func flatMemory(t *testing.T, c *clustertest.Cluster) {
	const (
		atOnce  = 50
		settle  = 20 * time.Second // in which events and statuses are told
		mayGrow = 3 << 20
		mayAdd  = 10 // goroutines
	)
	ns, host := c.Namespace(t), c.Nodes[1]
	rounds := max(*flat/atOnce, 3)
	var first, last footprint
	for round := range rounds {
		for i := range atOnce {
			p := c.Pod(fmt.Sprintf("flat-%06d", round*atOnce+i), nil, clustertest.On(host))
			p.Spec.Containers[0].Image = c.Image("pause")
			create(t, c, ns, p)
		}
		allReady(t, c, ns, 3*time.Minute)
		must(t, c.Client.CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
		wait(t, 3*time.Minute, "the round's pods to be gone", func() error { return empty(t.Context(), c) })
		tenth := max(rounds/10, 1)
		if (round+1)%tenth != 0 && round != rounds-1 {
			continue
		}
		time.Sleep(settle)
		last = footprintOf(t, c, host)
		if first.routines == 0 {
			first = last
		}
		t.Logf("after %d pods: %.1f MB live on the heap, %.1f MB resident, %.0f goroutines", (round+1)*atOnce, last.heap/1e6, last.resident/1e6, last.routines)
	}
	if last.heap > first.heap+mayGrow || last.routines > first.routines+mayAdd {
		t.Errorf("the kubelet's heap grew from %.1f to %.1f MB, its goroutines from %.0f to %.0f", first.heap/1e6, last.heap/1e6, first.routines, last.routines)
		if dir := os.Getenv("ORLOP_PROFILES"); dir != "" {
			must(t, errors.Join(os.WriteFile(filepath.Join(dir, "heap-first"), first.profile, 0o644), os.WriteFile(filepath.Join(dir, "heap-last"), last.profile, 0o644)))
		}
	}
}

// footprint is what a kubelet holds.
type footprint struct {
	heap, resident, routines float64
	profile                  []byte // of the heap
}

// footprintOf lets a kubelet collect its garbage, which else is as much as what it needs, and says what is left. The least of three
// tries counts: the profile that comes with it takes some megabytes, and lives while another collection may happen.
func footprintOf(t *testing.T, c *clustertest.Cluster, host string) (f footprint) {
	t.Helper()
	for try := range 3 {
		var now footprint
		var err error
		now.profile, err = c.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(host).SubResource("proxy").Suffix("debug/pprof/heap").Param("gc", "1").DoRaw(t.Context())
		must(t, err)
		for name, into := range map[string]*float64{"go_gc_heap_live_bytes": &now.heap, "process_resident_memory_bytes": &now.resident, "go_goroutines": &now.routines} {
			*into, err = kubeletMetric(t.Context(), c, host, name)
			must(t, err)
		}
		if try == 0 || now.heap < f.heap {
			f = now
		}
	}
	return f
}

// kill ends a process; 0 is one that is being started anew just now.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		return
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}
