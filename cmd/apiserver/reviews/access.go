package reviews

import (
	"context"
	"fmt"

	authzv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func subjectAccess(authz authorizer.UnconditionalAuthorizer) *review {
	return &review{
		make: func() runtime.Object { return new(authzv1.SubjectAccessReview) }, singular: "subjectaccessreview",
		answer: func(ctx context.Context, obj runtime.Object) error {
			r := obj.(*authzv1.SubjectAccessReview)
			if errs := validateSubject(r.Spec, field.NewPath("spec")); len(errs) > 0 {
				return apierrors.NewInvalid(authzv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind(), "", errs)
			}
			r.Status = decide(ctx, authz, subject(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
			return nil
		},
	}
}

func localSubjectAccess(authz authorizer.UnconditionalAuthorizer) *review {
	return &review{
		make: func() runtime.Object { return new(authzv1.LocalSubjectAccessReview) }, singular: "localsubjectaccessreview", namespaced: true,
		answer: func(ctx context.Context, obj runtime.Object) error {
			r := obj.(*authzv1.LocalSubjectAccessReview)
			spec := field.NewPath("spec")
			errs := validateSubject(r.Spec, spec)
			namespace := request.NamespaceValue(ctx)
			if r.Spec.NonResourceAttributes != nil {
				errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
			}
			// Who may ask about one namespace must not learn of another.
			if a := r.Spec.ResourceAttributes; a != nil && (a.Namespace != namespace || r.Namespace != "" && r.Namespace != namespace) {
				errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
			}
			if len(errs) > 0 {
				return apierrors.NewInvalid(authzv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(), "", errs)
			}
			r.Status = decide(ctx, authz, subject(r.Spec), r.Spec.ResourceAttributes, nil)
			return nil
		},
	}
}

func selfAccess(authz authorizer.UnconditionalAuthorizer) *review {
	return &review{
		make: func() runtime.Object { return new(authzv1.SelfSubjectAccessReview) }, singular: "selfsubjectaccessreview",
		answer: func(ctx context.Context, obj runtime.Object) error {
			r := obj.(*authzv1.SelfSubjectAccessReview)
			if errs := validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, field.NewPath("spec")); len(errs) > 0 {
				return apierrors.NewInvalid(authzv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), "", errs)
			}
			u, ok := request.UserFrom(ctx)
			if !ok {
				return apierrors.NewBadRequest("no user present on request")
			}
			r.Status = decide(ctx, authz, u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
			return nil
		},
	}
}

func selfRules(rules authorizer.RuleResolver) *review {
	return &review{
		make: func() runtime.Object { return new(authzv1.SelfSubjectRulesReview) }, singular: "selfsubjectrulesreview",
		answer: func(ctx context.Context, obj runtime.Object) error {
			r := obj.(*authzv1.SelfSubjectRulesReview)
			u, ok := request.UserFrom(ctx)
			if !ok {
				return apierrors.NewBadRequest("no user present on request")
			}
			if r.Spec.Namespace == "" {
				return apierrors.NewBadRequest("no namespace on request")
			}
			resources, others, incomplete, err := rules.RulesFor(ctx, u, r.Spec.Namespace)
			// Empty lists and no null: that is what clients are used to.
			r.Status = authzv1.SubjectRulesReviewStatus{
				Incomplete:       incomplete,
				ResourceRules:    []authzv1.ResourceRule{},
				NonResourceRules: []authzv1.NonResourceRule{},
			}
			if err != nil {
				r.Status.EvaluationError = err.Error()
			}
			for _, x := range resources {
				r.Status.ResourceRules = append(r.Status.ResourceRules, authzv1.ResourceRule{
					Verbs: x.GetVerbs(), APIGroups: x.GetAPIGroups(), Resources: x.GetResources(), ResourceNames: x.GetResourceNames()})
			}
			for _, x := range others {
				r.Status.NonResourceRules = append(r.Status.NonResourceRules, authzv1.NonResourceRule{
					Verbs: x.GetVerbs(), NonResourceURLs: x.GetNonResourceURLs()})
			}
			return nil
		},
	}
}

func decide(ctx context.Context, authz authorizer.UnconditionalAuthorizer, u user.Info, ra *authzv1.ResourceAttributes, nr *authzv1.NonResourceAttributes) authzv1.SubjectAccessReviewStatus {
	attrs := attributes(u, ra, nr)
	decision, reason, err := authz.Authorize(ctx, attrs)
	status := authzv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	if err = utilerrors.NewAggregate([]error{err, attrs.FieldSelectorParsingErr, attrs.LabelSelectorParsingErr}); err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func subject(s authzv1.SubjectAccessReviewSpec) user.Info {
	info := &user.DefaultInfo{Name: s.User, UID: s.UID, Groups: s.Groups}
	for k, v := range s.Extra {
		if info.Extra == nil {
			info.Extra = map[string][]string{}
		}
		info.Extra[k] = v
	}
	return info
}

func attributes(u user.Info, ra *authzv1.ResourceAttributes, nr *authzv1.NonResourceAttributes) authorizer.AttributesRecord {
	if ra == nil {
		return authorizer.AttributesRecord{User: u, Verb: nr.Verb, Path: nr.Path}
	}
	version := ra.Version
	if version == "" {
		version = "*"
	}
	a := authorizer.AttributesRecord{
		User: u, Verb: ra.Verb, Namespace: ra.Namespace, APIGroup: ra.Group, APIVersion: version,
		Resource: ra.Resource, Subresource: ra.Subresource, Name: ra.Name, ResourceRequest: true,
	}
	if f := ra.FieldSelector; f != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(f)
	}
	if l := ra.LabelSelector; l != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(l)
	}
	return a
}

// fieldRequirements leaves out what it does not understand, and says so: a selector only narrows a request, and judging
// a wider one errs on the safe side.
func fieldRequirements(f *authzv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if f.RawSelector != "" {
		s, err := fields.ParseSelector(f.RawSelector)
		if err != nil {
			return nil, err
		}
		return s.Requirements(), nil
	}
	var reqs fields.Requirements
	var errs []error
	for _, r := range f.Requirements {
		switch {
		case r.Operator != metav1.FieldSelectorOpIn && r.Operator != metav1.FieldSelectorOpNotIn:
			errs = append(errs, fmt.Errorf("field selector on %q: operator %q is not understood", r.Key, r.Operator))
		case len(r.Values) != 1:
			errs = append(errs, fmt.Errorf("field selector on %q: operator %q without a single value is not understood", r.Key, r.Operator))
		case r.Operator == metav1.FieldSelectorOpIn:
			reqs = append(reqs, fields.Requirement{Operator: selection.Equals, Field: r.Key, Value: r.Values[0]})
		default:
			reqs = append(reqs, fields.Requirement{Operator: selection.NotEquals, Field: r.Key, Value: r.Values[0]})
		}
	}
	return reqs, utilerrors.NewAggregate(errs)
}

func labelRequirements(l *authzv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if l.RawSelector != "" {
		s, err := labels.Parse(l.RawSelector)
		if err != nil {
			return nil, err
		}
		reqs, _ := s.Requirements()
		return reqs, nil
	}
	var all labels.Requirements
	var errs []error
	for _, r := range l.Requirements {
		s, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{r}})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reqs, _ := s.Requirements()
		all = append(all, reqs...)
	}
	return all, utilerrors.NewAggregate(errs)
}

func validateSubject(s authzv1.SubjectAccessReviewSpec, path *field.Path) field.ErrorList {
	errs := validateAttributes(s.ResourceAttributes, s.NonResourceAttributes, path)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(path.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(ra *authzv1.ResourceAttributes, nr *authzv1.NonResourceAttributes, path *field.Path) field.ErrorList {
	switch {
	case ra != nil && nr != nil:
		return field.ErrorList{field.Invalid(path.Child("nonResourceAttributes"), nr, "cannot be specified in combination with resourceAttributes")}
	case ra == nil && nr == nil:
		return field.ErrorList{field.Invalid(path.Child("resourceAttributes"), ra, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	case nr != nil:
		return nil
	}
	var errs field.ErrorList
	if f := ra.FieldSelector; f != nil {
		p := path.Child("resourceAttributes", "fieldSelector")
		errs = append(errs, oneForm(p, f.RawSelector, len(f.Requirements))...)
		// Newer clients may know more operators: what is not understood does not narrow the question.
		opts := metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, r := range f.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(r, opts, p.Child("requirements").Index(i))...)
		}
	}
	if l := ra.LabelSelector; l != nil {
		p := path.Child("resourceAttributes", "labelSelector")
		errs = append(errs, oneForm(p, l.RawSelector, len(l.Requirements))...)
		opts := metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, r := range l.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(r, opts, p.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// oneForm demands a selector in one of its two forms.
func oneForm(path *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}
