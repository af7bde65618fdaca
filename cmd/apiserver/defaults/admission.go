package defaults

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A webhook or policy stored without these values would fail open: its absent selectors match nothing and its absent
// failure policy lets requests pass.
func addAdmission(r *registry) {
	addList(r, func(l *admissionv1.ValidatingWebhookConfigurationList) []admissionv1.ValidatingWebhookConfiguration {
		return l.Items
	}, validatingWebhooks)
	addList(r, func(l *admissionv1.MutatingWebhookConfigurationList) []admissionv1.MutatingWebhookConfiguration {
		return l.Items
	}, mutatingWebhooks)
	addList(r, func(l *admissionv1.ValidatingAdmissionPolicyList) []admissionv1.ValidatingAdmissionPolicy {
		return l.Items
	},
		func(p *admissionv1.ValidatingAdmissionPolicy) {
			setPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
			matchResources(p.Spec.MatchConstraints)
		})
	addList(r, func(l *admissionv1.ValidatingAdmissionPolicyBindingList) []admissionv1.ValidatingAdmissionPolicyBinding {
		return l.Items
	},
		func(b *admissionv1.ValidatingAdmissionPolicyBinding) { matchResources(b.Spec.MatchResources) })
	addList(r, func(l *admissionv1.MutatingAdmissionPolicyList) []admissionv1.MutatingAdmissionPolicy { return l.Items },
		func(p *admissionv1.MutatingAdmissionPolicy) {
			setPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
			set(&p.Spec.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
			matchResources(p.Spec.MatchConstraints)
		})
	addList(r, func(l *admissionv1.MutatingAdmissionPolicyBindingList) []admissionv1.MutatingAdmissionPolicyBinding {
		return l.Items
	},
		func(b *admissionv1.MutatingAdmissionPolicyBinding) { matchResources(b.Spec.MatchResources) })
}

func validatingWebhooks(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		setPtr(&w.FailurePolicy, admissionv1.Fail)
		setPtr(&w.MatchPolicy, admissionv1.Equivalent)
		setPtr(&w.NamespaceSelector, metav1.LabelSelector{})
		setPtr(&w.ObjectSelector, metav1.LabelSelector{})
		setPtr(&w.TimeoutSeconds, 10)
		clientConfig(&w.ClientConfig)
		rules(w.Rules)
	}
}

func mutatingWebhooks(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		setPtr(&w.FailurePolicy, admissionv1.Fail)
		setPtr(&w.MatchPolicy, admissionv1.Equivalent)
		setPtr(&w.NamespaceSelector, metav1.LabelSelector{})
		setPtr(&w.ObjectSelector, metav1.LabelSelector{})
		setPtr(&w.TimeoutSeconds, 10)
		setPtr(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		clientConfig(&w.ClientConfig)
		rules(w.Rules)
	}
}

func clientConfig(c *admissionv1.WebhookClientConfig) {
	if c.Service != nil {
		setPtr(&c.Service.Port, 443)
	}
}

func rules(rs []admissionv1.RuleWithOperations) {
	for i := range rs {
		setPtr(&rs[i].Scope, admissionv1.AllScopes)
	}
}

func matchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	setPtr(&m.MatchPolicy, admissionv1.Equivalent)
	setPtr(&m.NamespaceSelector, metav1.LabelSelector{})
	setPtr(&m.ObjectSelector, metav1.LabelSelector{})
	for _, named := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range named {
			setPtr(&named[i].Scope, admissionv1.AllScopes)
		}
	}
}
