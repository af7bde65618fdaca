package services

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
)

// grace is how old a claim must be before Repair may think that its Service will never come.
const grace = time.Minute

// Repair makes claims and Services agree: it claims what Services have, and gives back what no Service has. now is
// the present.
func (a *Allocator) Repair(ctx context.Context, now time.Time) error {
	// Claims first: one that is made for a Service after the list of Services was read must not look orphaned.
	claims, err := a.ips.list(ctx)
	if err != nil {
		return fmt.Errorf("list claims of cluster IPs: %w", err)
	}
	obj, err := a.services.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	services := obj.(*corev1.ServiceList).Items
	missing, orphaned := planRepair(claims, services, now)
	var errs []error
	for ip, svc := range missing {
		if addr, err := netip.ParseAddr(ip); err == nil {
			_, err = a.ips.store.Create(ctx, claim(addr, svc.Namespace, svc.Name), rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
			errs = append(errs, err)
		}
	}
	for _, ip := range orphaned {
		a.ips.release(ctx, ip)
	}
	return errors.Join(append(errs, a.claimPorts(ctx, services))...)
}

// planRepair finds the addresses that Services have without a claim, and the claims that no Service stands behind.
func planRepair(claims []networkingv1.IPAddress, services []corev1.Service, now time.Time) (missing map[string]*corev1.Service, orphaned []string) {
	missing = map[string]*corev1.Service{}
	used := map[string]bool{}
	for i := range services {
		for ip := range heldBy(&services[i]).ips {
			missing[ip], used[ip] = &services[i], true
		}
	}
	for i := range claims {
		delete(missing, claims[i].Name)
		if !used[claims[i].Name] && now.Sub(claims[i].CreationTimestamp.Time) > grace {
			orphaned = append(orphaned, claims[i].Name)
		}
	}
	return missing, orphaned
}

// claimPorts sets the bits of all ports that Services have. A bit without a Service is cleared when two Repairs in a row
// saw it so: the first time, it may be of a Service about to be written.
func (a *Allocator) claimPorts(ctx context.Context, services []corev1.Service) error {
	used := map[int]bool{}
	for i := range services {
		for port := range heldBy(&services[i]).ports {
			if a.ports.span.Contains(port) {
				used[port-a.ports.span.Base] = true
			}
		}
	}
	suspects := map[int]bool{}
	err := a.ports.change(ctx, func(b *bitmap) error {
		clear(suspects)
		for n := range a.ports.span.Size {
			switch {
			case used[n]:
				b.set(n)
			case b.has(n) && a.suspects[n]:
				b.clear(n)
			case b.has(n):
				suspects[n] = true
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("claim node ports: %w", err)
	}
	a.suspects = suspects
	return nil
}
