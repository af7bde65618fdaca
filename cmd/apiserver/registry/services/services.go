// Package services serves Services, and gives them their cluster IPs and node ports.
//
// A cluster IP is taken by creating the IPAddress object of its name, a node port by setting its bit in one range
// object: both are single writes that only one of several API servers can win. Repair mends what a crash between
// such a write and that of the Service leaves behind.
package services

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// Resource describes services.
func Resource() *store.Resource {
	return &store.Resource{
		GV: corev1.SchemeGroupVersion, Kind: "Service", Plural: "services", Singular: "service", Short: []string{"svc"},
		Categories: []string{"all"}, Name: validation.NameIsDNS1035Label, ReturnDeleted: true,
		Fields: func(obj runtime.Object) fields.Set {
			svc := obj.(*corev1.Service)
			return fields.Set{"spec.clusterIP": svc.Spec.ClusterIP, "spec.type": string(svc.Spec.Type)}
		},
		PrepareUpdate: func(_ context.Context, obj, old runtime.Object) {
			keepAllocated(&obj.(*corev1.Service).Spec, &old.(*corev1.Service).Spec)
		},
	}
}

// Config says what services may be given.
type Config struct {
	// ClusterIPs is the range of cluster IPs.
	ClusterIPs netip.Prefix
	// NodePorts is the range of node ports.
	NodePorts utilnet.PortRange
}

// Allocator gives and takes back addresses and ports.
type Allocator struct {
	ips   *addresses
	ports *ports
	// services lists all Services, for Repair.
	services *store.Storage
	// suspects are offsets of node ports that the last Repair found without a Service. Only Repair uses them.
	suspects map[int]bool
}

// Allocate makes the storage of services give addresses and ports. ips is the storage of IPAddress objects and ranges
// a store of RangeAllocation objects. ctx bounds what is given back after deletes.
func Allocate(ctx context.Context, cfg Config, services, ips *store.Storage, ranges *registry.Store) *Allocator {
	a := &Allocator{
		ips:      &addresses{prefix: cfg.ClusterIPs.Masked(), store: ips},
		ports:    &ports{span: cfg.NodePorts, ranges: ranges},
		services: services,
	}
	services.BeginCreate = func(ctx context.Context, obj runtime.Object, o *metav1.CreateOptions) (registry.FinishFunc, error) {
		return a.begin(ctx, obj.(*corev1.Service), nil, dryrun.IsDryRun(o.DryRun))
	}
	services.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, o *metav1.UpdateOptions) (registry.FinishFunc, error) {
		keepAllocated(&obj.(*corev1.Service).Spec, &old.(*corev1.Service).Spec)
		return a.begin(ctx, obj.(*corev1.Service), old.(*corev1.Service), dryrun.IsDryRun(o.DryRun))
	}
	services.AfterDelete = func(obj runtime.Object, o *metav1.DeleteOptions) {
		if !dryrun.IsDryRun(o.DryRun) {
			held := heldBy(obj.(*corev1.Service))
			a.release(ctx, held.ips, held.ports)
		}
	}
	return a
}

// holding is what a Service has of the two ranges.
type holding struct {
	ips   map[string]bool
	ports map[int]bool
}

func heldBy(svc *corev1.Service) holding {
	h := holding{map[string]bool{}, map[int]bool{}}
	if svc == nil {
		return h
	}
	if svc.Spec.Type != corev1.ServiceTypeExternalName {
		for _, ip := range svc.Spec.ClusterIPs {
			if ip != "" && ip != corev1.ClusterIPNone {
				h.ips[ip] = true
			}
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			h.ports[int(p.NodePort)] = true
		}
	}
	if svc.Spec.HealthCheckNodePort != 0 {
		h.ports[int(svc.Spec.HealthCheckNodePort)] = true
	}
	return h
}

// begin fills in what svc needs and takes it; the returned function gives back what turned out not to be needed: the
// new when the write failed, the old when it succeeded.
func (a *Allocator) begin(ctx context.Context, svc, old *corev1.Service, dry bool) (registry.FinishFunc, error) {
	if errs := setFamilies(&svc.Spec, a.ips.prefix.Addr().Is6()); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
	}
	before := heldBy(old)
	taken := holding{map[string]bool{}, map[int]bool{}}
	giveBack := func() { a.release(context.WithoutCancel(ctx), taken.ips, taken.ports) }
	errs := a.takeIP(ctx, svc, before, taken, dry)
	if len(errs) == 0 {
		errs = a.takePorts(ctx, svc, before, taken, dry)
	}
	if len(errs) > 0 {
		giveBack()
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
	}
	after := heldBy(svc)
	return func(ctx context.Context, success bool) {
		if !success {
			giveBack()
			return
		}
		if !dry {
			a.release(context.WithoutCancel(ctx), minus(before.ips, after.ips), minus(before.ports, after.ports))
		}
	}, nil
}

func minus[K comparable](a, b map[K]bool) map[K]bool {
	out := map[K]bool{}
	for k := range a {
		if !b[k] {
			out[k] = true
		}
	}
	return out
}

func (a *Allocator) takeIP(ctx context.Context, svc *corev1.Service, before, taken holding, dry bool) field.ErrorList {
	if !needsClusterIP(&svc.Spec) {
		return nil
	}
	at := field.NewPath("spec", "clusterIPs")
	if len(svc.Spec.ClusterIPs) == 0 {
		ip, err := a.ips.next(ctx, svc, dry)
		if err != nil {
			return field.ErrorList{field.InternalError(at, fmt.Errorf("failed to allocate a serviceIP: %w", err))}
		}
		if !dry {
			taken.ips[ip] = true
		}
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = ip, []string{ip}
		return nil
	}
	ip := svc.Spec.ClusterIPs[0]
	if before.ips[ip] {
		return nil
	}
	if err := a.ips.take(ctx, ip, svc, dry); err != nil {
		return field.ErrorList{field.Invalid(at, svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %v", ip, err))}
	}
	if !dry {
		taken.ips[ip] = true
	}
	return nil
}

func (a *Allocator) takePorts(ctx context.Context, svc *corev1.Service, before, taken holding, dry bool) field.ErrorList {
	have := map[int]bool{} // of this Service, whether taken now or before
	for p := range before.ports {
		have[p] = true
	}
	one := func(port *int32, at *field.Path) *field.Error {
		wanted := int(*port)
		if wanted != 0 && have[wanted] {
			return nil // TCP and UDP of one Service may share a port
		}
		got, err := a.ports.take(ctx, wanted, have, dry)
		if err != nil && wanted != 0 {
			return field.Invalid(at, *port, err.Error())
		} else if err != nil {
			return field.InternalError(at, fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		*port, have[got] = int32(got), true
		if !dry {
			taken.ports[got] = true
		}
		return nil
	}
	var errs field.ErrorList
	if needsNodePorts(&svc.Spec) {
		for _, i := range explicitFirst(svc.Spec.Ports) {
			sharePort(svc.Spec.Ports, i)
			if err := one(&svc.Spec.Ports[i].NodePort, field.NewPath("spec", "ports").Index(i).Child("nodePort")); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if needsHealthCheck(&svc.Spec) {
		if err := one(&svc.Spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort")); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func (a *Allocator) release(ctx context.Context, ips map[string]bool, portSet map[int]bool) {
	for ip := range ips {
		a.ips.release(ctx, ip)
	}
	if len(portSet) > 0 {
		a.ports.release(ctx, portSet)
	}
}
