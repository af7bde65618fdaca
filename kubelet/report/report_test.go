package report

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/orlop-io/orlop/kubelet/manifests"
)

// The patch must clear what is no longer so, and must not touch the conditions of others.
func TestStatusPatch(t *testing.T) {
	text, err := statusPatch("u1", &v1.PodStatus{Phase: v1.PodRunning, PodIPs: []v1.PodIP{{IP: "10.0.0.1"}},
		Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Metadata struct{ UID string }
		Status   map[string]any
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Metadata.UID != "u1" {
		t.Errorf("uid %q", got.Metadata.UID)
	}
	if v, ok := got.Status["reason"]; !ok || v != nil {
		t.Errorf("reason is not cleared: %v", got.Status)
	}
	ips := got.Status["podIPs"].([]any)
	if len(ips) != 2 || ips[0].(map[string]any)["$patch"] != "replace" {
		t.Errorf("addresses are merged: %v", ips)
	}
	c := got.Status["conditions"].([]any)
	if len(c) != 4 || c[0].(map[string]any)["message"] != nil {
		t.Errorf("conditions %v", c)
	}
	for i, passing := range []string{"AllContainersRestarting", "PodResizeInProgress", "PodResizePending"} { // what is over leaves no condition
		if c := c[1+i].(map[string]any); c["$patch"] != "delete" || c["type"] != passing {
			t.Errorf("condition %v, want that %s is deleted", c, passing)
		}
	}
}

// A start that goes well is told once, and a deletion in two words; whatever somebody may wait for is told at once.
func TestStepsBetweenWait(t *testing.T) {
	waiting := func(reason string) v1.PodStatus {
		return v1.PodStatus{Phase: v1.PodPending, ContainerStatuses: []v1.ContainerStatus{{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}}}}
	}
	with := func(st v1.PodStatus, ready v1.ConditionStatus) v1.PodStatus {
		st.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: ready}}
		return st
	}
	running := with(v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{{State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}}, v1.ConditionTrue)
	ended := with(v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{{State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}}}}, v1.ConditionFalse)
	over := ended
	over.Phase = v1.PodSucceeded
	withIP := ended
	withIP.PodIP = "10.0.0.1"
	evicted := ended
	evicted.Reason = "Evicted"
	initDone := waiting("PodInitializing")
	initDone.InitContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}}}
	for _, tt := range []struct {
		name    string
		deleted bool
		told    *v1.PodStatus
		st      v1.PodStatus
		want    bool
	}{
		{"the first word", false, nil, waiting("ContainerCreating"), true},
		{"a sandbox", false, ref(waiting("ContainerCreating")), waiting("ContainerCreating"), true},
		{"a failed pull", false, nil, waiting("ErrImagePull"), false},
		{"an init container that ended", false, nil, initDone, false},
		{"running", false, ref(waiting("ContainerCreating")), running, false},
		{"containers that ended by themselves", false, &running, ended, false},
		{"no longer ready", true, &running, ended, false},
		{"the sandbox ended", true, &ended, withIP, true},
		{"the last word", true, &ended, over, false},
		{"evicted", true, &ended, evicted, false},
		{"its end was asked for", true, &running, running, true},
		{"nothing told yet", true, nil, ended, false},
	} {
		pod := &v1.Pod{}
		if tt.deleted {
			pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		if got := passing(pod, tt.told, &tt.st); got != tt.want {
			t.Errorf("%s: passing is %v", tt.name, got)
		}
	}
}

func ref(st v1.PodStatus) *v1.PodStatus { return &st }

// What waits is overtaken by what does not, and is told by itself if nothing comes.
func TestStepsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods := []*v1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "fast", UID: "f"}}, {ObjectMeta: metav1.ObjectMeta{Name: "slow", UID: "s"}}}
		client := fake.NewClientset(pods[0], pods[1])
		told := map[string][]time.Duration{}
		begun := time.Now()
		client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			name := a.(clienttesting.PatchAction).GetName()
			told[name] = append(told[name], time.Since(begun))
			return true, pods[0], nil
		})
		r := New("n", nil, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx, client, func() types.UID { return "nu" }) }()
		for _, p := range pods {
			r.Set(p, false, v1.PodStatus{Phase: v1.PodPending})
		}
		time.Sleep(100 * time.Millisecond)
		r.Set(pods[0], false, v1.PodStatus{Phase: v1.PodRunning})
		time.Sleep(moment)
		step := v1.PodStatus{Phase: v1.PodPending, PodIP: "10.0.0.1"}
		r.Set(pods[1], false, step)
		time.Sleep(while + time.Second)
		step.PodIP = "10.0.0.2" // the next is not told: it runs before
		r.Set(pods[1], false, step)
		time.Sleep(while - time.Second)
		r.Set(pods[1], false, v1.PodStatus{Phase: v1.PodRunning})
		time.Sleep(while)
		cancel()
		<-done
		if fast := told["fast"]; len(fast) != 1 || fast[0] != 100*time.Millisecond {
			t.Errorf("the pod that runs at once was told of at %v", fast)
		}
		second := 100*time.Millisecond + moment
		want := []time.Duration{moment, second + while, second + 2*while}
		if slow := told["slow"]; !slices.Equal(slow, want) {
			t.Errorf("the pod that takes its time was told of at %v, want %v", slow, want)
		}
	})
}

func TestMirror(t *testing.T) {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "etcd-n", Namespace: "kube-system", UID: "h", Annotations: map[string]string{manifests.AnnConfigHash: "h"}}}
	m := mirrorOf(p, "n", "nu")
	if m.UID != "" || m.Annotations[manifests.AnnMirror] != "h" || m.OwnerReferences[0].UID != "nu" || p.Annotations[manifests.AnnMirror] != "" {
		t.Errorf("%+v", m)
	}
}

// The time until the API server knows counts from the first change that it does not know, and ends with the newest status.
func TestHowLongItTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Duration
		r := New("n", func(d time.Duration) { told = append(told, d) }, slog.New(slog.DiscardHandler))
		defer r.queue.ShutDown()
		for _, static := range []bool{false, true} {
			told = nil
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}}
			r.Set(pod, static, v1.PodStatus{})
			first := r.pods["u"].status
			time.Sleep(time.Second)
			r.Set(pod, static, v1.PodStatus{Phase: v1.PodRunning})
			r.sent("u", first, pod)
			time.Sleep(2 * time.Second)
			r.sent("u", r.pods["u"].status, pod)
			r.sent("u", r.pods["u"].status, pod) // a mirror that was made anew
			if len(told) != 1 || told[0] != 3*time.Second {
				t.Errorf("static %v: told %v, want 3s once", static, told)
			}
			r.Set(pod, static, v1.PodStatus{})
			r.sent("u", r.pods["u"].status, nil)
			if len(told) != 1 {
				t.Errorf("static %v: a status that nobody took counts", static)
			}
			delete(r.pods, "u")
		}
	})
}

// However often a pod changes while the API server is slow, it is asked to take the newest status only: a storm of changes
// is no storm of requests.
func TestOnlyTheNewestIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}})
		var patches []string
		client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			time.Sleep(time.Second)
			patches = append(patches, string(a.(clienttesting.PatchAction).GetPatch()))
			return true, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}, nil
		})
		r := New("n", nil, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx, client, func() types.UID { return "node" }) }()
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
		for i := range 100 {
			r.Set(pod, false, v1.PodStatus{Phase: v1.PodRunning, Message: fmt.Sprint(i)})
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(patches) > 4 || len(patches) == 0 || !strings.Contains(patches[len(patches)-1], `"message":"99"`) {
			t.Errorf("%d requests in 2 s of 100 changes, the last %v", len(patches), patches)
		}
		cancel()
		<-done
	})
}

// Others mark the pods of a node that was silent as not ready. Once it speaks again it must say how they are, or they stay
// so for ever; what the watch brings late must not make it speak.
func TestToldAgainWhatOthersWroteOver(t *testing.T) {
	status := func(ready v1.ConditionStatus, more ...v1.PodCondition) v1.PodStatus {
		return v1.PodStatus{Phase: v1.PodRunning, Conditions: append([]v1.PodCondition{{Type: v1.PodReady, Status: ready}}, more...)}
	}
	at := func(version string, st v1.PodStatus) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u", ResourceVersion: version}, Status: st}
	}
	for name, tt := range map[string]struct {
		seen *v1.Pod
		want bool
	}{
		"written over":               {at("1001", status(v1.ConditionFalse)), true},
		"of before it was told":      {at("999", status(v1.ConditionFalse)), false},
		"what was told":              {at("1000", status(v1.ConditionTrue)), false},
		"another's condition beside": {at("1001", status(v1.ConditionTrue, v1.PodCondition{Type: "conf.example/gate", Status: v1.ConditionFalse})), false},
		"a condition is gone":        {at("1001", v1.PodStatus{Phase: v1.PodRunning}), true},
		"a version that is none":     {at("x", status(v1.ConditionFalse)), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := New("n", nil, slog.New(slog.DiscardHandler))
				defer r.queue.ShutDown()
				r.Set(at("1", v1.PodStatus{}), false, status(v1.ConditionTrue))
				r.sent("u", r.pods["u"].status, at("1000", status(v1.ConditionTrue)))
				k, _ := r.queue.Get()
				r.queue.Done(k)
				r.Seen("u", tt.seen)
				time.Sleep(again)
				synctest.Wait()
				if got := r.queue.Len() > 0; got != tt.want || got && r.pods["u"].status == nil {
					t.Errorf("told again: %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// A kubelet that begins anew reads manifests and the API side by side: mirrors stay until it knows what they mirror.
func TestMirrorsOutliveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		static := func(name string) *v1.Pod {
			return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("hash-" + name),
				Annotations: map[string]string{manifests.AnnConfigHash: "hash-" + name}}}
		}
		client := fake.NewClientset()
		for _, name := range []string{"a", "gone"} {
			m := mirrorOf(static(name), "n", "node")
			m.UID = types.UID("mirror-" + name)
			if _, err := client.CoreV1().Pods("ns").Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		r := New("n", nil, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx, client, func() types.UID { return "node" }) }()
		left := func() (out []string) {
			time.Sleep(time.Second)
			synctest.Wait()
			list, err := client.CoreV1().Pods("ns").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list.Items {
				out = append(out, string(p.UID))
			}
			return out
		}
		for _, uid := range left() {
			p, err := client.CoreV1().Pods("ns").Get(t.Context(), strings.TrimPrefix(uid, "mirror-"), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			r.Mirror("ns", p.Name, p)
		}
		r.MirrorsListed()
		if got := left(); !slices.Equal(got, []string{"mirror-a", "mirror-gone"}) {
			t.Errorf("before the manifests were read, there are %v", got)
		}
		r.SetStatic([]*v1.Pod{static("a")})
		if got := left(); !slices.Equal(got, []string{"mirror-a"}) {
			t.Errorf("after the manifests were read, there are %v", got)
		}
		cancel()
		<-done
	})
}
