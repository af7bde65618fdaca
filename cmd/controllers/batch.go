package controllers

import (
	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/cmd/controllers/cronjob"
	"github.com/orlop-io/orlop/cmd/controllers/ttlfinished"
)

// batch are the controllers that make and remove Jobs; the one that runs them is among the workloads.
func batch() []entry {
	return []entry{
		{name: "cronjob-controller", alias: "cronjob", account: "cronjob-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				cron, err := cronjob.New(c, e.shared, e.recorder("cronjob-controller"), e.log)
				return cron.Run, err
			})},
		{name: "ttl-after-finished-controller", alias: "ttl-after-finished", account: "ttl-after-finished-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				ttl, err := ttlfinished.New(c, e.shared, e.log)
				return ttl.Run, err
			})},
	}
}
