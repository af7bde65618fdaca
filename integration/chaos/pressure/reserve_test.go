package pressure

import (
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What is reserved is not for pods, by what the node says and by the kernel's bounds.
func TestReservations(t *testing.T) {
	const top = "/sys/fs/cgroup/"
	sh(t, "for c in cpu memory pids; do mkdir -p "+top+"$c/reserved; done")
	before, err := cluster.Client.CoreV1().Nodes().Get(t.Context(), cluster.Nodes[0], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	configure(t, "systemReserved: {cpu: 200m, memory: 300Mi, pid: '900'}\nkubeReserved: {cpu: 100m, memory: 200Mi}\nsystemReservedCgroup: /reserved\n"+
		"enforceNodeAllocatable: [pods, system-reserved]\nevictionHard: {memory.available: 50Mi}")
	n, err := cluster.Client.CoreV1().Nodes().Get(t.Context(), cluster.Nodes[0], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	capacity, allocatable := n.Status.Capacity, n.Status.Allocatable
	if got := capacity.Memory().Value() - allocatable.Memory().Value(); got != 550<<20 {
		t.Errorf("%d bytes of memory are not for pods, want 550Mi", got)
	}
	if got := capacity.Cpu().MilliValue() - allocatable.Cpu().MilliValue(); got != 300 {
		t.Errorf("%dm of CPU are not for pods, want 300m", got)
	}
	for file, want := range map[string]int64{
		"memory/reserved/memory.limit_in_bytes": 300 << 20,
		"pids/reserved/pids.max":                900,
		"cpu/reserved/cpu.shares":               204,
		// Eviction begins before the kernel kills: its threshold is not taken off.
		"memory/kubepods/memory.limit_in_bytes": capacity.Memory().Value() - 500<<20,
		"cpu/kubepods/cpu.shares":               allocatable.Cpu().MilliValue() * 1024 / 1000,
	} {
		if got := sh(t, "cat "+top+file); got != strconv.FormatInt(want, 10) {
			t.Errorf("%s is %s, want %d", file, got, want)
		}
	}
	told(t, metav1.NamespaceDefault, cluster.Nodes[0], "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
	told(t, metav1.NamespaceDefault, cluster.Nodes[0], "NodeAllocatableEnforced", "Updated limits on system reserved cgroup /reserved")
	if before.Status.Capacity.Memory().Cmp(*capacity.Memory()) != 0 || before.Status.Allocatable[corev1.ResourcePods] != allocatable[corev1.ResourcePods] {
		t.Error("reservations changed what they should not")
	}
}
