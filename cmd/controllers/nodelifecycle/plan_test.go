package nodelifecycle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	return n
}

func TestTaints(t *testing.T) {
	const mine, notReady, unreachable = "my/taint", corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable
	cordoned := node(corev1.ConditionTrue)
	cordoned.Spec.Unschedulable = true
	for _, tc := range []struct {
		name  string
		node  *corev1.Node
		haste Haste
		want  []string
	}{
		{"ready", node(corev1.ConditionTrue), Evict, nil},
		{"ready again", node(corev1.ConditionTrue, notReady, mine), Evict, []string{mine + ":NoSchedule"}},
		{"not ready", node(corev1.ConditionFalse, mine), Evict, []string{mine + ":NoSchedule", notReady + ":NoSchedule", notReady + ":NoExecute"}},
		{"silent", node(corev1.ConditionUnknown, notReady), Evict, []string{unreachable + ":NoSchedule", unreachable + ":NoExecute"}},
		{"not its turn", node(corev1.ConditionUnknown), Wait, []string{unreachable + ":NoSchedule"}},
		{"not its turn, and it speaks again, of trouble", leaves(node(corev1.ConditionFalse), unreachable), Wait, []string{notReady + ":NoSchedule", notReady + ":NoExecute"}},
		{"all silent: nobody is sent away", node(corev1.ConditionUnknown), Spare, []string{unreachable + ":NoSchedule"}},
		{"all silent: nobody is sent away any more", leaves(node(corev1.ConditionUnknown, unreachable), unreachable), Spare, []string{unreachable + ":NoSchedule"}},
		{"newborn keeps its taint", node("", notReady), Evict, []string{notReady + ":NoSchedule"}},
		{"cordoned", cordoned, Evict, []string{corev1.TaintNodeUnschedulable + ":NoSchedule"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, taint := range Taints(tc.node, tc.haste, metav1.Now()) {
				got = append(got, taint.Key+":"+string(taint.Effect))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	cfg := Config{Grace: 40 * time.Second, StartupGrace: time.Minute}
	if s := Judge(node(corev1.ConditionTrue), 40*time.Second, cfg, metav1.Now()); s.Conditions[0].Status != corev1.ConditionTrue {
		t.Error("judged within the grace period")
	}
	s := Judge(node(corev1.ConditionTrue), 41*time.Second, cfg, metav1.Now())
	if c := s.Conditions[0]; c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" {
		t.Errorf("after the grace period: %+v", c)
	}
	if s := Judge(node(""), 41*time.Second, cfg, metav1.Now()); len(s.Conditions) != 0 {
		t.Error("a newborn was judged before the startup grace period")
	}
	if s := Judge(node(""), 61*time.Second, cfg, metav1.Now()); len(s.Conditions) != 4 || s.Conditions[0].Reason != "NodeStatusNeverUpdated" {
		t.Errorf("a newborn that never spoke: %+v", s.Conditions)
	}
}

func leaves(n *corev1.Node, key string) *corev1.Node {
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
	return n
}
