package api

import (
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// claimStatusTie allocates what the claim asks for.
func claimStatusTie(c *resourcev1.ResourceClaim, g *grower, _ string) {
	st := &c.Status
	if st.Allocation == nil {
		st.ReservedFor, st.Devices = nil, nil
		return
	}
	var names []string
	for _, r := range c.Spec.Devices.Requests {
		if r.Exactly != nil {
			names = append(names, r.Name)
		} else {
			names = append(names, r.Name+"/"+r.FirstAvailable[0].Name)
		}
	}
	st.Allocation.NodeSelector = oneTerm(st.Allocation.NodeSelector)
	for i := range st.Allocation.Devices.Config {
		st.Allocation.Devices.Config[i].Requests = names
	}
	results := st.Allocation.Devices.Results
	for i := range results {
		results[i].Request, results[i].Driver = names[i%len(names)], "none.example"
	}
	if len(results) == 0 {
		st.Devices = nil
	}
	for i := range st.Devices {
		d := &st.Devices[i]
		if i >= len(results) {
			st.Devices = st.Devices[:i]
			break
		}
		d.Driver, d.Pool, d.Device, d.ShareID = results[i].Driver, results[i].Pool, results[i].Device, (*string)(results[i].ShareID)
	}
}

func deviceTies() []any {
	return []any{
		func(r *resourcev1.DeviceRequest, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 || len(r.FirstAvailable) == 0 {
				r.FirstAvailable = nil
				if r.Exactly == nil {
					r.Exactly = &resourcev1.ExactDeviceRequest{DeviceClassName: g.word()}
				}
				return
			}
			r.Exactly = nil
		},
		func(r *resourcev1.ExactDeviceRequest, _ *grower, _ string) {
			if r.AllocationMode == resourcev1.DeviceAllocationModeAll {
				r.Count = 0
			}
		},
		func(r *resourcev1.DeviceSubRequest, _ *grower, _ string) {
			if r.AllocationMode == resourcev1.DeviceAllocationModeAll {
				r.Count = 0
			}
		},
		claimStatusTie,
		func(t *resourcev1.DeviceToleration, _ *grower, _ string) {
			if t.Operator == resourcev1.DeviceTolerationOpExists {
				t.Value = ""
			}
			if t.TolerationSeconds != nil {
				t.Effect = resourcev1.DeviceTaintEffectNoExecute
			}
		},
		func(c *resourcev1.DeviceClaim, _ *grower, _ string) {
			var names []string
			for _, r := range c.Requests {
				names = append(names, r.Name)
			}
			for i := range c.Constraints {
				c.Constraints[i].Requests = names
			}
			for i := range c.Config {
				c.Config[i].Requests = names
			}
		},
		func(a *resourcev1.DeviceAttribute, g *grower, path string) {
			*a = []resourcev1.DeviceAttribute{{IntValue: new(int64(7))}, {BoolValue: new(true)}, {StringValue: new(g.word())}, {VersionValue: new("1.2.3-a.1")}}[g.turn(path+"?", 4)]
		},
		func(p *resourcev1.CapacityRequestPolicy, g *grower, path string) {
			p.Default = new(apiresource.MustParse("2"))
			if g.turn(path+"?", 2) == 0 {
				p.ValidRange, p.ValidValues = nil, []apiresource.Quantity{apiresource.MustParse("1"), apiresource.MustParse("2")}
			} else {
				p.ValidRange, p.ValidValues = &resourcev1.CapacityRequestPolicyRange{Min: new(apiresource.MustParse("1")), Max: new(apiresource.MustParse("5")), Step: new(apiresource.MustParse("1"))}, nil
			}
		},
		// Without it the server would fill in its own, another at each writing.
		func(t *resourcev1.DeviceTaint, _ *grower, _ string) {
			if t.TimeAdded == nil {
				t.TimeAdded = new(metav1.NewTime(time.Unix(1e9, 0)))
			}
		},
		func(c *resourcev1.DeviceCapacity, _ *grower, _ string) { c.Value = apiresource.MustParse("9") },
		func(m *resourcev1.NodeAllocatableMapping, g *grower, path string) {
			if m.CapacityKey != nil && g.turn(path+"?", 2) == 0 {
				m.DeviceMultiplier = nil
			} else {
				m.CapacityKey, m.CapacityMultiplier, m.DeviceMultiplier = nil, nil, new(apiresource.MustParse("2"))
			}
		},
		func(d *resourcev1.Device, g *grower, path string) { deviceTie(d, g, path) },
		func(s *resourcev1.ResourceSliceSpec, g *grower, path string) { sliceTie(s, g, path) },
	}
}

func oneTerm(s *corev1.NodeSelector) *corev1.NodeSelector {
	if s != nil {
		s.NodeSelectorTerms = s.NodeSelectorTerms[:1]
	}
	return s
}

func deviceTie(d *resourcev1.Device, g *grower, path string) {
	for _, c := range d.Capacity {
		if c.RequestPolicy != nil {
			d.AllowMultipleAllocations = new(true) // nobody asks for a part of what is not shared
		}
	}
	d.NodeSelector = oneTerm(d.NodeSelector)
	switch g.turn(path+"?", 3) {
	case 0:
		d.NodeName, d.NodeSelector, d.AllNodes = new(g.word()), nil, nil
	case 1:
		d.NodeName, d.AllNodes = nil, nil
		if d.NodeSelector == nil {
			d.AllNodes = new(true)
		}
	default:
		d.NodeName, d.NodeSelector, d.AllNodes = nil, nil, new(true)
	}
}

// sliceTie makes slices of four sorts: for a node, for nodes by a selector, for all, and with nodes by the device; and
// one of the last with counters and no devices.
func sliceTie(s *resourcev1.ResourceSliceSpec, g *grower, path string) {
	sort := g.turn(path+"?", 5)
	name, selector := s.NodeName, oneTerm(s.NodeSelector)
	if name == nil {
		name = new("node")
	}
	if selector == nil {
		sort = 0
	}
	s.NodeName, s.NodeSelector, s.AllNodes, s.PerDeviceNodeSelection = nil, nil, nil, nil
	switch sort {
	case 0:
		s.NodeName = name
	case 1:
		s.NodeSelector = selector
	case 2:
		s.AllNodes = new(true)
	default:
		s.PerDeviceNodeSelection = new(true)
	}
	if sort == 4 {
		s.Devices = nil
		return
	}
	s.SharedCounters = nil
	if sort != 3 {
		for i := range s.Devices {
			s.Devices[i].NodeName, s.Devices[i].NodeSelector, s.Devices[i].AllNodes = nil, nil, nil
		}
	}
}

func policyTies() []any {
	return []any{
		func(c *admissionregistrationv1.WebhookClientConfig, g *grower, path string) {
			switch {
			case c.URL == nil && c.Service == nil:
				c.URL = new("https://nowhere.invalid/")
			case c.URL != nil && g.turn(path+"?", 2) == 0:
				c.Service = nil
			case c.Service != nil:
				c.URL = nil
			}
		},
		func(r *admissionregistrationv1.Rule, _ *grower, _ string) {
			r.APIGroups, r.APIVersions, r.Resources = []string{"none.example"}, []string{"v1"}, []string{"nothings", "nothings/status"}
		},
		func(r *admissionregistrationv1.RuleWithOperations, g *grower, path string) {
			r.Operations = [][]admissionregistrationv1.OperationType{{"CREATE", "UPDATE"}, {"DELETE"}, {"CONNECT"}}[g.turn(path+"?", 3)]
		},
		func(m *admissionregistrationv1.Mutation, _ *grower, _ string) {
			if m.PatchType == admissionregistrationv1.PatchTypeApplyConfiguration {
				m.JSONPatch = nil
			} else {
				m.ApplyConfiguration = nil
			}
		},
		func(p *admissionregistrationv1.ParamRef, g *grower, path string) {
			if p.Selector == nil || g.turn(path+"?", 2) == 0 {
				p.Name, p.Selector = g.word(), nil
			} else {
				p.Name = ""
			}
			if p.ParameterNotFoundAction == nil {
				p.ParameterNotFoundAction = new(admissionregistrationv1.DenyAction)
			}
		},
		func(d *apiextensionsv1.CustomResourceDefinition, g *grower, _ string) { definitionTie(d, g) },
		func(c *apiextensionsv1.WebhookClientConfig, g *grower, path string) {
			switch {
			case c.URL == nil && c.Service == nil:
				c.URL = new("https://nowhere.invalid/")
			case c.URL != nil && g.turn(path+"?", 2) == 0:
				c.Service = nil
			case c.Service != nil:
				c.URL = nil
			}
		},
	}
}

// definitionTie makes two versions, of which one is stored.
func definitionTie(d *apiextensionsv1.CustomResourceDefinition, g *grower) {
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		v.Name, v.Storage, v.Served = fmt.Sprintf("v%d", i+1), i == 0, true
		if !v.Deprecated {
			v.DeprecationWarning = nil
		}
		if s := v.Schema; s == nil || s.OpenAPIV3Schema == nil {
			v.Schema = &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: new(schemaOf(g))}
		}
		v.SelectableFields = v.SelectableFields[:min(1, len(v.SelectableFields))]
		if i > 0 {
			v.SelectableFields = nil // the library refuses the same in two versions with different schemas
		}
		if v.Subresources != nil && v.Subresources.Scale != nil {
			v.Subresources.Scale.SpecReplicasPath, v.Subresources.Scale.StatusReplicasPath = ".spec.replicas", ".status.replicas"
		}
	}
	if c := d.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.NoneConverter {
		c.Webhook = nil
	}
	if c := d.Spec.Conversion; c != nil && c.Webhook != nil {
		if c.Webhook.ClientConfig == nil {
			c.Webhook.ClientConfig = &apiextensionsv1.WebhookClientConfig{URL: new("https://nowhere.invalid/")}
		}
		c.Webhook.ConversionReviewVersions = []string{"v1", "v1beta1"}
	}
}

// schemaOf is a schema with every word that a structural one may have.
func schemaOf(g *grower) apiextensionsv1.JSONSchemaProps {
	type schema = apiextensionsv1.JSONSchemaProps
	json := func(s string) apiextensionsv1.JSON { return apiextensionsv1.JSON{Raw: []byte(s)} }
	rule := apiextensionsv1.ValidationRule{Rule: "self == oldSelf || self != 'never'", Message: "m " + g.word(), Reason: new(apiextensionsv1.FieldValueForbidden)}
	text := schema{Type: "string", Title: g.word(), Default: new(json(`"abc"`)), Example: new(json(`"abc"`)), MinLength: new(int64(1)), MaxLength: new(int64(30)), Pattern: "^[a-z]+$", Nullable: true,
		XValidations: apiextensionsv1.ValidationRules{rule}, ExternalDocs: &apiextensionsv1.ExternalDocumentation{Description: g.word(), URL: "https://none.example/"}}
	optional := schema{Type: "string", Format: "date-time", XValidations: apiextensionsv1.ValidationRules{{Rule: "!oldSelf.hasValue() || true", OptionalOldSelf: new(true)}}}
	number := schema{Type: "number", Minimum: new(1.5), Maximum: new(9.5), ExclusiveMinimum: true, ExclusiveMaximum: true, MultipleOf: new(0.5)}
	list := schema{Type: "array", MinItems: new(int64(1)), MaxItems: new(int64(5)), XListType: new("map"), XListMapKeys: []string{"k"}, Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &schema{
		Type: "object", Required: []string{"k"}, Properties: map[string]schema{"k": {Type: "string"}}}}}
	open := schema{Type: "object", MinProperties: new(int64(1)), MaxProperties: new(int64(5)), AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &schema{Type: "string"}}, XMapType: new("granular")}
	embedded := schema{Type: "object", XEmbeddedResource: true, XPreserveUnknownFields: new(true)}
	both := schema{XIntOrString: true, AnyOf: []schema{{Type: "integer"}, {Type: "string"}}}
	spec := schema{Type: "object", Required: []string{"name"}, Properties: map[string]schema{"name": {Type: "string", MaxLength: new(int64(20)), Enum: []apiextensionsv1.JSON{json(`"a"`), json(`"b"`)}}, "text": text, "optional": optional,
		"number": number, "list": list, "open": open, "embedded": embedded, "both": both, "replicas": {Type: "integer", Format: "int32"}},
		AllOf: []schema{{Required: []string{"name"}}}, OneOf: []schema{{Required: []string{"name"}}}, Not: &schema{Required: []string{"never"}},
		XValidations: apiextensionsv1.ValidationRules{{Rule: "self.name != 'x'", MessageExpression: "'not ' + self.name", FieldPath: ".name"}}}
	status := schema{Type: "object", Properties: map[string]schema{"replicas": {Type: "integer"}, "selector": {Type: "string"}}}
	return schema{Type: "object", Description: g.word(), Properties: map[string]schema{"spec": spec, "status": status}}
}
