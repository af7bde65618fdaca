package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/deployment"
	"github.com/orlop-io/orlop/cmd/controllers/disruption"
	"github.com/orlop-io/orlop/cmd/controllers/replicaset"
	"github.com/orlop-io/orlop/cmd/scheduler"
)

// program is one life of one of the programs.
type program struct {
	name string
	dead bool
	stop context.CancelFunc
	done sync.WaitGroup
}

type runner func(context.Context) error

// build returns what the program called name runs.
type build func(client, informers.SharedInformerFactory) ([]runner, error)

func controllers(c client, shared informers.SharedInformerFactory) ([]runner, error) {
	events, log := &record.FakeRecorder{}, slog.New(slog.DiscardHandler)
	d, err := deployment.New(c, shared, events, log)
	if err != nil {
		return nil, err
	}
	kind := replicaset.ReplicaSets(c, shared.Apps().V1().ReplicaSets())
	r, err := replicaset.New("replicaset", kind, c, shared.Core().V1().Pods(), events, log)
	if err != nil {
		return nil, err
	}
	b, err := disruption.New(c, disruption.Scales{}, shared, events, log)
	if err != nil {
		return nil, err
	}
	return []runner{d.Run, r.Run, b.Run}, nil
}

func placement(c client, shared informers.SharedInformerFactory) ([]runner, error) {
	recorders := map[string]record.EventRecorder{corev1.DefaultSchedulerName: &record.FakeRecorder{}}
	s, err := scheduler.New(scheduler.Defaults(), c, shared, recorders, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return []runner{s.Run}, nil
}

// start begins a life of the program, which knows nothing of earlier ones.
func start(w *world, name string, b build) *program {
	ctx, stop := context.WithCancel(context.Background())
	p := &program{name: name, stop: stop}
	c := client{world: w, from: p}
	shared := informers.NewSharedInformerFactory(c, 0)
	runners, err := b(c, shared)
	if err != nil {
		panic(fmt.Sprintf("build %s: %v", name, err)) // it depends on nothing that changes
	}
	shared.Start(ctx.Done())
	for _, run := range runners {
		p.done.Go(func() { _ = run(ctx) })
	}
	p.done.Go(func() { <-ctx.Done(); shared.Shutdown() })
	return p
}

// kill ends a life between two effects: what waits for an answer will never happen.
func (p *program) kill(w *world) {
	w.mu.Lock()
	p.dead = true
	var left []*call
	for _, c := range w.calls {
		if c.from != p {
			left = append(left, c)
			continue
		}
		c.err = errKilled
		close(c.done)
	}
	w.calls = left
	w.mu.Unlock()
	p.stop()
	p.done.Wait()
}
