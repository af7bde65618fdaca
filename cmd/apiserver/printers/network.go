package printers

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// lowerKind names a kind as kubectl does: deployment.apps.
func lowerKind(gk schema.GroupKind) string { return strings.ToLower(gk.String()) }

func endpointSlicePrinter() printer {
	return newPrinter(columns("AddressType", "Ports", "Endpoints", "Age"), func(s *discoveryv1.EndpointSlice, now time.Time) []any {
		var ports, addresses []string
		for _, p := range s.Ports {
			switch {
			case p.Port != nil:
				ports = append(ports, strconv.Itoa(int(*p.Port)))
			case p.Name != nil:
				ports = append(ports, *p.Name)
			}
		}
		for _, e := range s.Endpoints {
			addresses = append(addresses, e.Addresses...)
		}
		return []any{s.Name, string(s.AddressType), atMost(ports, 3, ",", unset), atMost(addresses, 3, ",", unset), age(s, now)}
	})
}

func ingressPrinter() printer {
	return newPrinter(columns("Class", "Hosts", "Address", "Ports", "Age"), func(in *networkingv1.Ingress, now time.Time) []any {
		var hosts, addresses []string
		for _, r := range in.Spec.Rules {
			if r.Host != "" {
				hosts = append(hosts, r.Host)
			}
		}
		for _, a := range in.Status.LoadBalancer.Ingress {
			if a.IP != "" {
				addresses = append(addresses, a.IP)
			} else if a.Hostname != "" {
				addresses = append(addresses, a.Hostname)
			}
		}
		ports := "80"
		if len(in.Spec.TLS) > 0 {
			ports = "80, 443"
		}
		return []any{in.Name, deref(in.Spec.IngressClassName, none), atMost(hosts, 3, ",", "*"), strings.Join(sortedUnique(addresses), ","), ports, age(in, now)}
	})
}

func ingressClassPrinter() printer {
	return newPrinter(columns("Controller", "Parameters", "Age"), func(c *networkingv1.IngressClass, now time.Time) []any {
		parameters := none
		if p := c.Spec.Parameters; p != nil {
			parameters = p.Kind
			if p.APIGroup != nil {
				parameters += "." + *p.APIGroup
			}
			parameters += "/" + p.Name
		}
		return []any{c.Name, c.Spec.Controller, parameters, age(c, now)}
	})
}

func networkPolicyPrinter() printer {
	return newPrinter(columns("Pod-Selector", "Age"), func(p *networkingv1.NetworkPolicy, now time.Time) []any {
		return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(p, now)}
	})
}

func ipAddressPrinter() printer {
	return newPrinter(columns("ParentRef"), func(a *networkingv1.IPAddress, _ time.Time) []any {
		parent := none
		if p := a.Spec.ParentRef; p != nil {
			gr := schema.GroupResource{Group: p.Group, Resource: p.Resource}
			parent = fmt.Sprintf("%s/%s", gr, p.Name)
			if p.Namespace != "" {
				parent = fmt.Sprintf("%s/%s/%s", gr, p.Namespace, p.Name)
			}
		}
		return []any{a.Name, parent}
	})
}

func serviceCIDRPrinter() printer {
	return newPrinter(columns("CIDRs", "Age"), func(c *networkingv1.ServiceCIDR, now time.Time) []any {
		return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c, now)}
	})
}
