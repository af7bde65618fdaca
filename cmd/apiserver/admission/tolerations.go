package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	adm "k8s.io/apiserver/pkg/admission"
)

// defaultTolerationSeconds is how long a pod stays on a node that fails, unless the pod says otherwise.
const defaultTolerationSeconds = 300

// defaultTolerations lets every pod bear a failing node for five minutes.
type defaultTolerations struct{ *adm.Handler }

var _ adm.MutationInterface = defaultTolerations{}

func newDefaultTolerations() defaultTolerations {
	return defaultTolerations{adm.NewHandler(adm.Create, adm.Update)}
}

func (defaultTolerations) Admit(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil {
		return err
	}
	pod.Spec.Tolerations = withFailureTolerations(pod.Spec.Tolerations)
	return nil
}

// withFailureTolerations adds the tolerations of the two taints of failing nodes where ts has none of its own.
func withFailureTolerations(ts []corev1.Toleration) []corev1.Toleration {
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		own := slices.ContainsFunc(ts, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if own {
			continue
		}
		seconds := int64(defaultTolerationSeconds)
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
