package kubelet

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/node"
)

// ranked is a pod that asks for CPU; guaranteed ones have it as their limit, too.
func ranked(name, cpu string, priority int32, guaranteed bool) *v1.Pod {
	p := wanting(cpu)
	p.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)}
	p.Spec.Priority = &priority
	c := &p.Spec.Containers[0]
	switch {
	case cpu == "0":
		c.Resources = v1.ResourceRequirements{}
	case guaranteed:
		c.Resources.Requests[v1.ResourceMemory] = resource.MustParse("1Mi")
		c.Resources.Limits = c.Resources.Requests.DeepCopy()
	}
	return p
}

func TestVictims(t *testing.T) {
	cpu := func(n int64) []shortage { return []shortage{{v1.ResourceCPU, n, 0, 0}} }
	for _, tt := range []struct {
		name  string
		short []shortage
		among []*v1.Pod
		want  []string
	}{
		{"the one that fits best", cpu(300), []*v1.Pod{ranked("small", "100m", 0, false), ranked("fits", "300m", 0, false), ranked("large", "900m", 0, false)}, []string{"fits"}},
		{"two where no one is enough", cpu(400), []*v1.Pod{ranked("a", "100m", 0, false), ranked("b", "300m", 0, false), ranked("c", "200m", 0, false)}, []string{"a", "b"}},
		{"no guaranteed one if others are enough", cpu(300), []*v1.Pod{ranked("sure", "300m", 0, true), ranked("a", "200m", 0, false), ranked("b", "200m", 0, false)}, []string{"a", "b"}},
		{"a guaranteed one if they are not", cpu(300), []*v1.Pod{ranked("sure", "300m", 0, true), ranked("a", "200m", 0, false)}, []string{"sure"}},
		{"a place, not a guaranteed pod", []shortage{{v1.ResourcePods, 1, 2, 2}}, []*v1.Pod{ranked("sure", "300m", 0, true), ranked("none", "0", 0, false)}, []string{"none"}},
		{"never if all are not enough", cpu(600), []*v1.Pod{ranked("a", "200m", 0, false), ranked("b", "300m", 0, false)}, nil},
		{"nobody", cpu(1), nil, nil},
	} {
		var among []candidate
		for _, p := range tt.among {
			among = append(among, candidate{pod: p})
		}
		var got []string
		for _, c := range victims(tt.short, among) {
			got = append(got, c.pod.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestPreempts(t *testing.T) {
	const system = 2000000000
	for _, tt := range []struct {
		name           string
		pod, other     int32
		static, otherS bool
		want           bool
	}{
		{"an ordinary pod, however high", 1000000000, 0, false, false, false},
		{"a critical one", system, 1000000000, false, false, true},
		{"a static one", 0, 1000000000, true, false, true},
		{"critical ones as high", system, system, false, false, false},
		{"a critical one that matters more", system + 1000, system, false, false, true},
		{"against a static pod", system + 1000, 0, false, true, false},
	} {
		other := candidate{pod: ranked("o", "1", tt.other, false), static: tt.otherS}
		if got := preempts(ranked("p", "1", tt.pod, false), tt.static, other); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A critical pod ends what stands in its way, waits for that, and is refused only where it would not help.
func TestCriticalPodsMakeRoom(t *testing.T) {
	k := measured(t)
	n, err := node.New(node.Config{Name: "n", IPs: []string{"192.0.2.1"}, MaxPods: 9}, node.Machine{CPUs: 2, Memory: 1 << 30}, nil, nil, k.log)
	if err != nil {
		t.Fatal(err)
	}
	k.sync.node.Store(n)
	k.allocatable = n.Allocatable()
	var workers []*worker
	for _, p := range []*v1.Pod{ranked("first", "900m", 0, false), ranked("second", "1", 0, false)} {
		w := k.newWorker(p, false, lifecycle.New(p, time.Now()))
		k.workers[p.UID] = w
		workers = append(workers, w)
	}
	critical := ranked("critical", "800m", 2000000000, false)
	if _, r := k.admit(ranked("plain", "1", 1000000000, false)); r == nil || r.Reason != "OutOfcpu" {
		t.Errorf("an ordinary pod: %+v", r)
	}
	if _, r := k.admit(ranked("giant", "3", 2000000000, false)); r == nil || r.Reason != "UnexpectedAdmissionError" ||
		r.Message != "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 2900), ]" {
		t.Errorf("a pod beyond the node: %+v", r)
	}
	for _, w := range workers {
		if evs := w.take(); len(evs) != 0 {
			t.Errorf("%s heard %v though nothing came of it", w.state.Pod.Name, evs)
		}
	}
	behind, r := k.admit(critical)
	if r != nil || len(behind) != 1 || behind[0] != workers[0] {
		t.Fatalf("a critical pod is refused (%+v) or waits for %v", r, behind)
	}
	other := ranked("other", "100m", 2000000000, false)
	k.workers["critical"] = k.newWorker(critical, false, lifecycle.New(critical, time.Now()))
	if also, r := k.admit(other); r != nil || len(also) != 1 || also[0] != workers[0] {
		t.Errorf("another critical pod beside it is refused (%+v) or waits for %v", r, also)
	}
	if evs := workers[1].take(); len(evs) != 0 {
		t.Errorf("a second pod has to go, though the room of one is enough for both: %v", evs)
	}
	evs := behind[0].take()
	if len(evs) != 1 {
		t.Fatalf("it heard %v", evs)
	}
	s, _ := lifecycle.Step(workers[0].state, evs[0], time.Now())
	st := lifecycle.StatusOf(&s, nil, v1.PodQOSBurstable, nil, time.Now())
	at := slices.IndexFunc(st.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.DisruptionTarget })
	if st.Reason != "Preempting" || st.Message != "Preempted in order to admit critical pod" || at < 0 ||
		st.Conditions[at].Reason != "TerminationByKubelet" || st.Conditions[at].Message != "Pod was preempted by Kubelet to accommodate a critical pod" {
		t.Errorf("the pod that went is told to be %+v", st)
	}
	w := k.newWorker(critical, false, lifecycle.New(critical, time.Now()))
	w.behind = behind
	began := make(chan time.Time, 1)
	go func() { w.awaitRoom(t.Context()); began <- time.Now() }()
	time.Sleep(100 * time.Millisecond)
	s.Stage = lifecycle.Finished
	ended := time.Now()
	workers[0].shown.Store(&view{state: s})
	if at := <-began; at.Before(ended) {
		t.Error("the critical pod did not wait for the room")
	}
	same(t, map[string]float64{`preemptions{preemption_signal="cpu"}`: 1}, only(scrape(t, k), "preemptions"))
	if behind := k.admitStatic(ranked("static", "3", 0, false)); behind != nil {
		t.Errorf("a static pod that cannot have what it needs ends %v", behind)
	}
}
