package validation

import (
	"fmt"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// What a slice may hold at most.
const (
	maxEndpoints     = 1000
	maxSliceAddress  = 100
	maxSlicePorts    = 20000
	maxEndpointHints = 8
)

func endpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := oneOf(field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	at := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(at, len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, sliceEndpoint(&s.Endpoints[i], s.AddressType, at.Index(i))...)
	}
	return append(errs, slicePorts(s.Ports, field.NewPath("ports"))...)
}

func sliceEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(p.Child("addresses"), "must contain at least 1 address"))
	} else if len(e.Addresses) > maxSliceAddress {
		errs = append(errs, field.TooMany(p.Child("addresses"), len(e.Addresses), maxSliceAddress))
	}
	for i, a := range e.Addresses {
		errs = append(errs, sliceAddress(kind, a, p.Child("addresses").Index(i))...)
	}
	if e.NodeName != nil {
		errs = append(errs, nodeName(*e.NodeName, p.Child("nodeName"))...)
	}
	if e.Hostname != nil {
		errs = append(errs, invalid(p.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname))...)
	}
	if e.Hints == nil {
		return errs
	}
	zones, nodes := p.Child("hints", "forZones"), p.Child("hints", "forNodes")
	var zoneNames, nodeNames []string
	for i, z := range e.Hints.ForZones {
		zoneNames = append(zoneNames, z.Name)
		errs = append(errs, requiredName(zones.Index(i).Child("name"), z.Name, validation.IsValidLabelValue)...)
	}
	for i, n := range e.Hints.ForNodes {
		nodeNames = append(nodeNames, n.Name)
		errs = append(errs, requiredName(nodes.Index(i).Child("name"), n.Name, validation.IsDNS1123Subdomain)...)
	}
	errs = append(errs, hints(zoneNames, zones)...)
	return append(errs, hints(nodeNames, nodes)...)
}

// hints holds that hints are few and each is given once.
func hints(names []string, p *field.Path) field.ErrorList {
	if len(names) > maxEndpointHints {
		return field.ErrorList{field.TooMany(p, len(names), maxEndpointHints)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, n := range names {
		if seen.Has(n) {
			errs = append(errs, field.Duplicate(p.Index(i).Child("name"), n))
		}
		seen.Insert(n)
	}
	return errs
}

func sliceAddress(kind discoveryv1.AddressType, a string, p *field.Path) field.ErrorList {
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(p, a)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		errs := validation.IsValidIPForLegacyField(p, a, false, nil)
		if len(errs) == 0 && netutils.IsIPv6String(a) != (kind == discoveryv1.AddressTypeIPv6) {
			errs = append(errs, field.Invalid(p, a, fmt.Sprintf("must be an %s address", kind)))
		}
		return append(errs, specialIP(a, p)...)
	}
	return nil
}

func slicePorts(ports []discoveryv1.EndpointPort, p *field.Path) field.ErrorList {
	if len(ports) > maxSlicePorts {
		return field.ErrorList{field.TooMany(p, len(ports), maxSlicePorts)}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		at, name := p.Index(i), ""
		if port.Name != nil {
			name = *port.Name
		}
		if name != "" {
			errs = append(errs, invalid(at.Child("name"), name, validation.IsDNS1123Label(name))...)
		}
		if names.Has(name) {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names.Insert(name)
		if port.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, supported(at.Child("protocol"), *port.Protocol, protocols()...)...)
		}
		if port.Port != nil {
			errs = append(errs, portNumber(at.Child("port"), *port.Port)...)
		}
		if port.AppProtocol != nil {
			errs = append(errs, invalid(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName(*port.AppProtocol))...)
		}
	}
	return errs
}
