package podset

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name, node string, phase corev1.PodPhase, ready bool, mutate ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.Unix(1000, 0)}}
	p.Spec.NodeName, p.Status.Phase = node, phase
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(1100, 0)}}
	}
	for _, m := range mutate {
		m(p)
	}
	return p
}

func names(pods []*corev1.Pod) (all []string) {
	for _, p := range pods {
		all = append(all, p.Name)
	}
	return all
}

func TestRank(t *testing.T) {
	cheap := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }
	young := func(p *corev1.Pod) { p.CreationTimestamp = metav1.Unix(9000, 0) }
	pods := []*corev1.Pod{
		pod("old", "a", corev1.PodRunning, true), pod("young", "a", corev1.PodRunning, true, young),
		pod("cheap", "a", corev1.PodRunning, true, cheap), pod("unready", "a", corev1.PodRunning, false),
		pod("pending", "a", corev1.PodPending, false), pod("unassigned", "", corev1.PodPending, false),
		pod("crowded", "b", corev1.PodRunning, true),
	}
	crowd := append([]*corev1.Pod{}, pods...)
	for range 9 {
		crowd = append(crowd, pod("x", "b", corev1.PodRunning, true))
	}
	Rank(pods, crowd, time.Unix(10000, 0))
	want := []string{"unassigned", "pending", "unready", "cheap", "crowded", "young", "old"}
	if diff := cmp.Diff(want, names(pods)); diff != "" {
		t.Error(diff)
	}
}

func TestClaim(t *testing.T) {
	owner := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "o", UID: "o"}}
	yes := true
	with := func(uid types.UID, label string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": label}
			if uid != "" {
				p.OwnerReferences = []metav1.OwnerReference{{UID: uid, Controller: &yes}}
			}
		}
	}
	pods := []*corev1.Pod{
		pod("mine", "", corev1.PodRunning, true, with("o", "a")), pod("strayed", "", corev1.PodRunning, true, with("o", "b")),
		pod("orphan", "", corev1.PodRunning, true, with("", "a")), pod("ended", "", corev1.PodSucceeded, false, with("", "a")),
		pod("others", "", corev1.PodRunning, true, with("p", "a")), pod("stranger", "", corev1.PodRunning, true, with("", "b")),
	}
	c := Claim(owner, labels.SelectorFromSet(labels.Set{"app": "a"}), pods)
	got := [][]string{names(c.Owned), names(c.Adopt), names(c.Release)}
	if diff := cmp.Diff([][]string{{"mine"}, {"orphan"}, {"strayed"}}, got); diff != "" {
		t.Error(diff)
	}
	now := metav1.Now()
	owner.DeletionTimestamp = &now
	if c := Claim(owner, labels.SelectorFromSet(labels.Set{"app": "a"}), pods); len(c.Adopt)+len(c.Release) > 0 {
		t.Errorf("an owner that is being deleted adopts %v and releases %v", names(c.Adopt), names(c.Release))
	}
}

func TestExpectations(t *testing.T) {
	var e Expectations
	if !e.Satisfied("k") {
		t.Error("nothing expected, yet not satisfied")
	}
	e.Expect("k", 2, nil)
	e.Created("k")
	if e.Satisfied("k") {
		t.Error("satisfied by one of two")
	}
	e.Created("k")
	if !e.Satisfied("k") {
		t.Error("not satisfied by two of two")
	}
	e.Expect("k", 0, []types.UID{"a"})
	e.Deleted("k", "b")
	if e.Satisfied("k") {
		t.Error("satisfied by another pod's end")
	}
	e.Deleted("k", "a")
	if !e.Satisfied("k") {
		t.Error("not satisfied by the pod's end")
	}
}

func TestSlowStart(t *testing.T) {
	calls := 0
	made, err := SlowStart(100, func(int) error { calls++; return errors.New("quota") })
	if made != 0 || calls != 1 || err == nil {
		t.Errorf("a hopeless template cost %d calls, made %d, err %v", calls, made, err)
	}
	if made, err := SlowStart(7, func(int) error { return nil }); made != 7 || err != nil {
		t.Errorf("made %d of 7, err %v", made, err)
	}
}
