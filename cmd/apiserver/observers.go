package apiserver

import (
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// observers returns what tells whether a webhook or an admission policy asks to see bindings of pods, or may: before what is
// registered is known, all may.
func observers(shared informers.SharedInformerFactory) func() bool {
	api := shared.Admissionregistration().V1()
	mutating, validating := api.MutatingWebhookConfigurations(), api.ValidatingWebhookConfigurations()
	changing, checking := api.MutatingAdmissionPolicies(), api.ValidatingAdmissionPolicies()
	synced := []cache.InformerSynced{mutating.Informer().HasSynced, validating.Informer().HasSynced, changing.Informer().HasSynced, checking.Informer().HasSynced}
	mutators, validators, changes, checks := mutating.Lister(), validating.Lister(), changing.Lister(), checking.Lister()
	return func() bool {
		for _, known := range synced {
			if !known() {
				return true
			}
		}
		hooks, err1 := mutators.List(labels.Everything())
		for _, c := range hooks {
			for _, h := range c.Webhooks {
				if hooked(h.Rules) {
					return true
				}
			}
		}
		checkers, err2 := validators.List(labels.Everything())
		for _, c := range checkers {
			for _, h := range c.Webhooks {
				if hooked(h.Rules) {
					return true
				}
			}
		}
		changers, err3 := changes.List(labels.Everything())
		for _, p := range changers {
			if matched(p.Spec.MatchConstraints) {
				return true
			}
		}
		policies, err4 := checks.List(labels.Everything())
		for _, p := range policies {
			if matched(p.Spec.MatchConstraints) {
				return true
			}
		}
		return err1 != nil || err2 != nil || err3 != nil || err4 != nil
	}
}

func hooked(rules []admissionregistrationv1.RuleWithOperations) bool {
	for _, r := range rules {
		if seesBindings(r.Resources) {
			return true
		}
	}
	return false
}

func matched(m *admissionregistrationv1.MatchResources) bool {
	if m == nil {
		return true
	}
	for _, r := range m.ResourceRules {
		if seesBindings(r.Resources) {
			return true
		}
	}
	return false
}

// seesBindings tells whether a rule for those resources may be one for pods/binding.
func seesBindings(resources []string) bool {
	for _, r := range resources {
		resource, sub, _ := strings.Cut(r, "/")
		if (resource == "*" || resource == "pods") && (sub == "*" || sub == "binding") {
			return true
		}
	}
	return false
}
