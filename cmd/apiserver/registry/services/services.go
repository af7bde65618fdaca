// Package services serves Services, and gives them their cluster IPs and node ports.
//
// A cluster IP is taken by creating the IPAddress object of its name, a node port by setting its bit in one range
// object: both are single writes that only one of several API servers can win. Which addresses there are say the
// ServiceCIDR objects, as they are at the moment. Repair mends what a crash between such a write and that of the Service
// leaves behind.
package services

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// Resource describes services.
func Resource() *store.Resource {
	return &store.Resource{
		GV: corev1.SchemeGroupVersion, Kind: "Service", Plural: "services", Singular: "service", Short: []string{"svc"},
		Categories: []string{"all"}, Name: validation.NameIsDNSLabel, ReturnDeleted: true,
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
	// Families are the address families of cluster IPs, the default first. The ranges themselves are ServiceCIDRs.
	Families []corev1.IPFamily
	// NodePorts is the range of node ports.
	NodePorts utilnet.PortRange
}

// Stores are the storages that an Allocator works on.
type Stores struct {
	Services, Addresses, CIDRs *store.Storage
	// Ranges is a store of RangeAllocation objects; see NewRanges.
	Ranges *registry.Store
}

// Allocator gives and takes back addresses and ports.
type Allocator struct {
	families []corev1.IPFamily
	ips      *addresses
	ports    *ports
	// services lists all Services, for Repair.
	services *store.Storage
	// suspects are offsets of node ports that the last Repair found without a Service. Only Repair uses them.
	suspects map[int]bool
	tally    tally
}

// Allocate makes the storage of services give addresses and ports. ctx bounds what is given back after deletes.
func Allocate(ctx context.Context, cfg Config, s Stores) (*Allocator, error) {
	if len(cfg.Families) == 0 {
		return nil, errors.New("allocate cluster IPs: there is no address family")
	}
	a := &Allocator{
		families: cfg.Families, ips: &addresses{claims: s.Addresses, cidrs: s.CIDRs},
		ports: newPorts(cfg.NodePorts, s.Ranges), services: s.Services,
	}
	s.Services.BeginCreate = func(ctx context.Context, obj runtime.Object, o *metav1.CreateOptions) (registry.FinishFunc, error) {
		return a.begin(ctx, obj.(*corev1.Service), nil, dryrun.IsDryRun(o.DryRun))
	}
	s.Services.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, o *metav1.UpdateOptions) (registry.FinishFunc, error) {
		svc, was := obj.(*corev1.Service), old.(*corev1.Service)
		keepAllocated(&svc.Spec, &was.Spec)
		return a.begin(ctx, svc, was, dryrun.IsDryRun(o.DryRun))
	}
	s.Services.AfterDelete = func(obj runtime.Object, o *metav1.DeleteOptions) {
		if !dryrun.IsDryRun(o.DryRun) {
			svc := obj.(*corev1.Service)
			a.release(ctx, svc, slices.Collect(maps.Keys(ipsOf(&svc.Spec))), portsOf(&svc.Spec))
		}
	}
	return a, nil
}

// ipsOf lists the cluster IPs that a Service has.
func ipsOf(s *corev1.ServiceSpec) map[string]bool {
	out := map[string]bool{}
	if s.Type == corev1.ServiceTypeExternalName {
		return out
	}
	for _, text := range s.ClusterIPs {
		if ip, err := parseIP(text); err == nil {
			out[ip.String()] = true
		}
	}
	return out
}

// begin fills in what svc needs and takes it; the returned function gives back what turned out not to be needed: the
// new when the write failed, the old when it succeeded.
func (a *Allocator) begin(ctx context.Context, svc, old *corev1.Service, dry bool) (registry.FinishFunc, error) {
	was := &corev1.Service{}
	var before *corev1.ServiceSpec
	if old != nil {
		was, before = old, &old.Spec
	}
	if errs := setFamilies(&svc.Spec, before, a.families); len(errs) > 0 {
		return nil, refuse(svc, errs)
	}
	ips, err := a.takeIPs(ctx, svc, ipsOf(&was.Spec), dry)
	var taken map[int]bool
	if err == nil {
		taken, err = a.takePorts(ctx, svc, portsOf(&was.Spec), dry)
	}
	giveBack := func() { a.giveBack(context.WithoutCancel(ctx), svc, ips, taken) }
	if err != nil {
		giveBack()
		return nil, err
	}
	return func(ctx context.Context, success bool) {
		if !success {
			giveBack()
			return
		}
		a.ports.settle(taken)
		if !dry {
			a.release(context.WithoutCancel(ctx), svc, slices.Collect(maps.Keys(minus(ipsOf(&was.Spec), ipsOf(&svc.Spec)))),
				minus(portsOf(&was.Spec), portsOf(&svc.Spec)))
		}
	}, nil
}

func refuse(svc *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
}

// unmet says why an allocation that svc did not ask for in particular could not be made. What the store says of itself
// goes to the client as it is: it may be asked to try again.
func unmet(svc *corev1.Service, at *field.Path, what string, err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return refuse(svc, field.ErrorList{field.InternalError(at, fmt.Errorf("failed to allocate a %s: %w", what, err))})
}

// undoTimeout bounds what is done after a request has failed.
const undoTimeout = 10 * time.Second

// giveBack undoes what was taken for a write that failed. The failure may be a lost answer: what svc has in the store
// after all, it keeps, and where that cannot be found out, Repair decides later.
func (a *Allocator) giveBack(ctx context.Context, svc *corev1.Service, ips []string, ports map[int]bool) {
	defer a.ports.settle(ports)
	if len(ips) == 0 && len(ports) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(request.WithNamespace(ctx, svc.Namespace), undoTimeout)
	defer cancel()
	obj, err := a.services.Get(ctx, svc.Name, &metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		klog.FromContext(ctx).Error(err, "keep cluster IPs and node ports of a Service that may exist", "service", klog.KObj(svc), "ips", ips)
		return
	default:
		stored := obj.(*corev1.Service)
		has := ipsOf(&stored.Spec)
		ips = slices.DeleteFunc(slices.Clone(ips), func(ip string) bool { return has[ip] })
		ports = minus(ports, portsOf(&stored.Spec))
	}
	a.release(ctx, svc, ips, ports)
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

// takeIPs takes an address of each family that svc is to have, and returns what is new. In a dry run nothing is.
func (a *Allocator) takeIPs(ctx context.Context, svc *corev1.Service, before map[string]bool, dry bool) ([]string, error) {
	s := &svc.Spec
	if !needsClusterIP(s) {
		return nil, nil
	}
	at := field.NewPath("spec", "clusterIPs")
	// The client's slice may be that of the old object.
	s.ClusterIPs = slices.Clone(s.ClusterIPs)
	var taken []string
	keep := func(ip string) {
		if !dry {
			taken = append(taken, ip)
		}
	}
	for i, family := range s.IPFamilies {
		if i >= len(s.ClusterIPs) {
			ip, err := a.ips.next(ctx, svc, family, dry)
			a.countIP(ctx, ip, family, false, err, dry)
			if err != nil {
				return taken, unmet(svc, at, "serviceIP", err)
			}
			keep(ip.String())
			s.ClusterIPs = append(s.ClusterIPs, ip.String())
			continue
		}
		ip, err := parseIP(s.ClusterIPs[i])
		if err == nil && before[ip.String()] {
			continue
		}
		if err == nil {
			err = a.ips.take(ctx, ip, svc, dry)
			a.countIP(ctx, ip, family, true, err, dry)
		}
		var status apierrors.APIStatus
		switch {
		case errors.As(err, &status):
			return taken, err
		case err != nil:
			return taken, refuse(svc, field.ErrorList{field.Invalid(at, s.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %v", s.ClusterIPs[i], err))})
		}
		keep(ip.String())
	}
	s.ClusterIP = s.ClusterIPs[0]
	return taken, nil
}

// countIP counts an attempt in the range that has the address, or, where it got none, in the first of the family.
func (a *Allocator) countIP(ctx context.Context, ip netip.Addr, family corev1.IPFamily, static bool, err error, dry bool) {
	if dry {
		return
	}
	blocks, listErr := a.ips.blocks(ctx, family, cached)
	if listErr != nil {
		return
	}
	in := max(0, slices.IndexFunc(blocks, func(b block) bool { return ip.IsValid() && b.prefix.Contains(ip) }))
	a.tally.add(counted{cidr: blocks[in].prefix.String(), static: static, failed: err != nil})
}

// countPorts counts the ports that were taken for s, by whether s named them; an attempt that failed counts once.
func (a *Allocator) countPorts(s *corev1.ServiceSpec, taken map[int]bool, err error) {
	named := portsOf(s)
	if err != nil {
		a.tally.add(counted{static: len(named) > 0, failed: true})
	}
	for port := range taken {
		a.tally.add(counted{static: named[port]})
	}
}

// takePorts takes the node ports that svc is to have, and returns what is new. In a dry run nothing is.
func (a *Allocator) takePorts(ctx context.Context, svc *corev1.Service, before map[int]bool, dry bool) (map[int]bool, error) {
	if !wantsPorts(&svc.Spec, before) {
		return nil, nil
	}
	var filled *corev1.ServiceSpec
	var errs field.ErrorList
	taken, err := a.ports.take(ctx, dry, func(b *bitmap) (map[int]bool, error) {
		filled = svc.Spec.DeepCopy() // anew for each try
		var chosen map[int]bool
		if chosen, errs = assignPorts(filled, before, b, a.ports.span, rand.IntN); len(errs) > 0 {
			return nil, errs.ToAggregate()
		}
		return chosen, nil
	})
	if !dry {
		a.countPorts(&svc.Spec, taken, err)
	}
	switch {
	case len(errs) > 0:
		return nil, refuse(svc, errs)
	case err != nil:
		return nil, unmet(svc, field.NewPath("spec", "ports"), "nodePort", err)
	}
	svc.Spec = *filled
	return taken, nil
}

// wantsPorts says whether s is to have a port that it does not have: only then the range needs to be read.
func wantsPorts(s *corev1.ServiceSpec, before map[int]bool) bool {
	if needsNodePorts(s) {
		for _, p := range s.Ports {
			if !before[int(p.NodePort)] {
				return true
			}
		}
	}
	return needsHealthCheck(s) && !before[int(s.HealthCheckNodePort)]
}

func (a *Allocator) release(ctx context.Context, svc *corev1.Service, ips []string, ports map[int]bool) {
	for _, ip := range ips {
		a.ips.release(ctx, ip, svc.Namespace, svc.Name)
	}
	a.ports.release(ctx, ports)
}
