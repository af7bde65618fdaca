package validation

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

const (
	maxPrecedence = 10000
	maxQueues     = 10 * 1000 * 1000
	// exempt names the flow schema and the priority level of whoever must never wait.
	exempt = flowcontrolv1.PriorityLevelConfigurationNameExempt
)

func priorityLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	errs := fixedLevel(l)
	if (l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) != (l.Name == exempt) {
		errs = append(errs, field.Invalid(spec().Child("type"), l.Spec.Type, "type must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch l.Spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if l.Spec.Limited != nil {
			errs = append(errs, field.Forbidden(spec().Child("limited"), "must be nil if the type is not Limited"))
		}
		if e := l.Spec.Exempt; e != nil {
			errs = append(errs, shares(e.NominalConcurrencyShares, e.LendablePercent, spec().Child("exempt"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if l.Spec.Exempt != nil {
			errs = append(errs, field.Forbidden(spec().Child("exempt"), "must be nil if the type is Limited"))
		}
		if l.Spec.Limited == nil {
			return append(errs, field.Required(spec().Child("limited"), "must not be empty when type is Limited"))
		}
		errs = append(errs, limited(l.Spec.Limited, spec().Child("limited"))...)
	default:
		errs = append(errs, field.NotSupported(spec().Child("type"), l.Spec.Type,
			[]flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	return errs
}

// fixedLevel keeps the levels that the server relies upon as they are; of the exempt one, its shares may change.
func fixedLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != l.Name || l.Name == exempt {
			continue
		}
		if !equality.Semantic.DeepEqual(fixed.Spec, l.Spec) {
			return field.ErrorList{field.Invalid(spec(), l.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", l.Name))}
		}
	}
	return nil
}

func shares(nominal, lendable *int32, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if nominal != nil && *nominal < 0 {
		errs = append(errs, field.Invalid(p.Child("nominalConcurrencyShares"), *nominal, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(p.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func limited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, p *field.Path) field.ErrorList {
	errs := shares(l.NominalConcurrencyShares, l.LendablePercent, p)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(p.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	at := p.Child("limitResponse")
	q := l.LimitResponse.Queuing
	switch l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if q != nil {
			errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if q == nil {
			return append(errs, field.Required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
		}
		errs = append(errs, queuing(q, at.Child("queuing"))...)
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), l.LimitResponse.Type,
			[]flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
	return errs
}

func queuing(q *flowcontrolv1.QueuingConfiguration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, c := range []count{{"queueLengthLimit", q.QueueLengthLimit}, {"queues", q.Queues}, {"handSize", q.HandSize}} {
		if c.n <= 0 {
			errs = append(errs, field.Invalid(p.Child(c.name), c.n, "must be positive"))
		}
	}
	if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(p.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	if q.HandSize > q.Queues {
		return append(errs, field.Invalid(p.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	if q.HandSize > 0 {
		if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
			errs = append(errs, field.Invalid(p.Child("handSize"), q.HandSize,
				fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
		}
	}
	return errs
}

func flowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	var errs field.ErrorList
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !equality.Semantic.DeepEqual(fixed.Spec, s.Spec) {
			errs = append(errs, field.Invalid(spec(), s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	at := spec().Child("matchingPrecedence")
	switch p := s.Spec.MatchingPrecedence; {
	case p <= 0:
		errs = append(errs, field.Invalid(at, p, "must be a positive value"))
	case p > maxPrecedence:
		errs = append(errs, field.Invalid(at, p, fmt.Sprintf("must not be greater than %d", maxPrecedence)))
	case p == 1 && s.Name != exempt:
		errs = append(errs, field.Invalid(at, p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := s.Spec.DistinguisherMethod; m != nil {
		errs = append(errs, supported(spec().Child("distinguisherMethod", "type"), m.Type, flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
	}
	level := spec().Child("priorityLevelConfiguration", "name")
	if name := s.Spec.PriorityLevelConfiguration.Name; name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, invalid(level, name, validation.IsDNS1123Subdomain(name))...)
	}
	for i := range s.Spec.Rules {
		errs = append(errs, flowRule(&s.Spec.Rules[i], spec().Child("rules").Index(i))...)
	}
	return errs
}

func flowRule(r *flowcontrolv1.PolicyRulesWithSubjects, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(p.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, flowSubject(&r.Subjects[i], p.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules)+len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(p, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, flowResources(&r.ResourceRules[i], p.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], p.Child("nonResourceRules").Index(i)
		errs = append(errs, flowVerbs(rule.Verbs, at.Child("verbs"))...)
		errs = append(errs, nonEmpty(rule.NonResourceURLs, at.Child("nonResourceURLs"), "nonResourceURLs", "non-resource URLs")...)
		for j, u := range rule.NonResourceURLs {
			errs = append(errs, flowURL(u, at.Child("nonResourceURLs").Index(j))...)
		}
	}
	return errs
}

func flowSubject(s *flowcontrolv1.Subject, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	known := false
	for _, k := range []struct {
		kind flowcontrolv1.SubjectKind
		name string
		set  bool
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil},
	} {
		known = known || k.kind == s.Kind
		switch {
		case k.kind == s.Kind && !k.set:
			errs = append(errs, field.Required(p.Child(k.name), fmt.Sprintf("%s is required when subject kind is '%s'", k.name, k.kind)))
		case k.kind != s.Kind && k.set:
			errs = append(errs, field.Forbidden(p.Child(k.name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", k.name, k.kind)))
		}
	}
	if !known {
		errs = append(errs, field.NotSupported(p.Child("kind"), s.Kind,
			[]flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}))
	}
	if s.User != nil {
		errs = append(errs, required(p.Child("user", "name"), s.User.Name)...)
	}
	if s.Group != nil {
		errs = append(errs, required(p.Child("group", "name"), s.Group.Name)...)
	}
	if a := s.ServiceAccount; a != nil {
		if a.Name == "" {
			errs = append(errs, field.Required(p.Child("serviceAccount", "name"), ""))
		} else if a.Name != flowcontrolv1.NameAll {
			errs = append(errs, invalid(p.Child("serviceAccount", "name"), a.Name, validation.IsDNS1123Subdomain(a.Name))...)
		}
		if a.Namespace == "" {
			errs = append(errs, field.Required(p.Child("serviceAccount", "namespace"), "must specify namespace for service account"))
		} else {
			errs = append(errs, invalid(p.Child("serviceAccount", "namespace"), a.Namespace, validation.IsDNS1123Label(a.Namespace))...)
		}
	}
	return errs
}

func flowResources(r *flowcontrolv1.ResourcePolicyRule, p *field.Path) field.ErrorList {
	errs := flowVerbs(r.Verbs, p.Child("verbs"))
	errs = append(errs, nonEmpty(r.APIGroups, p.Child("apiGroups"), "resource rules must supply at least one api group", "api groups")...)
	errs = append(errs, nonEmpty(r.Resources, p.Child("resources"), "resource rules must supply at least one resource", "resources")...)
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		errs = append(errs, field.Required(p.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace"))
	} else if slices.Contains(r.Namespaces, flowcontrolv1.NamespaceEvery) {
		if len(r.Namespaces) > 1 {
			errs = append(errs, field.Invalid(p.Child("namespaces"), r.Namespaces, "if '*' is present, must not specify other namespaces"))
		}
	} else {
		for i, n := range r.Namespaces {
			errs = append(errs, invalid(p.Child("namespaces").Index(i), n, validation.IsDNS1123Label(n))...)
		}
	}
	return errs
}

// nonEmpty demands a value, and that * stands alone. missing is the message, or the field's name for one made of it.
func nonEmpty(values []string, p *field.Path, missing, what string) field.ErrorList {
	if len(values) == 0 {
		if !strings.Contains(missing, " ") {
			missing += " must contain at least one value"
		}
		return field.ErrorList{field.Required(p, missing)}
	}
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(p, values, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func flowVerbs(verbs []string, p *field.Path) field.ErrorList {
	if errs := nonEmpty(verbs, p, "verbs", "verbs"); len(errs) > 0 || slices.Contains(verbs, "*") {
		return errs
	}
	known := sets.New("get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy", "connect", "head", "post", "put", "options", "trace")
	if unknown := sets.New(verbs...).Difference(known); unknown.Len() > 0 {
		return field.ErrorList{field.NotSupported(p, sets.List(unknown), sets.List(known))}
	}
	return nil
}

// flowURL allows a path, and * after its last slash.
func flowURL(u string, p *field.Path) field.ErrorList {
	switch {
	case u == "*" || u == "/":
		return nil
	case u == "":
		return field.ErrorList{field.Invalid(p, u, "must not be empty")}
	case !strings.HasPrefix(u, "/"):
		return field.ErrorList{field.Invalid(p, u, "must start with slash")}
	case strings.Contains(u, " "):
		return field.ErrorList{field.Invalid(p, u, "must not contain white-space")}
	case strings.Contains(u, "//"):
		return field.ErrorList{field.Invalid(p, u, "must not contain double slash")}
	case strings.Contains(strings.TrimSuffix(u, "/*"), "*"):
		return field.ErrorList{field.Invalid(p, u, "wildcard can only do suffix matching")}
	}
	return nil
}
