package defaults

import (
	"maps"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
)

func addCore(r *registry) {
	addList(r, func(l *corev1.PodList) []corev1.Pod { return l.Items }, pod)
	addList(r, func(l *corev1.PodTemplateList) []corev1.PodTemplate { return l.Items }, func(t *corev1.PodTemplate) { podTemplate(&t.Template) })
	addList(r, func(l *corev1.ReplicationControllerList) []corev1.ReplicationController { return l.Items }, replicationController)
	addList(r, func(l *corev1.NamespaceList) []corev1.Namespace { return l.Items }, namespace)
	addList(r, func(l *corev1.NodeList) []corev1.Node { return l.Items }, node)
	addList(r, func(l *corev1.SecretList) []corev1.Secret { return l.Items }, secret)
	addList(r, func(l *corev1.LimitRangeList) []corev1.LimitRange { return l.Items }, func(l *corev1.LimitRange) {
		for i := range l.Spec.Limits {
			limitRangeItem(&l.Spec.Limits[i])
		}
	})
	addList(r, func(l *corev1.ResourceQuotaList) []corev1.ResourceQuota { return l.Items }, func(q *corev1.ResourceQuota) {
		roundUp(q.Spec.Hard)
		roundUp(q.Status.Hard)
		roundUp(q.Status.Used)
	})
	add(r, func(t *authenticationv1.TokenRequest) { setPtr(&t.Spec.ExpirationSeconds, 60*60) })
}

func replicationController(c *corev1.ReplicationController) {
	setPtr(&c.Spec.Replicas, 1)
	if c.Spec.Template == nil {
		return
	}
	podTemplate(c.Spec.Template)
	if len(c.Spec.Template.Labels) > 0 {
		if len(c.Spec.Selector) == 0 {
			c.Spec.Selector = maps.Clone(c.Spec.Template.Labels)
		}
		if len(c.Labels) == 0 {
			c.Labels = maps.Clone(c.Spec.Template.Labels)
		}
	}
}

// namespace labels it with its own name, which selectors may rely upon. A name that is still to be generated waits.
func namespace(n *corev1.Namespace) {
	set(&n.Status.Phase, corev1.NamespaceActive)
	if n.Name == "" {
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func node(n *corev1.Node) {
	alias(&n.Spec.PodCIDR, &n.Spec.PodCIDRs, func(list []string) string { return list[0] }, func(v string) []string { return []string{v} })
	roundUp(n.Status.Capacity)
	roundUp(n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

// limitRangeItem completes a container's defaults: the limit from the maximum, the request from the limit, then from the minimum.
func limitRangeItem(l *corev1.LimitRangeItem) {
	for _, list := range []corev1.ResourceList{l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio} {
		roundUp(list)
	}
	if l.Type != corev1.LimitTypeContainer {
		return
	}
	fill(&l.Default, l.Max)
	fill(&l.DefaultRequest, l.Default)
	fill(&l.DefaultRequest, l.Min)
}

// fill copies into dst what src has and dst has not.
func fill(dst *corev1.ResourceList, src corev1.ResourceList) {
	for name, q := range src {
		if _, ok := (*dst)[name]; ok {
			continue
		}
		if *dst == nil {
			*dst = corev1.ResourceList{}
		}
		(*dst)[name] = q.DeepCopy()
	}
}

// secret also moves stringData, which exists for writers only, into data. It must never be stored, for readers look at
// data; and it must be gone before anybody notes who wrote which field, or nobody would own the data.
func secret(s *corev1.Secret) {
	set(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}
