package statefulset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func ptr[T any](v T) *T { return &v }

// pods reads "0:new 1:old- 2:new!": ordinal and revision; - is not ready, ! is being deleted, x has failed, ? has not started.
func pods(text string) (out []*corev1.Pod) {
	for _, f := range strings.Fields(text) {
		n, revision, _ := strings.Cut(f, ":")
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "s-" + n, UID: types.UID(n), Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: strings.TrimRight(revision, "-!x?")}}}
		p.Status.Phase = corev1.PodRunning
		switch revision[len(revision)-1] {
		case '-':
		case 'x':
			p.Status.Phase = corev1.PodFailed
		case '?':
			p.Status.Phase = corev1.PodPending
		case '!':
			p.DeletionTimestamp = ptr(metav1.Now())
			fallthrough
		default:
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		out = append(out, p)
	}
	return out
}

func text(p Plan) string {
	var out []string
	for _, c := range p.Create {
		out = append(out, fmt.Sprintf("+%d:%s", c.ordinal, map[bool]string{true: "new", false: "old"}[c.updated]))
	}
	for _, d := range p.Delete {
		out = append(out, strings.TrimPrefix(d.pod.Name, "s")) // "-2" is the second's end
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	ordered := func(*appsv1.StatefulSet) {}
	parallel := func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
	replicas := func(n int32) func(*appsv1.StatefulSet) { return func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n } }
	rolling := func(r appsv1.RollingUpdateStatefulSetStrategy) func(*appsv1.StatefulSet) {
		return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate = &r }
	}
	for _, tc := range []struct {
		name       string
		set        func(*appsv1.StatefulSet)
		pods, want string
	}{
		{"first only", ordered, "", "+0:new"},
		{"all at once", parallel, "", "+0:new +1:new +2:new"},
		{"waits for the one before", ordered, "0:new-", ""},
		{"next", ordered, "0:new", "+1:new"},
		{"fills a gap", ordered, "0:new 2:new", "+1:new"},
		{"from its start", func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }, "5:new", "+6:new"},
		{"below its start goes last", func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 1} }, "0:new 1:new 2:new 3:new", "-0"},
		{"a failed pod is made again", ordered, "0:new 1:newx 2:new", "-1"},
		{"the highest goes first", ordered, "0:new 1:new 2:new 3:new 4:new", "-4"},
		{"one end at a time", ordered, "0:new 1:new 2:new 3:new!", ""},
		{"several ends at a time", parallel, "0:new- 1:new 2:new 3:new! 4:new-", "-4"},
		{"no end while all are sick", replicas(0), "0:new- 1:new- 2:new-", ""},
		{"those that ended go in their order", replicas(0), "0:newx 1:new 2:newx", "-2"},
		{"and are not waited for", replicas(0), "0:newx 1:new-", "-1"},
		{"nor do they let a sick one go before a lower", replicas(0), "0:new- 1:newx 2:new-", ""},
		{"the only sick one may go", replicas(0), "0:new 1:new 2:new-", "-2"},
		{"all may go at once", func(s *appsv1.StatefulSet) { parallel(s); replicas(0)(s) }, "0:new- 1:new- 2:new-", "-2 -1 -0"},
		{"the highest is updated first", ordered, "0:old 1:old 2:old", "-2"},
		{"then the next", ordered, "0:old 1:old 2:new", "-1"},
		{"not while one is not ready", ordered, "0:old 1:old 2:new-", ""},
		{"one that never started is repaired", ordered, "0:old 1:old 2:old?", "-2"},
		{"parallel: in their order too", parallel, "0:old 1:old 2:old", "-2"},
		{"parallel: not while one is not ready", parallel, "0:old 1:old 2:new-", ""},
		{"parallel: the sick old one costs nothing", parallel, "0:old 1:old- 2:new", "-1"},
		{"maxUnavailable", rolling(appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: ptr(intstr.FromString("50%"))}), "0:old 1:old 2:old", "-2 -1"},
		{"partition", rolling(appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr[int32](2)}), "0:old 1:old 2:new", ""},
		{"below the partition it comes back old", rolling(appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr[int32](2)}), "1:old 2:new", "+0:old"},
		{"OnDelete waits", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }, "0:old 1:old 2:old", ""},
		{"OnDelete comes back new", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }, "0:old 1:old", "+2:new"},
		{"done", ordered, "0:new 1:new 2:new", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{Replicas: ptr[int32](3)}}
			tc.set(set)
			if diff := cmp.Diff(tc.want, text(Decide(set, pods(tc.pods), "new", time.Now()))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A rollout that is cut off anywhere ends with all pods new; ordered, no pod is made before those below it are ready, and
// never are more unavailable than may be.
func TestRolloutConverges(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{Replicas: ptr(1 + r.Int32N(5))}}
		set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: ptr(intstr.FromInt32(1 + r.Int32N(3)))}
		if r.IntN(2) == 0 {
			set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		}
		var all []*corev1.Pod
		for n := range *set.Spec.Replicas {
			all = append(all, pods(fmt.Sprintf("%d:old", n))...)
		}
		for step := 0; ; step++ {
			if step > 500 {
				t.Fatalf("seed %d: no end", seed)
			}
			s, _ := Observe(set, all, "old", "new", time.Now())
			if s.CurrentRevision == "new" {
				break
			}
			if down := *set.Spec.Replicas - s.AvailableReplicas; int(down) > maxUnavailable(set) {
				t.Fatalf("seed %d: %d unavailable", seed, down)
			}
			p := Decide(set, slices.Clone(all), "new", time.Now())
			for _, d := range p.Delete[:r.IntN(len(p.Delete)+1)] {
				all = slices.DeleteFunc(all, func(o *corev1.Pod) bool { return o == d.pod })
			}
			for _, c := range p.Create[:r.IntN(len(p.Create)+1)] {
				all = append(all, pods(fmt.Sprintf("%d:new-", c.ordinal))...)
			}
			for i, pod := range all {
				if len(pod.Status.Conditions) == 0 && r.IntN(3) == 0 {
					all[i] = pods(fmt.Sprintf("%d:new", ordinal(set, pod)))[0]
				}
			}
		}
	}
}

func TestClaimsGoWithTheirOwners(t *testing.T) {
	const keep, end = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	pod := pods("1:new")[0]
	for _, tc := range []struct {
		deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType
		replicas        int32
		has, want       string
	}{
		{keep, keep, 2, "", ""},
		{end, keep, 2, "", "StatefulSet"},
		{end, keep, 1, "StatefulSet", "StatefulSet"},
		{keep, end, 2, "", ""},
		{keep, end, 1, "", "Pod"},
		{end, end, 1, "StatefulSet", "Pod"},
		{end, end, 2, "Pod", "StatefulSet"},
		{keep, keep, 1, "StatefulSet", ""},
	} {
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", UID: "set"}, Spec: appsv1.StatefulSetSpec{Replicas: &tc.replicas,
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: tc.deleted, WhenScaled: tc.scaled}}}
		claim := &corev1.PersistentVolumeClaim{}
		uid := map[string]types.UID{"StatefulSet": "set", "Pod": pod.UID}
		if tc.has != "" {
			claim.OwnerReferences = []metav1.OwnerReference{{Kind: tc.has, UID: uid[tc.has]}}
		}
		owners, changed := ownersOf(set, claim, pod)
		got := ""
		for _, o := range owners {
			got += o.Kind
		}
		if got != tc.want || changed != (tc.has != tc.want) {
			t.Errorf("%+v: %q, changed %t", tc, got, changed)
		}
	}
}
