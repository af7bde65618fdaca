// Package elected runs a program of which only one copy in the cluster may work
// at a time.
//
// It owns what the controller manager and the scheduler have in common: waiting
// for the API server, the health and metrics port, and the Lease that decides
// which copy works. It knows nothing of the work. A copy gives its Lease back
// only when its work has ended, so that two copies never work at once.
package elected

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/orlop-io/orlop/cmd/memory"
)

// ErrLost says that another copy may hold the Lease now: the program must end.
var ErrLost = errors.New("leadership lost")

// Work is what the elected copy does until ctx ends.
type Work func(ctx context.Context, api *rest.Config) error

// Run waits for the API server, takes the Lease and runs work until ctx ends or
// the Lease is lost. The health port is open from the beginning.
func Run(ctx context.Context, cfg Config, log *slog.Logger, work Work) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	api, err := clientConfig(cfg.Master, cfg.Kubeconfig, cfg.Name)
	if err != nil {
		return err
	}
	api.QPS, api.Burst = cfg.QPS, cfg.Burst
	watchdog := leaderelection.NewLeaderHealthzAdaptor(20 * time.Second)
	srv, err := newServer(cfg, watchdog.Check, log)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.run(gctx) })
	if os.Getenv("GOGC") == "" {
		g.Go(func() error { memory.Pace(gctx, memory.Waiting(cfg.Room)); return nil })
	}
	g.Go(func() error {
		if err := waitForAPI(gctx, api, log); err != nil {
			return nil // ctx ended first: an ordinary shutdown
		}
		err := lead(gctx, cfg, api, watchdog, log, work)
		if err == nil && ctx.Err() == nil {
			err = errors.New("work ended by itself")
		}
		if err != nil {
			return err
		}
		return context.Canceled
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func clientConfig(master, kubeconfig, name string) (*rest.Config, error) {
	api, err := clientcmd.BuildConfigFromFlags(master, kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %q: %w", kubeconfig, err)
	}
	rest.AddUserAgent(api, name)
	api.WarningHandlerWithContext = rest.NoWarnings{} // of deprecated kinds, which are kept on purpose
	api.ContentType = "application/vnd.kubernetes.protobuf"
	// A stream's decompressor weighs 40 KiB here, and a compressor far more at the other end; the way is short.
	api.DisableCompression = true
	api.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return api, nil
}

// waitForAPI returns when the API server answers /healthz, or with ctx's error.
// Informers back off up to 30 s after failures, so nothing may start earlier.
func waitForAPI(ctx context.Context, api *rest.Config, log *slog.Logger) error {
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	told := false
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		status := 0
		res := client.Discovery().RESTClient().Get().AbsPath("/healthz").Do(try)
		res.StatusCode(&status)
		cancel()
		if status == http.StatusOK {
			return nil
		}
		if !told {
			log.Info("waiting for the API server", "server", api.Host, "err", res.Error())
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// lead runs work under the Lease, or at once where election is off.
func lead(ctx context.Context, cfg Config, api *rest.Config, watchdog *leaderelection.HealthzAdaptor,
	log *slog.Logger, work Work) error {
	if !cfg.LeaderElect {
		return work(ctx, api)
	}
	// The election outlives ctx until the work has ended; see the package comment.
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	working, cancelWork := context.WithCancel(ctx)
	defer cancelWork()

	started, done := make(chan struct{}), make(chan error, 1)
	elector, err := newElector(cfg, api, leaderelection.LeaderCallbacks{
		OnStartedLeading: func(context.Context) {
			close(started)
			log.Info("leading", "lease", cfg.LeaseNamespace+"/"+cfg.LeaseName)
			done <- work(working, api)
		},
		OnStoppedLeading: func() { cancelWork() },
	})
	if err != nil {
		return err
	}
	watchdog.SetLeaderElection(elector)
	ended := make(chan struct{})
	go func() { defer close(ended); elector.Run(electing) }()

	select {
	case <-ctx.Done():
		select {
		case <-started:
			err = <-done
		default:
		}
		stop()
		<-ended
		return err
	case err = <-done:
		stop()
		<-ended
		return err
	case <-ended:
		return ErrLost
	}
}

func newElector(cfg Config, api *rest.Config, calls leaderelection.LeaderCallbacks) (*leaderelection.LeaderElector, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read hostname: %w", err)
	}
	// A renewal must never wait behind the work's requests: a client of its own.
	own := rest.CopyConfig(api)
	own.QPS, own.Burst = -1, 0
	own.Timeout = cfg.RenewDeadline / 2
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(own, "leader-election"))
	if err != nil {
		return nil, fmt.Errorf("make client for the lease: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, cfg.LeaseNamespace, cfg.LeaseName,
		client.CoreV1(), client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())})
	if err != nil {
		return nil, fmt.Errorf("make lease lock: %w", err)
	}
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: cfg.LeaseName, Callbacks: calls, ReleaseOnCancel: true,
		LeaseDuration: cfg.LeaseDuration, RenewDeadline: cfg.RenewDeadline, RetryPeriod: cfg.RetryPeriod,
	})
}
