package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func endpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i := range e.Subsets {
		errs = append(errs, endpointSubset(&e.Subsets[i], field.NewPath("subsets").Index(i))...)
	}
	return errs
}

func endpointSubset(s *corev1.EndpointSubset, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
		errs = append(errs, field.Required(p, "must specify `addresses` or `notReadyAddresses`"))
	}
	for i := range s.Addresses {
		errs = append(errs, endpointAddress(&s.Addresses[i], p.Child("addresses").Index(i))...)
	}
	for i := range s.NotReadyAddresses {
		errs = append(errs, endpointAddress(&s.NotReadyAddresses[i], p.Child("notReadyAddresses").Index(i))...)
	}
	for i, port := range s.Ports {
		at := p.Child("ports").Index(i)
		if port.Name == "" && len(s.Ports) > 1 {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else if port.Name != "" {
			errs = append(errs, invalid(at.Child("name"), port.Name, validation.IsDNS1123Label(port.Name))...)
		}
		errs = append(errs, portNumber(at.Child("port"), port.Port)...)
		errs = append(errs, oneOf(at.Child("protocol"), port.Protocol, protocols()...)...)
		if port.AppProtocol != nil {
			errs = append(errs, invalid(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName(*port.AppProtocol))...)
		}
	}
	return errs
}

func endpointAddress(a *corev1.EndpointAddress, p *field.Path) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(p.Child("ip"), a.IP, false, nil)
	sound := len(errs) == 0
	if a.Hostname != "" {
		errs = append(errs, invalid(p.Child("hostname"), a.Hostname, validation.IsDNS1123Label(a.Hostname))...)
	}
	if a.NodeName != nil {
		errs = append(errs, nodeName(*a.NodeName, p.Child("nodeName"))...)
	}
	if sound {
		errs = append(errs, specialIP(a.IP, p.Child("ip"))...)
	}
	return errs
}
