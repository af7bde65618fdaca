// Package kubelet runs pods on this node.
//
// It joins the parts: sources of pods (a directory, the API server), one worker per pod that owns
// the pod's lifecycle.State and carries out what lifecycle.Step asks for, runtime events, probes,
// and what is told to the API server. Nothing here polls where an event is to be had, and no pod
// waits for another. A kubelet without an API server, or with one that is away, runs pods all the
// same.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/orlop-io/orlop/cri"
	"github.com/orlop-io/orlop/kubelet/cgroups"
	"github.com/orlop-io/orlop/kubelet/environ"
	"github.com/orlop-io/orlop/kubelet/events"
	"github.com/orlop-io/orlop/kubelet/eviction"
	"github.com/orlop-io/orlop/kubelet/imagegc"
	"github.com/orlop-io/orlop/kubelet/images"
	"github.com/orlop-io/orlop/kubelet/images/access"
	"github.com/orlop-io/orlop/kubelet/manifests"
	"github.com/orlop-io/orlop/kubelet/node"
	"github.com/orlop-io/orlop/kubelet/probe"
	"github.com/orlop-io/orlop/kubelet/report"
	"github.com/orlop-io/orlop/kubelet/server"
	"github.com/orlop-io/orlop/kubelet/volumes"
)

// Config says what kubelet this is. All paths are absolute.
type Config struct {
	// Node is the node's name.
	Node string
	// NodeIPs are the node's addresses, the primary one first.
	NodeIPs []string
	// RootDir holds what the kubelet makes for pods, normally /var/lib/kubelet.
	RootDir string
	// PodLogsDir and ContainerLogsDir are normally /var/log/pods and /var/log/containers.
	PodLogsDir, ContainerLogsDir string
	// ManifestDir holds static pods; empty means none.
	ManifestDir string
	// Endpoint and ImageEndpoint are the runtime's sockets.
	Endpoint, ImageEndpoint string
	// CgroupDriver is cgroupfs or systemd, where the runtime does not say which it uses. CgroupRoot is the cgroup above
	// kubepods.
	CgroupDriver, CgroupRoot string
	// CPUQuota enforces CPU limits over CPUPeriod.
	CPUQuota  bool
	CPUPeriod time.Duration
	// PodPids bounds each pod's processes; below 1 no bound.
	PodPids int64
	// ClusterDNS and ClusterDomain are told to pods; ResolvConf is the node's resolver file.
	ClusterDNS    []string
	ClusterDomain string
	ResolvConf    string
	// SeccompDefault gives pods without a profile the runtime's default.
	SeccompDefault bool
	// ParallelPulls bounds image pulls at once; below 0 no bound, 0 the default.
	ParallelPulls int
	// LogMaxSize and LogMaxFiles bound each container's logs; they are looked at every LogEvery.
	LogMaxSize  int64
	LogMaxFiles int
	LogEvery    time.Duration
	// LogWorkers is how many logs are moved aside and packed at once.
	LogWorkers int
	// OOMScore is the kubelet's own, where it may set that.
	OOMScore int
	// FailCgroupV1 refuses to run where only cgroup v1 has controllers.
	FailCgroupV1 bool
	// ImageGC is when images are removed. PauseImage stays, where the runtime does not name the image of sandboxes itself.
	ImageGC    imagegc.Policy
	PauseImage string
	// ShownImages is how many images the node's status lists; below 0 all.
	ShownImages int
	// BoundPods keeps all pods together within what the node has without what is reserved. Reserved cgroups, which must
	// exist, are bounded to their part.
	BoundPods bool
	Reserved  []Reservation
	// CrashMax bounds the wait before a container that crashes is started again; 0 is 5 minutes.
	CrashMax time.Duration
	// UnsafeSysctls are those that pods may set beside the safe ones, by name or as prefix*. DefaultSysctls are set in
	// every pod that has the namespaces for them and does not say otherwise.
	UnsafeSysctls  []string
	DefaultSysctls map[string]string
	// KillSingly lets the kernel kill one process of a container that is out of memory, on cgroup v2.
	KillSingly bool
	// VerifyImages says which images that are there need a pod's credentials, FreeImages which do not; see images/access.
	VerifyImages kubeletconfig.ImagePullCredentialsVerificationPolicy
	FreeImages   []string
	// PullQPS and PullBurst bound how often registries are asked for an image; 0 is no bound.
	PullQPS   float32
	PullBurst int
	// Eviction is when pods are ended because the node is short of something.
	Eviction eviction.Config
	// Registration is what the node says of itself.
	Registration node.Config
	// Server is what the kubelet answers on the network; what the kubelet itself knows is filled in.
	Server server.Config
	// ParallelStarts bounds sandboxes and containers being made at once, and as many being ended; 0 is twice the processors,
	// at least 4. More only make each slower, fewer leave the machine idle while the runtime waits for the disk.
	ParallelStarts int
	// Connect waits until there are credentials and gives clients that tell asked of each request; nil without an API server.
	Connect func(ctx context.Context, asked func(method, host, code string)) (Clients, error)
	// Served keeps the serving certificate through the client until ctx ends; nil if nothing is to be kept.
	Served func(context.Context, kubernetes.Interface)
	// Metrics are served beside the kubelet's own.
	Metrics []prometheus.Collector
	// Version is the version told to the API, probed servers and users.
	Version string
}

// Clients reach the API server, each with a bound of its own on how often: what a crowd of pods asks for must hold up
// neither what is told of them nor the node's sign of life.
type Clients struct {
	// API is for all that is not for the others.
	API, Statuses, Events, Heartbeats kubernetes.Interface
}

// Reservation is a part of the node that is kept for programs that are not pods.
type Reservation struct {
	// Name is system or kube, for messages.
	Name, Cgroup string
	Amount       v1.ResourceList
	// CPUOnly bounds nothing whose lack would end programs.
	CPUOnly bool
}

// Kubelet runs pods.
type Kubelet struct {
	cfg     Config
	log     *slog.Logger
	rt      *cri.Client
	puller  *images.Puller
	access  *access.Records
	vols    *volumes.Volumes
	trees   []cgroups.Hierarchy
	groups  *cgroups.Cgroups
	probes  *probe.Probes
	counts  *probe.Metrics
	metrics *metrics
	hooks   probe.Hooks
	events  *events.Recorder
	reports *report.Reporter
	images  collector
	facts   node.Machine
	// capacity is all that the node has, allocatable what pods may count on. Set when Run begins.
	capacity, allocatable v1.ResourceList
	dns                   environ.Resolver
	network               *gate
	starts, ends          *slots
	sync                  *apiSide

	// restored is closed when the runtime was listed for the first time.
	restored chan struct{}
	// short is what the node is short of, and imageDir where images are; nil while not known.
	short    atomic.Pointer[[]v1.NodeConditionType]
	imageDir atomic.Pointer[string]

	// answered is when the runtime answered last.
	answered atomic.Pointer[time.Time]
	// runtimeStatus is what the runtime said of itself then; nil before.
	runtimeStatus atomic.Pointer[runtimeapi.StatusResponse]

	// counting: pods' storage is being counted.
	counting atomic.Bool

	mu      sync.Mutex
	workers map[types.UID]*worker
	// found are pods of the runtime that no source has named yet.
	found map[types.UID]*remains
	// owners tells whose a sandbox or container id is.
	owners map[string]types.UID
	// queued are static pods that wait for the end of one with the same name.
	queued map[string]*v1.Pod
	// ending counts the names whose orphans are being ended.
	ending     map[string]int
	staticRead bool
	group      sync.WaitGroup // of workers and other goroutines bound to Run's ctx
	ctx        context.Context
}

// New checks cfg and makes a kubelet that has touched nothing yet.
func New(cfg Config, log *slog.Logger) (*Kubelet, error) {
	k := &Kubelet{cfg: cfg, log: log, network: newGate(), restored: make(chan struct{}),
		workers: map[types.UID]*worker{}, found: map[types.UID]*remains{}, owners: map[string]types.UID{},
		queued: map[string]*v1.Pod{}, ending: map[string]int{}}
	if cfg.ParallelStarts <= 0 {
		cfg.ParallelStarts = max(4, 2*goruntime.NumCPU())
	}
	k.starts = newStarts(cfg.ParallelStarts)
	k.ends = newEnds(cfg.ParallelStarts, k.starts)
	k.counts, k.metrics = probe.NewMetrics(), newMetrics(k)
	k.metrics.registry.MustRegister(cfg.Metrics...)
	var errs []error
	if cfg.Node == "" {
		errs = append(errs, errors.New("node has no name"))
	}
	if len(cfg.NodeIPs) == 0 {
		errs = append(errs, errors.New("node has no address: give --node-ip"))
	}
	var err error
	if k.rt, err = cri.New(cri.Config{Endpoint: cfg.Endpoint, ImageEndpoint: cfg.ImageEndpoint, Observe: k.metrics.called}); err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	if k.facts, err = node.Inspect(); err != nil {
		errs = append(errs, err)
	}
	if cfg.FailCgroupV1 && !k.facts.CgroupV2 {
		errs = append(errs, errors.New("kubelet is configured to not run on a host using cgroup v1"))
	}
	trees, err := cgroups.Discover()
	errs = append(errs, err)
	k.trees = trees
	k.groups, err = k.cgroupsBy(cgroups.Driver(cfg.CgroupDriver))
	errs = append(errs, err)
	if err == nil { // a machine that is shared by several nodes gives each a part
		_, part, err := k.groups.Machine()
		errs = append(errs, err)
		if part.Memory > 0 {
			k.facts.Memory = min(k.facts.Memory, part.Memory)
		}
	}
	k.sync = newAPISide(k)
	k.vols, err = volumes.New(volumes.Config{PodsDir: filepath.Join(cfg.RootDir, "pods"), Source: k.sync, Log: log})
	errs = append(errs, err)
	k.probes, err = probe.New(probe.Config{Runtime: k.rt, Changed: k.probed, Asked: k.counts.Asked, Version: cfg.Version, Log: log,
		Event: func(p *v1.Pod, c, reason, message string) { k.events.Pod(p, c, true, reason, message) }})
	errs = append(errs, err)
	k.hooks = probe.Hooks{Runtime: k.rt, Version: cfg.Version}
	k.access, err = access.New(access.Config{Dir: filepath.Join(cfg.RootDir, "image_manager"), Policy: cfg.VerifyImages, Free: cfg.FreeImages})
	errs = append(errs, err)
	k.puller = images.New(images.Config{Access: k.access, Parallel: cfg.ParallelPulls, QPS: cfg.PullQPS, Burst: cfg.PullBurst, Pulled: k.metrics.pulled}, k.rt, log)
	k.events = events.New(cfg.Node, log)
	k.reports = report.New(cfg.Node, func(took time.Duration) { k.metrics.statusTook.Observe(took.Seconds()) }, log)
	return k, errors.Join(errs...)
}

// Run runs pods until ctx ends. Their containers go on when it returns.
func (k *Kubelet) Run(ctx context.Context) error {
	defer k.rt.Close()
	for _, dir := range []string{k.cfg.RootDir, k.cfg.PodLogsDir, k.cfg.ContainerLogsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	driver, err := k.agreeOnDriver(ctx)
	if err != nil {
		return err
	}
	k.capacity = k.facts.Capacity(k.cfg.Registration)
	k.allocatable = node.Allocatable(k.capacity, k.cfg.Registration)
	k.scoreSelf()
	if err := k.enforce(); err != nil {
		return err
	}
	if text, err := os.ReadFile(k.cfg.ResolvConf); err == nil {
		k.dns = environ.ParseResolver(text)
	}
	g, ctx := errgroup.WithContext(ctx)
	k.ctx = ctx
	defer k.group.Wait()
	g.Go(func() error { return k.probes.Run(ctx) })
	if k.cfg.Connect != nil { // certificates may take a while: not after the runtime
		g.Go(func() error { return k.sync.run(ctx) })
	}
	g.Go(func() error { return k.serve(ctx) })
	g.Go(func() error { return k.watchRuntime(ctx) })
	g.Go(func() error { return k.watchNetwork(ctx) })
	g.Go(func() error { return k.confirmDriver(ctx, driver) })
	g.Go(func() error { return k.housekeeping(ctx) })
	g.Go(func() error { return k.watchPressure(ctx) })
	if k.cfg.ManifestDir == "" {
		k.reports.SetStatic(nil) // mirrors that are left over have nothing behind them
	} else {
		src, err := manifests.New(manifests.Config{Dir: k.cfg.ManifestDir, Node: k.cfg.Node}, k.setStatic, k.log)
		if err != nil {
			return err
		}
		g.Go(func() error {
			select {
			case <-k.restored: // a pod that runs already must not be started again
			case <-ctx.Done():
				return ctx.Err()
			}
			return src.Run(ctx)
		})
	}
	return g.Wait()
}

// gate is closed or open, and can be waited for.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
	why  string
}

func newGate() *gate { return &gate{open: make(chan struct{}), why: "not asked yet"} }

// set opens or shuts the gate and says whether that changed anything.
func (g *gate) set(open bool, why string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.why = why
	select {
	case <-g.open:
		if !open {
			g.open = make(chan struct{})
		}
		return !open
	default:
		if open {
			close(g.open)
		}
		return open
	}
}

func (g *gate) state() (open <-chan struct{}, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open, g.why
}
