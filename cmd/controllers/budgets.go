package controllers

import (
	"fmt"

	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/orlop-io/orlop/cmd/controllers/disruption"
	"github.com/orlop-io/orlop/cmd/controllers/nodettl"
	"github.com/orlop-io/orlop/cmd/controllers/resourcequota"
)

// budgets are the controllers that keep count of what others may spend, or keep.
func budgets() []entry {
	return []entry{
		{name: "resourcequota-controller", alias: "resourcequota", account: "resourcequota-controller",
			build: func(e *env, api *rest.Config) (runner, error) {
				act, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make client: %w", err)
				}
				watch, err := metadata.NewForConfig(e.api)
				if err != nil {
					return nil, fmt.Errorf("make metadata client: %w", err)
				}
				clients := resourcequota.Clients{Act: act, Watch: e.root, Metadata: watch}
				q, err := resourcequota.New(clients, e.shared, e.quotaPeriod, e.log)
				if err != nil {
					return nil, err
				}
				return q.Run, nil
			}},
		{name: "disruption-controller", alias: "disruption", account: "disruption-controller",
			build: func(e *env, api *rest.Config) (runner, error) {
				act, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make client: %w", err)
				}
				objects, err := dynamic.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make dynamic client: %w", err)
				}
				known := memory.NewMemCacheClient(act.Discovery())
				scales := disruption.Scales{Objects: objects, Discovery: known, Mapper: restmapper.NewDeferredDiscoveryRESTMapper(known)}
				d, err := disruption.New(act, scales, e.shared, e.recorder("controllermanager"), e.log)
				return d.Run, err
			}},
		{name: "ttl-controller", alias: "ttl", account: "ttl-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				t, err := nodettl.New(c, e.shared.Core().V1().Nodes(), e.log)
				return t.Run, err
			})},
	}
}
