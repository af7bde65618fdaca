package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// grace is how old a claim must be before Repair may think that its Service will never come: no request lives as long.
const grace = time.Minute

// Event tells an object's owner what Repair found.
type Event struct {
	// Object is a Service or an IPAddress.
	Object       runtime.Object
	Reason, Note string
}

// Repair makes claims and Services agree: it claims what Services have, gives back what no Service has, and tells of
// what it cannot mend. now is the present. It must not run twice at once.
func (a *Allocator) Repair(ctx context.Context, now time.Time, tell func(Event)) error {
	return errors.Join(a.repairAddresses(ctx, now, tell), a.repairPorts(ctx, tell))
}

func (a *Allocator) listServices(ctx context.Context) ([]corev1.Service, error) {
	obj, err := a.services.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	list := obj.(*corev1.ServiceList).Items
	slices.SortStableFunc(list, func(x, y corev1.Service) int {
		return cmp.Or(x.CreationTimestamp.Compare(y.CreationTimestamp.Time), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return list, nil
}

func (a *Allocator) repairAddresses(ctx context.Context, now time.Time, tell func(Event)) error {
	// Claims first: one that is made for a Service after the list of Services was read must not look leaked.
	claims, err := a.ips.list(ctx)
	if err != nil {
		return err
	}
	services, err := a.listServices(ctx)
	if err != nil {
		return err
	}
	var ranges []block
	for _, f := range a.families {
		blocks, err := a.ips.blocks(ctx, f, newest)
		if err != nil && !errors.Is(err, errNotReady) {
			return err
		}
		ranges = append(ranges, blocks...)
	}
	var errs []error
	for _, step := range planAddresses(claims, services, ranges, now) {
		if step.event.Reason != "" {
			tell(step.event)
		}
		if step.drop != nil {
			if err := a.ips.drop(ctx, step.drop); err != nil {
				errs = append(errs, fmt.Errorf("give back cluster IP %s: %w", step.drop.Name, err))
				continue
			}
		}
		if step.create != nil {
			err := a.ips.create(ctx, step.create)
			if err != nil && !apierrors.IsAlreadyExists(err) {
				errs = append(errs, fmt.Errorf("claim cluster IP %s: %w", step.create.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// step is one thing to mend, or only to tell: drop comes before create.
type step struct {
	drop   *networkingv1.IPAddress
	create *networkingv1.IPAddress
	event  Event
}

// planAddresses compares claims with what Services have. services are ordered: of two that have one address and no
// claim, the earlier is right.
func planAddresses(claims []networkingv1.IPAddress, services []corev1.Service, ranges []block, now time.Time) []step {
	claimed := map[string]*networkingv1.IPAddress{}
	for i := range claims {
		claimed[claims[i].Name] = &claims[i]
	}
	holders := map[string][]*corev1.Service{}
	var order []string
	var out []step
	say := func(svc *corev1.Service, reason, format string, args ...any) {
		out = append(out, step{event: Event{svc, reason, fmt.Sprintf(format, args...)}})
	}
	for i := range services {
		svc := &services[i]
		for _, text := range svc.Spec.ClusterIPs {
			if !needsClusterIP(&svc.Spec) {
				break
			}
			ip, err := parseIP(text)
			if err != nil {
				say(svc, "ClusterIPNotValid", "Cluster IP %s is not a valid IP; please recreate service", text)
				continue
			}
			if !slices.ContainsFunc(ranges, func(b block) bool { return b.prefix.Contains(ip) }) {
				say(svc, "ClusterIPOutOfRange", "Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", familyOf(ip), ip)
			}
			if holders[ip.String()] == nil {
				order = append(order, ip.String())
			}
			holders[ip.String()] = append(holders[ip.String()], svc)
		}
	}
	for _, ip := range order {
		out = append(out, planAddress(ip, claimed[ip], holders[ip])...)
	}
	for i := range claims {
		c := &claims[i]
		if ours(c) && holders[c.Name] == nil && now.Sub(c.CreationTimestamp.Time) > grace {
			ref := cmp.Or(c.Spec.ParentRef, &networkingv1.ParentReference{})
			out = append(out, step{drop: c, event: Event{c, "IPAddressNotAllocated",
				fmt.Sprintf("IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", c.Name, ref.Namespace, ref.Name)}})
		}
	}
	return out
}

// planAddress mends the claim of one address that Services have.
func planAddress(ip string, claim *networkingv1.IPAddress, holders []*corev1.Service) []step {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil // it was made from an address
	}
	owner := -1
	for i, svc := range holders {
		if claim != nil && of(claim, svc.Namespace, svc.Name) {
			owner = i
		}
	}
	var out []step
	switch first := holders[0]; {
	case owner >= 0:
	case claim == nil:
		owner = 0
		out = append(out, step{create: claimOf(addr, first.Namespace, first.Name), event: Event{first, "ClusterIPNotAllocated",
			fmt.Sprintf("Cluster IP [%v]: %s is not allocated; repairing", familyOf(addr), ip)}})
	case ours(claim):
		// It names a Service that does not have the address (any more).
		owner = 0
		ref := cmp.Or(claim.Spec.ParentRef, &networkingv1.ParentReference{})
		out = append(out, step{drop: claim, create: claimOf(addr, first.Namespace, first.Name), event: Event{claim, "IPAddressWrongReference",
			fmt.Sprintf("IPAddress: %s for Service %s/%s has a wrong reference; cleaning up", ip, ref.Namespace, ref.Name)}})
	}
	for i, svc := range holders {
		if i != owner {
			out = append(out, step{event: Event{svc, "ClusterIPAlreadyAllocated",
				fmt.Sprintf("Cluster IP [%v]: %s was assigned to multiple services; please recreate service", familyOf(addr), ip)}})
		}
	}
	return out
}

// repairPorts sets the bits of all ports that Services have. A bit without a Service is cleared when two Repairs in a row
// saw it so, and no request of this process is about to write its Service: another server's may be.
func (a *Allocator) repairPorts(ctx context.Context, tell func(Event)) error {
	var suspects map[int]bool
	var events []Event
	err := a.ports.change(ctx, func(b *bitmap) error {
		// In this order: a Service that is settled before this is in the list, and the bits cannot change unseen.
		unsettled := a.ports.unsettledNow()
		services, err := a.listServices(ctx)
		if err != nil {
			return err
		}
		suspects, events = planPorts(b, services, a.ports.span.Base, a.ports.span.Size, unsettled, a.suspects)
		return nil
	})
	if err != nil {
		return fmt.Errorf("claim node ports: %w", err)
	}
	a.suspects = suspects
	for _, e := range events {
		tell(e)
	}
	return nil
}

// planPorts mends b, and returns the offsets that are set without a Service for the first time.
func planPorts(b *bitmap, services []corev1.Service, base, size int, unsettled map[int]int, before map[int]bool) (map[int]bool, []Event) {
	var events []Event
	owner := map[int]*corev1.Service{}
	for i := range services {
		svc := &services[i]
		for _, port := range sorted(portsOf(&svc.Spec)) {
			n := port - base
			switch {
			case n < 0 || n >= size:
				events = append(events, Event{svc, "PortOutOfRange",
					fmt.Sprintf("Port %d is not within the port range %d-%d; please recreate service", port, base, base+size-1)})
				continue
			case owner[n] != nil:
				events = append(events, Event{svc, "PortAlreadyAllocated", fmt.Sprintf("Port %d was assigned to multiple services; please recreate service", port)})
				continue
			case !b.has(n):
				events = append(events, Event{svc, "PortNotAllocated", fmt.Sprintf("Port %d is not allocated; repairing", port)})
			}
			owner[n] = svc
			b.set(n)
		}
	}
	suspects := map[int]bool{}
	for n := range size {
		switch {
		case !b.has(n) || owner[n] != nil || unsettled[base+n] > 0:
		case before[n]:
			b.clear(n)
		default:
			suspects[n] = true
		}
	}
	return suspects, events
}

func sorted(set map[int]bool) []int {
	var out []int
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
