package validation

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

func TestServiceCIDRsOnlyGrow(t *testing.T) {
	cidr := func(blocks ...string) *networkingv1.ServiceCIDR {
		return &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: blocks}}
	}
	for _, tt := range []struct {
		name     string
		now, old *networkingv1.ServiceCIDR
		want     string
	}{
		{"the same", cidr("10.96.0.0/12"), cidr("10.96.0.0/12"), ""},
		{"dual-stack from now on", cidr("10.96.0.0/12", "fd00::/112"), cidr("10.96.0.0/12"), ""},
		{"a second block of the family", cidr("10.96.0.0/12", "10.0.0.0/16"), cidr("10.96.0.0/12"),
			"spec.cidrs: Invalid value: {\"cidrs\":[\"10.96.0.0/12\",\"10.0.0.0/16\"]}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96"},
		{"another block", cidr("10.0.0.0/8"), cidr("10.96.0.0/12"), "spec.cidrs[0]: Invalid value: \"10.0.0.0/8\": field is immutable"},
		{"one family less", cidr("10.96.0.0/12"), cidr("10.96.0.0/12", "fd00::/112"), "spec.cidrs: Invalid value: [\"10.96.0.0/12\"]: field is immutable"},
	} {
		if got := told(Update(tt.now, tt.old)); got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}
