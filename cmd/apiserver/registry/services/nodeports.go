package services

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// portBand is how many ports from the first on are left, while there is room elsewhere, to Services that name theirs:
// as upstream a thirty-second of the range, at least 16 and at most 128, and none of small ranges.
func portBand(span utilnet.PortRange) int {
	if span.Size <= 16 {
		return 0
	}
	return min(max(16, span.Size/32), 128)
}

// choose picks the wanted port, or for 0 any that is free and not in have; pick returns a number below its argument.
func choose(b *bitmap, span utilnet.PortRange, wanted int, have map[int]bool, pick func(int) int) (int, error) {
	if wanted != 0 {
		switch {
		case !span.Contains(wanted):
			return 0, fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", span.Base, span.Base+span.Size-1)
		case b.has(wanted - span.Base):
			return 0, errors.New("provided port is already allocated")
		}
		return wanted, nil
	}
	low := portBand(span)
	for _, part := range [][2]int{{low, span.Size}, {0, low}} {
		length := part[1] - part[0]
		if length == 0 {
			continue
		}
		start := pick(length)
		for i := range length {
			n := part[0] + (start+i)%length
			if !b.has(n) && !have[span.Base+n] {
				return span.Base + n, nil
			}
		}
	}
	return 0, errors.New("range is full")
}

// assignPorts fills in the node ports that s needs, and returns those that it did not have before. Nothing of b is
// changed.
func assignPorts(s *corev1.ServiceSpec, before map[int]bool, b *bitmap, span utilnet.PortRange, pick func(int) int) (map[int]bool, field.ErrorList) {
	have, taken := map[int]bool{}, map[int]bool{}
	for p := range before {
		have[p] = true
	}
	one := func(port *int32) error {
		wanted := int(*port)
		if wanted != 0 && have[wanted] {
			return nil // TCP and UDP of one Service may share a port
		}
		got, err := choose(b, span, wanted, have, pick)
		if err != nil {
			return err
		}
		*port, have[got], taken[got] = int32(got), true, true
		return nil
	}
	var errs field.ErrorList
	if needsNodePorts(s) {
		for _, i := range explicitFirst(s.Ports) {
			sharePort(s.Ports, i)
			p, at := &s.Ports[i].NodePort, field.NewPath("spec", "ports").Index(i).Child("nodePort")
			wanted := *p
			if err := one(p); err != nil && wanted != 0 {
				errs = append(errs, field.Invalid(at, wanted, err.Error()))
			} else if err != nil {
				errs = append(errs, field.InternalError(at, fmt.Errorf("failed to allocate a nodePort: %w", err)))
			}
		}
	}
	if needsHealthCheck(s) {
		at, wanted := field.NewPath("spec", "healthCheckNodePort"), s.HealthCheckNodePort
		if err := one(&s.HealthCheckNodePort); err != nil && wanted != 0 {
			errs = append(errs, field.Invalid(at, wanted, fmt.Sprintf("failed to allocate requested HealthCheck NodePort %v: %v", wanted, err)))
		} else if err != nil {
			errs = append(errs, field.InternalError(at, fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err)))
		}
	}
	return taken, errs
}

// explicitFirst orders the indexes of ports so that those that name a node port come before those that will be given
// one, and the given can never be a named one.
func explicitFirst(ports []corev1.ServicePort) []int {
	var named, open []int
	for i := range ports {
		if ports[i].NodePort != 0 {
			named = append(named, i)
		} else {
			open = append(open, i)
		}
	}
	return append(named, open...)
}

// sharePort gives port i the node port of another with the same number and another protocol, as DNS servers want it.
func sharePort(ports []corev1.ServicePort, i int) {
	if ports[i].NodePort != 0 {
		return
	}
	for j := range ports {
		if j != i && ports[j].Port == ports[i].Port && ports[j].Protocol != ports[i].Protocol && ports[j].NodePort != 0 {
			ports[i].NodePort = ports[j].NodePort
			return
		}
	}
}

// portsOf lists the node ports that a Service has.
func portsOf(s *corev1.ServiceSpec) map[int]bool {
	out := map[int]bool{}
	for _, p := range s.Ports {
		if p.NodePort != 0 {
			out[int(p.NodePort)] = true
		}
	}
	if s.HealthCheckNodePort != 0 {
		out[int(s.HealthCheckNodePort)] = true
	}
	return out
}
