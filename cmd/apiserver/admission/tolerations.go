package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	adm "k8s.io/apiserver/pkg/admission"
)

// Patience is how many seconds a pod stays on a node that fails, unless the pod says otherwise. It may be changed until
// the plugins are made.
type Patience struct{ NotReady, Unreachable int64 }

// NewPatience is five minutes for both.
func NewPatience() *Patience { return &Patience{300, 300} }

// defaultTolerations lets every pod bear a failing node for a while.
type defaultTolerations struct {
	*adm.Handler
	patience Patience
}

var _ adm.MutationInterface = defaultTolerations{}

func newDefaultTolerations(p Patience) defaultTolerations {
	return defaultTolerations{adm.NewHandler(adm.Create, adm.Update), p}
}

func (d defaultTolerations) Admit(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil {
		return err
	}
	pod.Spec.Tolerations = d.patience.tolerations(pod.Spec.Tolerations)
	return nil
}

// tolerations adds those of the two taints of failing nodes where ts has none of its own.
func (p Patience) tolerations(ts []corev1.Toleration) []corev1.Toleration {
	for _, taint := range []struct {
		key     string
		seconds int64
	}{{corev1.TaintNodeNotReady, p.NotReady}, {corev1.TaintNodeUnreachable, p.Unreachable}} {
		key, seconds := taint.key, taint.seconds
		own := slices.ContainsFunc(ts, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if own {
			continue
		}
		ts = append(ts, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
	return ts
}

// taintNodes keeps pods off a new node until the node lifecycle controller has seen it ready.
type taintNodes struct{ *adm.Handler }

var _ adm.MutationInterface = taintNodes{}

func newTaintNodes() taintNodes { return taintNodes{adm.NewHandler(adm.Create)} }

func (taintNodes) Admit(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("nodes") || a.GetSubresource() != "" {
		return nil
	}
	node, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}
