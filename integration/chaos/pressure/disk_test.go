package pressure

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// smallRoot gives the kubelet a directory on a small disk of its own.
func smallRoot(t *testing.T) {
	t.Helper()
	const flags = "/var/lib/kubelet/kubeadm-flags.env"
	sh(t, "mkdir -p "+rootDir+" && mount -t tmpfs -o size=64m,nr_inodes=4000 tmpfs "+rootDir+
		" && cp "+flags+" /tmp/flags.env && sed -i 's|=\"|=\"--root-dir="+rootDir+" --cert-dir=/var/lib/kubelet/pki |' "+flags)
	t.Cleanup(func() {
		sh(t, "cp /tmp/flags.env "+flags)
		restart(t)
		sh(t, "umount -l "+rootDir)
	})
}

func TestDisk(t *testing.T) {
	ns := cluster.Namespace(t)
	smallRoot(t)
	configure(t, "evictionHard: {nodefs.available: 24Mi, nodefs.inodesFree: '1000'}")
	cluster.RunPod(t, ns, consumer("modest", []string{"--file=/v/f", "--size=10"}, emptyDir))
	cluster.RunPod(t, ns, consumer("greedy", []string{"--file=/v/f", "--size=35", "--after=2s"}, emptyDir))
	evicted(t, ns, "greedy", "The node was low on resource: ephemeral-storage. Threshold quantity: 24Mi, available: ")
	told(t, ns, "greedy", "Evicted", "ephemeral-storage")
	stays(t, ns, "modest")
	condition(t, corev1.NodeDiskPressure, corev1.ConditionFalse)
	if out := sh(t, "df --output=used -m "+rootDir+" | tail -1"); len(strings.TrimSpace(out)) > 2 {
		t.Errorf("after the eviction %s MiB are still used", out)
	}

	cluster.RunPod(t, ns, consumer("many", []string{"--dir=/v", "--count=3200", "--after=2s"}, emptyDir))
	evicted(t, ns, "many", "The node was low on resource: inodes. Threshold quantity: 1k, available: ")
	stays(t, ns, "modest")
	condition(t, corev1.NodeDiskPressure, corev1.ConditionFalse)
}

// Whoever stores more than it may goes, whatever the node has.
func TestStorageLimits(t *testing.T) {
	ns := cluster.Namespace(t)
	limit := func(of string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(of)}
		}
	}
	sized := func(p *corev1.Pod) {
		emptyDir(p)
		size := resource.MustParse("5Mi")
		p.Spec.Volumes[0].EmptyDir.SizeLimit = &size
	}
	two := func(p *corev1.Pod) {
		second := *p.Spec.Containers[0].DeepCopy()
		second.Name, second.Args = "d", []string{"consume"}
		second.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}
		p.Spec.Containers = append(p.Spec.Containers, second)
	}
	began := time.Now()
	for _, p := range []*corev1.Pod{
		consumer("volume", []string{"--file=/v/f", "--size=8"}, sized),
		consumer("layer", []string{"--file=/f", "--size=8"}, limit("5Mi")),
		consumer("logs", []string{"--log=6000"}, limit("5Mi"), two),
		consumer("within", []string{"--file=/f", "--size=2", "--log=1000"}, sized, limit("5Mi")),
	} {
		cluster.RunPod(t, ns, p)
	}
	evicted(t, ns, "volume", `Usage of EmptyDir volume "v" exceeds the limit "5Mi". `)
	evicted(t, ns, "layer", "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ")
	evicted(t, ns, "logs", `Container c exceeded its local ephemeral storage limit "5Mi". `)
	t.Logf("all three were ended %.1f s after the first was made", time.Since(began).Seconds())
	time.Sleep(6 * time.Second)
	stays(t, ns, "within")
}
