package kubelet

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/node"
)

func wanting(cpu string) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}}}}
}

func TestFits(t *testing.T) {
	node := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourcePods: resource.MustParse("3")}
	for _, tt := range []struct {
		name   string
		cpu    string
		others []*v1.Pod
		reason string
	}{
		{"exactly", "1500m", []*v1.Pod{wanting("500m")}, ""},
		{"too much beside others", "1501m", []*v1.Pod{wanting("500m")}, "OutOfcpu"},
		{"too many pods", "0", []*v1.Pod{wanting("0"), wanting("0"), wanting("0")}, "OutOfpods"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reason := ""
			if r := fits(wanting(tt.cpu), tt.others, node); r != nil {
				reason = r.Reason
			}
			if reason != tt.reason {
				t.Errorf("reason %q, want %q", reason, tt.reason)
			}
		})
	}
}

func TestPortsFree(t *testing.T) {
	pod := func(ip string, port int32, proto v1.Protocol) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Ports: []v1.ContainerPort{{HostIP: ip, HostPort: port, Protocol: proto}}}}}}
	}
	for _, tt := range []struct {
		name       string
		pod, other *v1.Pod
		free       bool
	}{
		{"same", pod("", 80, ""), pod("", 80, v1.ProtocolTCP), false},
		{"another port", pod("", 80, ""), pod("", 81, ""), true},
		{"another protocol", pod("", 80, v1.ProtocolUDP), pod("", 80, v1.ProtocolTCP), true},
		{"another address", pod("10.0.0.1", 80, ""), pod("10.0.0.2", 80, ""), true},
		{"all addresses", pod("10.0.0.1", 80, ""), pod("0.0.0.0", 80, ""), false},
		{"no host port", pod("", 0, ""), pod("", 0, ""), true},
	} {
		if r := portsFree(tt.pod, []*v1.Pod{tt.other}); (r == nil) != tt.free {
			t.Errorf("%s: %v", tt.name, r)
		}
	}
}

func TestSelects(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{NodeSelector: map[string]string{"disk": "ssd"}}}
	with := &v1.Node{}
	with.Labels = map[string]string{"disk": "ssd"}
	for _, tt := range []struct {
		name string
		pod  *v1.Pod
		node *v1.Node
		want bool
	}{
		{"no selector", &v1.Pod{}, &v1.Node{}, true},
		{"label missing", pod, &v1.Node{}, false},
		{"label there", pod, with, true},
		{"node never read", pod, nil, true},
		{"required affinity", requires("disk", "ssd"), with, true},
		{"required affinity to another", requires("disk", "tape"), with, false},
	} {
		if got := selects(tt.pod, tt.node); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func requires(label, value string) *v1.Pod {
	terms := []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{{Key: label, Operator: v1.NodeSelectorOpIn, Values: []string{value}}}}}
	return &v1.Pod{Spec: v1.PodSpec{Affinity: &v1.Affinity{NodeAffinity: &v1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: terms}}}}}
}

// What the node does not take on, it says in upstream's words: controllers and people know the reasons.
func TestAdmit(t *testing.T) {
	k := &Kubelet{cfg: Config{UnsafeSysctls: []string{"kernel.msg*"}}, log: slog.New(slog.DiscardHandler), workers: map[types.UID]*worker{}}
	k.sync = newAPISide(k)
	if _, r := k.admit(&v1.Pod{}); r != nil {
		t.Error("without an API server a pod is refused")
	}
	n, err := node.New(node.Config{Name: "n", IPs: []string{"192.0.2.1"}, MaxPods: 9}, node.Machine{CPUs: 2, Memory: 1 << 30}, nil, nil, k.log)
	if err != nil {
		t.Fatal(err)
	}
	k.sync.node.Store(n)
	system := int32(2000000000)
	sets := func(name string) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: name, Value: "1"}}}}}
	}
	for _, tt := range []struct {
		name    string
		pod     *v1.Pod
		short   []v1.NodeConditionType
		reason  string
		message string
	}{
		{"any", &v1.Pod{}, nil, "", ""},
		{"another system", &v1.Pod{Spec: v1.PodSpec{OS: &v1.PodOS{Name: v1.Windows}}}, nil, "PodOSNotSupported", "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS"},
		{"unsafe sysctl", sets("net.core.somaxconn"), nil, "SysctlForbidden", `Pod was rejected: forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		{"allowed sysctl", sets("kernel.msgmax"), nil, "", ""},
		{"no disk", wanting("1"), []v1.NodeConditionType{v1.NodeDiskPressure}, "Evicted", "Pod was rejected: The node had condition: [DiskPressure]. "},
		{"no memory, but it asked for some", wanting("1"), []v1.NodeConditionType{v1.NodeMemoryPressure}, "", ""},
		{"no disk, but it must run", &v1.Pod{Spec: v1.PodSpec{Priority: &system}}, []v1.NodeConditionType{v1.NodeDiskPressure}, "", ""},
		{"too large", wanting("3"), nil, "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"},
	} {
		k.short.Store(&tt.short)
		got := lifecycle.Rejected{}
		if _, r := k.admit(tt.pod); r != nil {
			got = *r
		}
		if want := (lifecycle.Rejected{Reason: tt.reason, Message: tt.message}); got != want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, want)
		}
	}
}

func TestLastWords(t *testing.T) {
	dir := t.TempDir()
	message, log := filepath.Join(dir, "m"), filepath.Join(dir, "0.log")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(message, "")
	write(log, "2026-01-02T03:04:05Z stdout F one two\n2026-01-02T03:04:05Z stderr F three\n")
	fallback := string(v1.TerminationMessageFallbackToLogsOnError)
	for _, tt := range []struct {
		name, message, policy string
		code                  int32
		want                  string
	}{
		{"file", "bye", "File", 1, "bye"},
		{"file wins over log", "bye", fallback, 1, "bye"},
		{"log on error", "", fallback, 1, "one two\nthree\n"},
		{"no log on success", "", fallback, 0, ""},
		{"no log by policy", "", "File", 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(message, tt.message)
			if got := lastWords(message, tt.policy, log, tt.code); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestGate(t *testing.T) {
	g := newGate()
	shut, _ := g.state()
	if !g.set(true, "") || g.set(true, "") {
		t.Error("set must tell changes, and only those")
	}
	select {
	case <-shut:
	default:
		t.Error("who waits is not let in")
	}
	g.set(false, "gone")
	if open, why := g.state(); why != "gone" {
		t.Error(why)
	} else {
		select {
		case <-open:
			t.Error("still open")
		default:
		}
	}
}

func TestResizeIsJudgedByTheNode(t *testing.T) {
	node := v1.ResourceList{v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8Gi")}
	for cpu, want := range map[string]string{
		"1": " ",
		"3": "Deferred Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000",
		"9": "Infeasible Node didn't have enough capacity: cpu, requested: 9000, capacity: 4000",
	} {
		reason, message := affordable(wanting(cpu), []*v1.Pod{wanting("2")}, node)
		if got := reason + " " + message; got != want {
			t.Errorf("%s CPUs: %q, want %q", cpu, got, want)
		}
	}
}

func TestAllocationIsNotedWholly(t *testing.T) {
	k := &Kubelet{cfg: Config{RootDir: t.TempDir()}}
	pod := wanting("3")
	pod.UID = "u"
	if err := k.noteAllocation(pod); err == nil {
		t.Fatal("noted, without a directory of the pod")
	}
	if err := os.MkdirAll(filepath.Dir(k.allocationFile("u")), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := k.noteAllocation(pod); err != nil {
		t.Fatal(err)
	}
	got, err := k.notedAllocation("u")
	if res := got[pod.Spec.Containers[0].Name]; err != nil || res.Requests.Cpu().String() != "3" {
		t.Errorf("noted %v (%v)", got, err)
	}
	if none, err := k.notedAllocation("other"); none != nil || err != nil {
		t.Errorf("of a pod never resized: %v (%v)", none, err)
	}
	if err := os.WriteFile(k.allocationFile("u"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.notedAllocation("u"); err == nil {
		t.Error("a torn note was read")
	}
}

// A pod that was refused holds nothing: the next of its name must not be refused for it.
func TestRefusedPodsHoldNothing(t *testing.T) {
	k := &Kubelet{log: slog.New(slog.DiscardHandler), workers: map[types.UID]*worker{}, ctx: t.Context()}
	now := time.Now()
	for _, uid := range []types.UID{"refused", "admitted"} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: uid}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
		state := lifecycle.New(pod, now)
		if uid == "refused" {
			state, _ = lifecycle.Step(state, lifecycle.Rejected{Reason: "NodePorts", Message: "taken"}, now)
		}
		k.workers[uid] = k.newWorker(pod, false, state)
	}
	others := k.othersLocked("new")
	if len(others) != 1 || others[0].UID != "admitted" {
		t.Errorf("%d pods hold something, want the admitted one", len(others))
	}
}
