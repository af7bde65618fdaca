package controllers

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/cmd/controllers/resourcequota"
)

// budgets are the controllers that keep count of what others may spend.
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
	}
}
