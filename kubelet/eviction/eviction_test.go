package eviction

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestParse(t *testing.T) {
	mb := func(n int64) Amount { return Amount{Number: n << 20} }
	for _, tt := range []struct {
		name string
		in   Settings
		want []Threshold
		errs string
	}{
		{"defaults", Settings{}, []Threshold{
			{Signal: ImageFsAvailable, Below: Amount{Share: .15}}, {Signal: ImageFsInodes, Below: Amount{Share: .05}},
			{Signal: MemoryAvailable, Below: mb(100)}, {Signal: NodeFsAvailable, Below: Amount{Share: .1}}, {Signal: NodeFsInodes, Below: Amount{Share: .05}},
		}, ""},
		{"one named drops the other defaults", Settings{Hard: map[string]string{"memory.available": "1Gi"}, Pods: true}, []Threshold{
			{Signal: MemoryAvailable, Below: mb(1024)}, {Signal: AllocatableMemory, Below: mb(1024)}}, ""},
		{"one named beside the defaults", Settings{Hard: map[string]string{"pid.available": "100"}, Merge: true}, []Threshold{
			{Signal: ImageFsAvailable, Below: Amount{Share: .15}}, {Signal: ImageFsInodes, Below: Amount{Share: .05}},
			{Signal: MemoryAvailable, Below: mb(100)}, {Signal: NodeFsAvailable, Below: Amount{Share: .1}}, {Signal: NodeFsInodes, Below: Amount{Share: .05}},
			{Signal: PIDAvailable, Below: Amount{Number: 100}}}, ""},
		{"off", Settings{Hard: map[string]string{"memory.available": "0%", "nodefs.available": "100%"}}, nil, ""},
		{"soft", Settings{Hard: map[string]string{"memory.available": "0%"}, Soft: map[string]string{"memory.available": "300Mi"},
			SoftGrace: map[string]string{"memory.available": "90s"}, MinReclaim: map[string]string{"memory.available": "50Mi"}, Pods: true},
			[]Threshold{{Signal: MemoryAvailable, Below: mb(300), Grace: 90 * time.Second, Reclaim: mb(50)}}, ""},
		{"soft without grace", Settings{Soft: map[string]string{"memory.available": "300Mi"}}, nil,
			"grace period must be specified for the soft eviction threshold memory.available"},
		{"grace without soft", Settings{SoftGrace: map[string]string{"memory.available": "1m"}}, nil, "memory.available has no threshold in evictionSoft"},
		{"unknown", Settings{Hard: map[string]string{"swap.available": "1Gi"}}, nil, `evictionHard: unknown eviction signal "swap.available"`},
		{"not ours to set", Settings{Hard: map[string]string{"containerfs.available": "1Gi"}}, nil, `unknown eviction signal "containerfs.available"`},
		{"too much", Settings{Hard: map[string]string{"nodefs.available": "110%"}}, nil, "must be >= 0% and <= 100%"},
		{"negative", Settings{Hard: map[string]string{"nodefs.available": "-1Gi"}}, nil, "must be positive"},
		{"no number", Settings{MinReclaim: map[string]string{"nodefs.available": "much"}}, nil, "evictionMinimumReclaim: nodefs.available"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in)
			if tt.errs != "" {
				if err == nil || !strings.Contains(err.Error(), tt.errs) {
					t.Errorf("error %v, want %q", err, tt.errs)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestStep goes through looks one after the other, each some seconds after the one before.
func TestStep(t *testing.T) {
	hard := Threshold{Signal: MemoryAvailable, Below: Amount{Number: 100}}
	soft := Threshold{Signal: MemoryAvailable, Below: Amount{Number: 200}, Grace: 30 * time.Second}
	disk := Threshold{Signal: NodeFsAvailable, Below: Amount{Share: .1}, Reclaim: Amount{Number: 50}}
	type look struct {
		after      int
		memory     int64
		disk       int64
		conditions string
		due        string
	}
	for _, tt := range []struct {
		name  string
		of    []Threshold
		looks []look
	}{
		{"hard acts at once, and the condition stays a while", []Threshold{hard}, []look{
			{0, 100, 500, "", ""}, {1, 99, 500, "MemoryPressure", "memory.available"}, {1, 100, 500, "MemoryPressure", ""},
			{298, 100, 500, "MemoryPressure", ""}, {1, 100, 500, "", ""}}},
		{"soft acts after its grace, the condition is told before", []Threshold{hard, soft}, []look{
			{0, 199, 500, "MemoryPressure", ""}, {29, 150, 500, "MemoryPressure", ""}, {1, 150, 500, "MemoryPressure", "memory.available"},
			{1, 99, 500, "MemoryPressure", "memory.available memory.available"}}},
		{"an interruption begins the grace anew", []Threshold{soft}, []look{
			{0, 199, 500, "MemoryPressure", ""}, {29, 200, 500, "MemoryPressure", ""}, {1, 150, 500, "MemoryPressure", ""},
			{29, 150, 500, "MemoryPressure", ""}, {1, 150, 500, "MemoryPressure", "memory.available"}}},
		{"it reclaims more than it needs", []Threshold{disk}, []look{
			{0, 900, 101, "", ""}, {1, 900, 99, "DiskPressure", "nodefs.available"}, {1, 900, 149, "DiskPressure", "nodefs.available"},
			{1, 900, 150, "DiskPressure", ""}, {1, 900, 149, "DiskPressure", ""}}},
		{"memory is more urgent than disk", []Threshold{disk, hard}, []look{{0, 1, 1, "DiskPressure MemoryPressure", "memory.available nodefs.available"}}},
		{"what cannot be measured decides nothing", []Threshold{disk, hard}, []look{{0, -1, 1, "DiskPressure", "nodefs.available"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Thresholds: tt.of, Transition: 5 * time.Minute}
			var s State
			now := time.Unix(1000, 0)
			for i, l := range tt.looks {
				now = now.Add(time.Duration(l.after) * time.Second)
				obs := Observations{MemoryAvailable: {l.memory, 1000}, NodeFsAvailable: {l.disk, 1000}}
				if l.memory < 0 {
					delete(obs, MemoryAvailable)
				}
				var d Decision
				s, d = Step(cfg, s, obs, now)
				var conditions, due []string
				for _, c := range d.Conditions {
					conditions = append(conditions, string(c))
				}
				for _, x := range d.Due {
					due = append(due, string(x.Signal))
				}
				if got := strings.Join(conditions, " "); got != l.conditions {
					t.Errorf("look %d: conditions %q, want %q", i, got, l.conditions)
				}
				if got := strings.Join(due, " "); got != l.due {
					t.Errorf("look %d: due %q, want %q", i, got, l.due)
				}
			}
		})
	}
}

func TestStill(t *testing.T) {
	due := []Due{{Threshold{Signal: MemoryAvailable, Below: Amount{Number: 100}, Reclaim: Amount{Number: 20}}, Observation{90, 1000}}}
	if got := Still(due, Observations{MemoryAvailable: {120, 1000}}); len(got) != 0 {
		t.Errorf("freed meanwhile, and yet %v", got)
	}
	if got := Still(due, Observations{MemoryAvailable: {119, 1000}}); len(got) != 1 || got[0].Available != 119 {
		t.Errorf("not yet enough: %v", got)
	}
	if got := Still(due, Observations{}); len(got) != 0 {
		t.Errorf("not measured again, and yet %v", got)
	}
}

func TestNear(t *testing.T) {
	cfg := Config{Thresholds: []Threshold{{Signal: MemoryAvailable, Below: Amount{Number: 100}}, {Signal: NodeFsAvailable, Below: Amount{Share: .1}}}}
	for _, tt := range []struct {
		memory, disk int64
		want         bool
	}{{200, 500, false}, {199, 500, true}, {500, 110, false}} {
		if got := Near(cfg, Observations{MemoryAvailable: {tt.memory, 1000}, NodeFsAvailable: {tt.disk, 1000}}); got != tt.want {
			t.Errorf("memory %d, disk %d: near %v", tt.memory, tt.disk, got)
		}
	}
}

const mi = 1 << 20

func pod(name string, priority int32, requests, limits v1.ResourceList) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: &priority,
		Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
}

func list(name v1.ResourceName, q string) v1.ResourceList {
	return v1.ResourceList{name: resource.MustParse(q)}
}

func TestRank(t *testing.T) {
	memory := func(name string, priority int32, request string, used int64) Pod {
		return Pod{Pod: pod(name, priority, list(v1.ResourceMemory, request), nil), Memory: used * mi}
	}
	stored := func(name string, writable, logs, volume int64) Pod {
		return Pod{Pod: pod(name, 0, nil, nil), Containers: map[string]ContainerUse{"c": {Writable: writable, Logs: logs, WritableInodes: logs}},
			Volumes: map[string]VolumeUse{"v": {Bytes: volume, Inodes: writable}}}
	}
	unknown := memory("unknown", 9, "1Gi", 0)
	unknown.Unknown = true
	static := memory("static", 0, "0", 900)
	static.Static = true
	for _, tt := range []struct {
		name   string
		signal Signal
		disks  Disks
		pods   []Pod
		want   string
	}{
		{"over the request, then priority, then how much", MemoryAvailable, Disks{}, []Pod{
			memory("within", 0, "500Mi", 499), memory("little", 5, "100Mi", 101), memory("much", 5, "100Mi", 200), memory("low", 1, "100Mi", 101),
			memory("important", 10, "0", 999)}, "low much little important within"},
		{"within: by priority, the nearest to its request first", AllocatableMemory, Disks{}, []Pod{
			memory("far", 0, "500Mi", 100), memory("near", 0, "500Mi", 400), memory("higher", 1, "500Mi", 500)}, "near far higher"},
		{"unknown goes first", MemoryAvailable, Disks{}, []Pod{memory("over", 0, "0", 99), unknown}, "unknown over"},
		{"critical never goes", MemoryAvailable, Disks{}, []Pod{static, memory("system", 2000000000, "0", 999), memory("user", 1000000000, "0", 1)}, "user"},
		{"one disk holds all", NodeFsAvailable, Disks{}, []Pod{stored("a", 5, 0, 0), stored("b", 2, 2, 2), stored("c", 0, 4, 0)}, "b a c"},
		{"node's disk without layers", NodeFsAvailable, Disks{Separate: true}, []Pod{stored("a", 5, 0, 0), stored("b", 2, 2, 1), stored("c", 0, 4, 0)}, "c b a"},
		{"images' disk has layers only", ImageFsAvailable, Disks{Separate: true}, []Pod{stored("c", 0, 4, 9), stored("b", 2, 2, 9), stored("a", 5, 0, 0)}, "a b c"},
		{"inodes", NodeFsInodes, Disks{}, []Pod{stored("few", 1, 1, 9), stored("many", 7, 7, 0)}, "many few"},
		{"processes by priority, then number", PIDAvailable, Disks{}, []Pod{
			{Pod: pod("few", 0, nil, nil), Pids: 3}, {Pod: pod("many", 0, nil, nil), Pids: 30}, {Pod: pod("most", 1, nil, nil), Pids: 300}}, "many few most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, p := range Rank(tt.signal, tt.pods, tt.disks) {
				got = append(got, p.Pod.Name)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("%q, want %q", s, tt.want)
			}
		})
	}
}

func TestMessage(t *testing.T) {
	p := Pod{Pod: pod("p", 0, list(v1.ResourceMemory, "10Mi"), nil), Containers: map[string]ContainerUse{"c": {Memory: 20 * mi, Writable: 3 << 10, Logs: 1 << 10}}}
	for _, tt := range []struct {
		due  Due
		want string
	}{
		{Due{Threshold{Signal: MemoryAvailable, Below: Amount{Number: 100 * mi}}, Observation{5 * mi, 1000 * mi}},
			"The node was low on resource: memory. Threshold quantity: 100Mi, available: 5Mi. Container c was using 20Mi, request is 10Mi, has larger consumption of memory. "},
		{Due{Threshold{Signal: NodeFsAvailable, Below: Amount{Share: .1}}, Observation{5 * mi, 1000 * mi}},
			"The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 5Mi. Container c was using 4Ki, request is 0, has larger consumption of ephemeral-storage. "},
		{Due{Threshold{Signal: NodeFsInodes, Below: Amount{Share: .05}}, Observation{7, 1000}}, "The node was low on resource: inodes. Threshold quantity: 50, available: 7. "},
		{Due{Threshold{Signal: PIDAvailable, Below: Amount{Number: 20}}, Observation{7, 1000}}, "The node was low on resource: pids. Threshold quantity: 20, available: 7. "},
	} {
		if got := Message(p, tt.due); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

func TestExceeded(t *testing.T) {
	limit := resource.MustParse("10Mi")
	p := pod("p", 0, nil, list(v1.ResourceEphemeralStorage, "10Mi"))
	two := pod("two", 0, nil, list(v1.ResourceEphemeralStorage, "10Mi"))
	two.Spec.Containers = append(two.Spec.Containers, v1.Container{Name: "d", Resources: v1.ResourceRequirements{Limits: list(v1.ResourceEphemeralStorage, "90Mi")}})
	dir := pod("dir", 0, nil, nil)
	dir.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	use := func(writable, logs int64) map[string]ContainerUse {
		return map[string]ContainerUse{"c": {Writable: writable * mi, Logs: logs * mi}}
	}
	for _, tt := range []struct {
		name  string
		pod   Pod
		disks Disks
		want  *Excess
	}{
		{"within", Pod{Pod: p, Containers: use(5, 5)}, Disks{}, nil},
		{"pod", Pod{Pod: p, Containers: use(5, 5), Volumes: map[string]VolumeUse{"v": {Bytes: 1}}}, Disks{},
			&Excess{PodLimit, "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "}},
		{"one container of two", Pod{Pod: two, Containers: use(6, 5)}, Disks{}, &Excess{ContainerLimit, `Container c exceeded its local ephemeral storage limit "10Mi". `}},
		{"layer elsewhere counts for the pod only", Pod{Pod: two, Containers: use(60, 5)}, Disks{Separate: true}, nil},
		{"emptyDir", Pod{Pod: dir, Volumes: map[string]VolumeUse{"v": {Bytes: 11 * mi}}}, Disks{}, &Excess{EmptyDirLimit, `Usage of EmptyDir volume "v" exceeds the limit "10Mi". `}},
		{"emptyDir within", Pod{Pod: dir, Volumes: map[string]VolumeUse{"v": {Bytes: 10 * mi}}}, Disks{}, nil},
	} {
		if d := cmp.Diff(tt.want, Exceeded(tt.pod, tt.disks)); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
	if !Bounded(p) || !Bounded(dir) || Bounded(pod("free", 0, nil, nil)) {
		t.Error("Bounded does not tell pods with limits from those without")
	}
}

func TestAdmits(t *testing.T) {
	memory, disk := []v1.NodeConditionType{v1.NodeMemoryPressure}, []v1.NodeConditionType{v1.NodeDiskPressure, v1.NodeMemoryPressure}
	plain := Pod{Pod: pod("p", 0, nil, nil)}
	tolerant := Pod{Pod: pod("p", 0, nil, nil)}
	tolerant.Pod.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoSchedule}}
	for _, tt := range []struct {
		name  string
		pod   Pod
		class v1.PodQOSClass
		conds []v1.NodeConditionType
		want  string
	}{
		{"no pressure", plain, v1.PodQOSBestEffort, nil, ""},
		{"best effort under memory pressure", plain, v1.PodQOSBestEffort, memory, "The node had condition: [MemoryPressure]. "},
		{"who asked for memory has it", plain, v1.PodQOSBurstable, memory, ""},
		{"who tolerates it", tolerant, v1.PodQOSBestEffort, memory, ""},
		{"disk is for nobody", tolerant, v1.PodQOSGuaranteed, disk, "The node had condition: [DiskPressure MemoryPressure]. "},
		{"but for the critical", Pod{Pod: pod("p", 2000000000, nil, nil)}, v1.PodQOSBestEffort, disk, ""},
	} {
		if got := Admits(tt.pod, tt.class, tt.conds); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestGrace(t *testing.T) {
	long, short := int64(600), int64(5)
	cfg := Config{MaxGrace: time.Minute}
	p := pod("p", 0, nil, nil)
	soft := Threshold{Grace: time.Minute}
	for _, tt := range []struct {
		own  *int64
		of   Threshold
		want time.Duration
	}{{&long, Threshold{}, time.Second}, {&long, soft, time.Minute}, {&short, soft, 5 * time.Second}, {nil, soft, time.Minute}} {
		p.Spec.TerminationGracePeriodSeconds = tt.own
		if got := cfg.Grace(tt.of, p); got != tt.want {
			t.Errorf("grace %v, want %v", got, tt.want)
		}
	}
}
