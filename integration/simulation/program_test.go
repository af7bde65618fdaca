package simulation

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/cronjob"
	"github.com/orlop-io/orlop/cmd/controllers/daemonset"
	"github.com/orlop-io/orlop/cmd/controllers/deployment"
	"github.com/orlop-io/orlop/cmd/controllers/disruption"
	"github.com/orlop-io/orlop/cmd/controllers/endpointslice"
	"github.com/orlop-io/orlop/cmd/controllers/garbage"
	"github.com/orlop-io/orlop/cmd/controllers/job"
	"github.com/orlop-io/orlop/cmd/controllers/loop"
	namespaces "github.com/orlop-io/orlop/cmd/controllers/namespace"
	"github.com/orlop-io/orlop/cmd/controllers/nodelifecycle"
	"github.com/orlop-io/orlop/cmd/controllers/podautoscaler"
	"github.com/orlop-io/orlop/cmd/controllers/podgc"
	"github.com/orlop-io/orlop/cmd/controllers/replicaset"
	"github.com/orlop-io/orlop/cmd/controllers/resourcequota"
	"github.com/orlop-io/orlop/cmd/controllers/statefulset"
	"github.com/orlop-io/orlop/cmd/controllers/tainteviction"
	"github.com/orlop-io/orlop/cmd/controllers/volumebinder"
	"github.com/orlop-io/orlop/cmd/controllers/volumeprotection"
	"github.com/orlop-io/orlop/cmd/scheduler"
)

// program is one life of one of the programs.
type program struct {
	name  string
	world *world
	// order is of what its caches list.
	order  uint64
	dead   bool
	stop   context.CancelFunc
	done   sync.WaitGroup
	caches *factory
	gates  map[string]*gate
	// panicked says what a controller caught.
	panicked string
}

type runner interface{ Run(context.Context) error }

// build makes a controller, or the scheduler.
type build func(client, informers.SharedInformerFactory, record.EventRecorder, *slog.Logger) (runner, error)

var builds = map[string]build{
	"cronjob": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return cronjob.New(c, shared, events, log)
	},
	"daemonset": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return daemonset.New(c, shared, events, log)
	},
	"deployment": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return deployment.New(c, shared, events, log)
	},
	"disruption": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return disruption.New(c, disruption.Scales{}, shared, events, log)
	},
	"endpointslice": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return endpointslice.New(c, shared, events, log)
	},
	"garbagecollector": func(c client, _ informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return garbage.New(c.Discovery(), c.from.follow, metaClient{c}, events, log), nil
	},
	"horizontalpodautoscaling": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return podautoscaler.New(podautoscaler.Clients{API: c, Scales: scaler{c}, Mapper: scalable(), Metrics: meter{c}}, podautoscaler.Defaults(), shared, events, log)
	},
	"job": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return job.New(c, shared, events, log)
	},
	"namespace": func(c client, shared informers.SharedInformerFactory, _ record.EventRecorder, log *slog.Logger) (runner, error) {
		return namespaces.New(c, metaClient{c}, shared.Core().V1().Namespaces(), log)
	},
	"nodelifecycle": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return nodelifecycle.New(lifecycle, c, shared, shared.Coordination().V1().Leases(), events, log)
	},
	"persistentvolume-binder": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return volumebinder.New(c, volumebinder.Recyclers{}, shared, events, log)
	},
	"podgc": func(c client, shared informers.SharedInformerFactory, _ record.EventRecorder, log *slog.Logger) (runner, error) {
		return podgc.New(c, shared, 0, log), nil
	},
	"pv-protection": func(c client, shared informers.SharedInformerFactory, _ record.EventRecorder, log *slog.Logger) (runner, error) {
		return volumeprotection.NewVolumes(c, shared, log)
	},
	"pvc-protection": func(c client, shared informers.SharedInformerFactory, _ record.EventRecorder, log *slog.Logger) (runner, error) {
		return volumeprotection.NewClaims(c, shared, log)
	},
	"replicaset": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		kind := replicaset.ReplicaSets(c, shared.Apps().V1().ReplicaSets())
		return replicaset.New("replicaset", kind, c, shared.Core().V1().Pods(), events, log)
	},
	"replicationcontroller": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		kind := replicaset.ReplicationControllers(c, shared.Core().V1().ReplicationControllers())
		return replicaset.New("replicationcontroller", kind, c, shared.Core().V1().Pods(), events, log)
	},
	"resourcequota":                 quotas(24 * time.Hour),
	"resourcequota, counting often": quotas(5 * time.Minute),
	"scheduler": func(c client, shared informers.SharedInformerFactory, _ record.EventRecorder, log *slog.Logger) (runner, error) {
		recorders := map[string]scheduler.Recorder{corev1.DefaultSchedulerName: &events.FakeRecorder{}}
		return scheduler.New(scheduler.Defaults(), c, shared, recorders, log)
	},
	"statefulset": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return statefulset.New(c, shared, events, log)
	},
	"taint-eviction": func(c client, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (runner, error) {
		return tainteviction.New(c, shared, events, log)
	},
}

// quotas counts everything anew every period.
func quotas(period time.Duration) build {
	return func(c client, shared informers.SharedInformerFactory, _ record.EventRecorder, log *slog.Logger) (runner, error) {
		return resourcequota.New(resourcequota.Clients{Act: c, Watch: c}, shared, period, log)
	}
}

// start begins a life of a program of these parts, which knows nothing of earlier ones.
func start(w *world, name string, parts []string, order uint64) *program {
	ctx, stop := context.WithCancel(context.Background())
	p := &program{name: name, world: w, order: order, stop: stop, gates: map[string]*gate{}}
	p.caches = &factory{from: p}
	c, log := client{world: w, from: p}, slog.New(alarm{slog.DiscardHandler, p})
	var runners []runner
	for _, part := range parts {
		r, err := builds[part](c, p.caches, &record.FakeRecorder{}, log)
		if err != nil {
			panic(fmt.Sprintf("build %s: %v", name, err)) // it depends on nothing that changes
		}
		runners = append(runners, r)
	}
	for _, r := range runners {
		p.done.Go(func() { _ = r.Run(loop.Paced(ctx, p.turn)) })
	}
	return p
}

// alarm hears of panics that controllers catch.
type alarm struct {
	slog.Handler
	from *program
}

func (a alarm) Enabled(context.Context, slog.Level) bool { return true }
func (a alarm) WithAttrs([]slog.Attr) slog.Handler       { return a }
func (a alarm) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		a.from.panicked = r.Message
		r.Attrs(func(at slog.Attr) bool { a.from.panicked += fmt.Sprint(" ", at); return true })
	}
	return nil
}

// kill ends a life between two effects: what waits for an answer will never happen.
func (p *program) kill() {
	w := p.world
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
	for _, g := range p.gates {
		for _, idle := range g.idle {
			close(idle)
		}
	}
	w.mu.Unlock()
	p.stop()
	p.done.Wait()
}

// gate is where a controller's workers wait for their turn.
type gate struct {
	name    string
	waiting func() int
	idle    []chan sight
}

type sightKey struct{}

// turn waits until the story lets a worker begin a sync.
func (p *program) turn(ctx context.Context, name string, waiting func() int) context.Context {
	p.world.mu.Lock()
	if p.dead {
		p.world.mu.Unlock()
		return ctx
	}
	g := p.gates[name]
	if g == nil {
		g = &gate{name: name, waiting: waiting}
		p.gates[name] = g
	}
	mine := make(chan sight, 1)
	g.idle = append(g.idle, mine)
	p.world.mu.Unlock()
	if s, ok := <-mine; ok {
		return context.WithValue(ctx, sightKey{}, &[]sight{s})
	}
	return ctx
}

// open lists the gates that have somebody waiting and something to do.
func (p *program) open() []*gate {
	var out []*gate
	for _, name := range slices.SortedFunc(maps.Keys(p.gates), cmp.Compare[string]) {
		if g := p.gates[name]; len(g.idle) > 0 && g.waiting() > 0 {
			out = append(out, g)
		}
	}
	return out
}

// admit lets one worker begin.
func (p *program) admit(g *gate) {
	first := g.idle[0]
	g.idle = g.idle[1:]
	first <- p.look()
}

// sight is what a program's caches show, by resource and name.
type sight map[string]map[string]object

func (p *program) look() sight {
	s := sight{}
	for _, in := range p.caches.informers {
		if in.of == "" {
			s[in.resource] = in.objects()
		}
	}
	return s
}
