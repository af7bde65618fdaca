package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/apiserver/controlplane"
	"github.com/orlop-io/orlop/cmd/apiserver/rbac"
	"github.com/orlop-io/orlop/cmd/apiserver/registry"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/services"
)

// startTimeout is how long a task of the start is tried again before the server gives up.
const startTimeout = 60 * time.Second

// task is something the server must have done once to be ready, and then keeps doing if again is not zero.
type task struct {
	name  string
	once  func(ctx context.Context) error
	again time.Duration
}

// addHooks makes the server's own objects after it has started. It is ready when all exist.
func (b *base) addHooks(ctx context.Context, s *genericapiserver.GenericAPIServer, c *genericapiserver.Config, api *registry.API) error {
	ranges, err := b.options.serviceRanges()
	if err != nil {
		return err
	}
	legacyregistry.CustomMustRegister(api.Allocator.Collector(ctx))
	tasks := []task{
		{"start-system-namespaces-controller", func(ctx context.Context) error { return controlplane.EnsureNamespaces(ctx, b.client) }, time.Minute},
		{"scheduling/bootstrap-system-priority-classes", func(ctx context.Context) error { return controlplane.EnsurePriorityClasses(ctx, b.client) }, 0},
		{"start-cluster-authentication-info-controller", func(ctx context.Context) error {
			return controlplane.EnsureTrust(ctx, b.client, b.access.trust)
		}, time.Minute},
		{"start-legacy-token-tracking-controller", func(ctx context.Context) error {
			return controlplane.EnsureTokenTracking(ctx, b.client, time.Now())
		}, time.Minute},
		{"start-kubernetes-service-cidr-controller", func(ctx context.Context) error {
			return controlplane.EnsureServiceCIDR(ctx, b.client, ranges)
		}, renewal},
		{"start-service-ip-repair-controllers", func(ctx context.Context) error {
			return api.Allocator.Repair(ctx, time.Now(), b.tellRepair(ctx))
		}, 3 * time.Minute},
	}
	if b.options.Features.EnablePriorityAndFairness {
		tasks = append(tasks, task{"priority-and-fairness-config-producer", func(ctx context.Context) error {
			return controlplane.EnsureFlowControl(ctx, b.client)
		}, time.Minute})
	}
	if b.options.guarded() {
		tasks = append(tasks, task{"rbac/bootstrap-roles", func(ctx context.Context) error {
			return rbac.EnsureBootstrapPolicy(ctx, b.client)
		}, 0})
	}
	for _, t := range tasks {
		if err := s.AddPostStartHook(t.name, t.hook); err != nil {
			return fmt.Errorf("add start hook: %w", err)
		}
	}
	if err := s.AddPostStartHook("network-policy-notices", func(h genericapiserver.PostStartHookContext) error {
		go b.unenforced.Run(h)
		return nil
	}); err != nil {
		return fmt.Errorf("add start hook: %w", err)
	}
	return b.addSelf(ctx, s, c, ranges[0])
}

// tellRepair writes what the repair of addresses and ports finds into events.
func (b *base) tellRepair(ctx context.Context) func(services.Event) {
	return func(e services.Event) {
		if err := controlplane.Warn(ctx, b.client, "service-ip-repair-controller", e.Object, e.Reason, e.Note); err != nil {
			klog.FromContext(ctx).Error(err, "write event", "reason", e.Reason, "note", e.Note)
		}
	}
}

func (t task) hook(h genericapiserver.PostStartHookContext) error {
	var last error
	err := wait.PollUntilContextTimeout(h, 50*time.Millisecond, startTimeout, true, func(ctx context.Context) (bool, error) {
		last = t.once(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w (%v)", t.name, err, last)
	}
	if t.again > 0 {
		go wait.UntilWithContext(h, func(ctx context.Context) {
			if err := t.once(ctx); err != nil {
				klog.FromContext(ctx).Error(err, "repeat start task", "task", t.name)
			}
		}, t.again)
	}
	return nil
}

// renewal is how often the server says that it lives; three may be lost before others drop it from the endpoints.
const renewal = 5 * time.Second

// addSelf keeps the Service default/kubernetes.
func (b *base) addSelf(ctx context.Context, s *genericapiserver.GenericAPIServer, c *genericapiserver.Config, prefix netip.Prefix) error {
	leases, err := controlplane.NewLeases(c.RESTOptionsGetter)
	if err != nil {
		return err
	}
	self := &controlplane.Self{
		Client: b.client, Leases: leases, Address: b.options.Run.AdvertiseAddress, Port: b.options.Serving.BindPort,
		ClusterIP: prefix.Addr().Next().String(),
	}
	publish := b.options.EndpointReconciler == reconcileLease
	t := task{"bootstrap-controller", func(ctx context.Context) error {
		if err := controlplane.EnsureNamespaces(ctx, b.client); err != nil {
			return err
		}
		if err := self.EnsureService(ctx); err != nil || !publish {
			return err
		}
		return self.Sync(ctx)
	}, renewal}
	if err := s.AddPostStartHook(t.name, t.hook); err != nil {
		return fmt.Errorf("add start hook: %w", err)
	}
	return s.AddPreShutdownHook("stop-kubernetes-service-controller", func() error {
		defer leases.Destroy()
		if !publish {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return self.Leave(ctx)
	})
}
