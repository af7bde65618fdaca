package kubelet

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/kubelet/server"
)

// serve answers on the network until ctx ends: at first without an API server to ask about
// callers, who are turned away then, but health is told; and anew once there is one.
func (k *Kubelet) serve(ctx context.Context) error {
	first, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-k.sync.connected:
			stop()
		case <-first.Done():
		}
	}()
	if err := k.serveOnce(first); ctx.Err() != nil || first.Err() == nil {
		return err
	}
	return k.serveOnce(ctx)
}

func (k *Kubelet) serveOnce(ctx context.Context) error {
	cfg := k.cfg.Server
	cfg.NodeName, cfg.Runtime, cfg.Pods, cfg.Health = k.cfg.Node, k.rt, k.pods, k.health
	cfg.RootDir, cfg.Log, cfg.Storage = k.cfg.RootDir, k.log, k.storage
	probes := prometheus.NewRegistry()
	probes.MustRegister(k.counts)
	cfg.Metrics, cfg.ProbeMetrics = k.metrics.registry, probes
	if c := k.sync.conn.Load(); c != nil {
		cfg.Auth.Client = c.client
	}
	s, err := server.New(cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// pods are all pods known here, as they are now.
func (k *Kubelet) pods() []*v1.Pod {
	var out []*v1.Pod
	for _, w := range k.all() {
		v := w.shown.Load()
		p := *v.state.Pod // its parts are shared, and nobody changes them
		p.Status = v.status
		out = append(out, &p)
	}
	return out
}

// health is nil while the kubelet does its work. A runtime that is away makes the node not ready,
// not the kubelet unhealthy: to restart it would not help.
func (k *Kubelet) health() error {
	if k.ctx.Err() != nil {
		return errors.New("kubelet is stopping")
	}
	return nil
}
