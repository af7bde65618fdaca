package validation

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func coreRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *corev1.Pod:
		return kind(pod, podUpdate, podStatus), true
	case *corev1.PodTemplate:
		return kind(func(t *corev1.PodTemplate) field.ErrorList {
			return podTemplate(&t.Template, field.NewPath("template"))
		}, nil, nil), true
	case *corev1.Service:
		return kind(service, serviceUpdate, serviceStatus), true
	case *corev1.Endpoints:
		return kind(endpoints, nil, nil), true
	case *corev1.Namespace:
		return kind(namespace, nil, namespaceStatus), true
	case *corev1.PersistentVolume:
		return kind(persistentVolume, persistentVolumeUpdate, persistentVolumeStatus), true
	case *corev1.PersistentVolumeClaim:
		return kind(claim, claimUpdate, claimStatus), true
	case *corev1.Node:
		return kind(node, nodeUpdate, nodeStatus), true
	case *corev1.ConfigMap:
		return kind(configMap, configMapUpdate, nil), true
	case *corev1.Secret:
		return kind(secret, secretUpdate, nil), true
	case *corev1.ServiceAccount:
		return kind(func(*corev1.ServiceAccount) field.ErrorList { return nil }, nil, nil), true
	case *corev1.Event:
		return kind(event, nil, nil), true
	case *corev1.LimitRange:
		return kind(limitRange, nil, nil), true
	case *corev1.ResourceQuota:
		return kind(quota, quotaUpdate, quotaStatus), true
	case *corev1.ReplicationController:
		return kind(replicationController, nil, func(c, _ *corev1.ReplicationController) field.ErrorList {
			return replicaCounts(c.Status.Replicas, c.Status.FullyLabeledReplicas, c.Status.ReadyReplicas, c.Status.AvailableReplicas, c.Status.ObservedGeneration)
		}), true
	case *corev1.Binding:
		return kind(binding, nil, nil), true
	}
	return rules{}, false
}

func nodeName(name string, p *field.Path) field.ErrorList {
	return invalid(p, name, validation.IsDNS1123Subdomain(name))
}

func binding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	return append(errs, required(field.NewPath("target", "name"), b.Target.Name)...)
}

func namespace(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, f := range n.Spec.Finalizers {
		errs = append(errs, apivalidation.ValidateFinalizerName(string(f), spec().Child("finalizers").Index(i))...)
	}
	return errs
}

func namespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	switch {
	case n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(status().Child("phase"), n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(status().Child("phase"), n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

func node(n *corev1.Node) field.ErrorList {
	errs := taints(n.Spec.Taints, spec().Child("taints"))
	families := map[bool]bool{}
	for i, cidr := range n.Spec.PodCIDRs {
		at := spec().Child("podCIDRs").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, cidr, false, nil)...)
		six := isIPv6CIDR(cidr)
		if i > 1 || families[six] {
			errs = append(errs, field.Invalid(spec().Child("podCIDRs"), n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
			break
		}
		families[six] = true
	}
	return append(errs, nodeStatus(n, nil)...)
}

func taints(list []corev1.Taint, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[identity]()
	for i, t := range list {
		at := p.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		errs = append(errs, invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
		errs = append(errs, taintEffect(t.Effect, at.Child("effect"))...)
		if seen.Has(identity{t.Key, t.Effect}) {
			bad := field.Duplicate(at, t)
			bad.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, bad)
		}
		seen.Insert(identity{t.Key, t.Effect})
	}
	return errs
}

// nodeUpdate lets a node's pod CIDRs and provider be set once.
func nodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := node(n)
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec().Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec().Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if n.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(n.Spec.ConfigSource, old.Spec.ConfigSource) {
		errs = append(errs, field.Forbidden(spec().Child("configSource"), "configSource is not supported, dynamic kubelet config has been removed"))
	}
	return errs
}

func nodeStatus(n, _ *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.NodeAddress]()
	for i, a := range n.Status.Addresses {
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(status().Child("addresses").Index(i), a))
		}
		seen.Insert(a)
	}
	for _, list := range []struct {
		name      string
		resources corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for name, q := range list.resources {
			errs = append(errs, resourceQuantity(status().Child(list.name).Key(string(name)), name, q)...)
		}
	}
	return errs
}

// maxDataSize is how much a ConfigMap or a Secret may hold.
const maxDataSize = 1 << 20

func configMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	total := 0
	for k, v := range c.Data {
		errs = append(errs, invalid(field.NewPath("data").Key(k), k, validation.IsConfigMapKey(k))...)
		if _, twice := c.BinaryData[k]; twice {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(k), k, "duplicate of key present in binaryData"))
		}
		total += len(v)
	}
	for k, v := range c.BinaryData {
		errs = append(errs, invalid(field.NewPath("binaryData").Key(k), k, validation.IsConfigMapKey(k))...)
		total += len(v)
	}
	if total > maxDataSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxDataSize))
	}
	return errs
}

func configMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	errs := configMap(c)
	if old.Immutable == nil || !*old.Immutable {
		return errs
	}
	if c.Immutable == nil || !*c.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
	}
	if !maps.Equal(c.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
	}
	if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
		errs = append(errs, field.Forbidden(field.NewPath("binaryData"), "field is immutable when `immutable` is set"))
	}
	return errs
}

func secret(s *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	data := field.NewPath("data")
	total := 0
	for k, v := range s.Data {
		errs = append(errs, invalid(data.Key(k), k, validation.IsConfigMapKey(k))...)
		total += len(v)
	}
	if total > maxDataSize {
		errs = append(errs, field.TooLong(data, "", maxDataSize))
	}
	return append(errs, secretType(s, data)...)
}

// secretType demands the keys that a secret of its type must have.
func secretType(s *corev1.Secret, data *field.Path) field.ErrorList {
	var errs field.ErrorList
	need := func(keys ...string) {
		for _, k := range keys {
			if _, ok := s.Data[k]; !ok {
				errs = append(errs, field.Required(data.Key(k), ""))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		need(corev1.DockerConfigKey)
		errs = append(errs, jsonValue(s.Data, corev1.DockerConfigKey, data)...)
	case corev1.SecretTypeDockerConfigJson:
		need(corev1.DockerConfigJsonKey)
		errs = append(errs, jsonValue(s.Data, corev1.DockerConfigJsonKey, data)...)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			errs = append(errs, field.Required(data.Key(corev1.BasicAuthUsernameKey), ""), field.Required(data.Key(corev1.BasicAuthPasswordKey), ""))
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

func secretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := immutable(field.NewPath("type"), s.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(s.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
	}
	return append(errs, secret(s)...)
}

func event(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if e.EventTime.IsZero() {
		// An event of the old shape: its namespace is that of what it is about.
		if e.InvolvedObject.Namespace != "" && e.Namespace != e.InvolvedObject.Namespace {
			errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace"))
		}
		return errs
	}
	errs = append(errs, required(field.NewPath("reportingController"), e.ReportingController)...)
	errs = append(errs, required(field.NewPath("reportingInstance"), e.ReportingInstance)...)
	errs = append(errs, required(field.NewPath("action"), e.Action)...)
	errs = append(errs, required(field.NewPath("reason"), e.Reason)...)
	if len(e.Message) > 1024 {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", "can have at most 1024 characters"))
	}
	return errs
}

func limitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	types := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], spec().Child("limits").Index(i)
		if types.Has(item.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		types.Insert(item.Type)
		if item.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		if item.Type == corev1.LimitTypePod && len(item.Default) > 0 {
			errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
		}
		if item.Type == corev1.LimitTypePod && len(item.DefaultRequest) > 0 {
			errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
		}
		if item.Type == corev1.LimitTypePersistentVolumeClaim && len(item.Min)+len(item.Max) == 0 {
			errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
		errs = append(errs, limitOrder(item, at)...)
	}
	return errs
}

// limitOrder holds min <= default request <= default <= max.
func limitOrder(item *corev1.LimitRangeItem, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	lists := []struct {
		name, text string
		values     corev1.ResourceList
	}{{"min", "min", item.Min}, {"defaultRequest", "default request", item.DefaultRequest}, {"default", "default", item.Default}, {"max", "max", item.Max}}
	for i, low := range lists {
		for name, q := range low.values {
			errs = append(errs, resourceQuantity(p.Child(low.name).Key(string(name)), name, q)...)
			for _, high := range lists[i+1:] {
				if limit, ok := high.values[name]; ok && q.Cmp(limit) > 0 {
					errs = append(errs, field.Invalid(p.Child(low.name).Key(string(name)), q.String(),
						fmt.Sprintf("%s value %s is greater than %s value %s", low.text, q.String(), high.text, limit.String())))
				}
			}
		}
	}
	return errs
}

func quota(q *corev1.ResourceQuota) field.ErrorList {
	errs := quotaList(q.Spec.Hard, spec().Child("hard"))
	for i, s := range q.Spec.Scopes {
		errs = append(errs, quotaScope(s, spec().Child("scopes").Index(i))...)
	}
	if q.Spec.ScopeSelector == nil {
		return errs
	}
	for i, r := range q.Spec.ScopeSelector.MatchExpressions {
		at := spec().Child("scopeSelector", "matchExpressions").Index(i)
		errs = append(errs, quotaScope(r.ScopeName, at.Child("scopeName"))...)
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		}
	}
	return errs
}

func quotaScope(s corev1.ResourceQuotaScope, p *field.Path) field.ErrorList {
	return oneOf(p, s, corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass)
}

func quotaList(l corev1.ResourceList, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range l {
		errs = append(errs, invalid(p.Key(string(name)), name, validation.IsQualifiedName(string(name)))...)
		errs = append(errs, resourceQuantity(p.Key(string(name)), name, q)...)
	}
	return errs
}

func quotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := quota(q)
	scopes := func(s []corev1.ResourceQuotaScope) sets.Set[corev1.ResourceQuotaScope] { return sets.New(s...) }
	if !scopes(q.Spec.Scopes).Equal(scopes(old.Spec.Scopes)) {
		errs = append(errs, field.Invalid(spec().Child("scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg))
	}
	return append(errs, immutable(spec().Child("scopeSelector"), q.Spec.ScopeSelector, old.Spec.ScopeSelector)...)
}

func quotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	return append(quotaList(q.Status.Hard, status().Child("hard")), quotaList(q.Status.Used, status().Child("used"))...)
}
