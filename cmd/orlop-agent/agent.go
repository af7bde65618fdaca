package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/cni/install"
	"github.com/orlop-io/orlop/cni/nat"
	"github.com/orlop-io/orlop/cni/plugin"
	"github.com/orlop-io/orlop/cni/routes"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/healthcheck"
)

const networkName = "orlop"

// podCIDRsName is the file in the run folder that configurations of the user's own may name as podCIDRsFile.
const podCIDRsName = "pod-cidrs.json"

// resync is how often what is in the kernel is looked at although nothing is known to have changed.
const resync = time.Minute

// lockName is held in the run folder while an agent works.
const lockName = "agent.lock"

// agent is the running parts and what they share.
type agent struct {
	o      options
	log    *slog.Logger
	client kubernetes.Interface
	svc    *services
	table  *nat.Table
	proxy  *proxy.Proxy
	direct []netip.Prefix // given by flags or file; empty: the nodes' own ranges

	cluster  atomic.Pointer[cluster] // newest; nil until nodes have been seen
	known    chan struct{}           // closed once what translates services knows the nodes
	proxying chan struct{}           // closed once services are in force
	changed  chan struct{}           // nodes have changed; holds one
	routes   *routes.Reconciler
	past     *shortcut
	mtu      atomic.Int64    // of tunnels to other nodes, as last seen; -1 not yet
	found    map[string]bool // what is wrong on the node and has been told
	unseen   error           // why the runtime would not see what is installed; nil: it does
}

// runAgent works until ctx ends.
func runAgent(ctx context.Context, o options, log *slog.Logger) error {
	if o.node == "" {
		return errors.New("--node-name or NODE_NAME is needed")
	}
	if !o.cni && !o.proxy {
		return errors.New("--cni=false and --proxy=false leave the agent nothing to do")
	}
	if err := errors.Join(o.checkSockets(), o.checkRedirect()); err != nil {
		return err
	}
	client, servers, err := connect(o)
	if err != nil {
		return err
	}
	return work(ctx, o, client, servers, log)
}

func work(ctx context.Context, o options, client kubernetes.Interface, servers *apiServers, log *slog.Logger) error {
	unlock, err := lock(ctx, o.runDir, log)
	if err != nil {
		return err
	}
	defer unlock()
	o, unseen := o.withFolders(ctx, exists, log)
	svc, err := openServices(o, log)
	if err != nil {
		return err
	}
	defer svc.Close()
	direct, err := clusterRanges(o)
	if err != nil {
		return err
	}
	table, err := routes.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	a := &agent{
		o: o, log: log, client: client, svc: svc, table: nat.New(networkName), direct: direct,
		known: make(chan struct{}), proxying: make(chan struct{}), changed: make(chan struct{}, 1), found: map[string]bool{},
	}
	a.unseen = unseen
	a.mtu.Store(-1)
	a.routes, err = routes.New(routes.Config{Desired: a.view, Overlay: o.overlay(), Resync: resync, Done: a.routesDone, Log: log}, table)
	if err != nil {
		return err
	}
	m := newMetrics(svc)
	full := newPressure(svc, log)
	m.registry.MustRegister(full)
	if read := svc.traffic(); read != nil {
		if svc.mode == modeIptables {
			read = sparing(read)
		}
		m.registry.MustRegister(newTraffic(read))
	}
	apart := newApart(o, svc, client, log)
	if apart != nil {
		m.registry.MustRegister(apart)
	}
	past := newShortcut(o, svc, table, a.otherPods, log)
	m.past, a.past = past, past
	w := newWatch(client, o)
	checks := healthcheck.New(a.healthy, log)
	defer checks.Close()
	p, err := proxy.New(proxy.Config{
		Synced: func(ctx context.Context) error { return errors.Join(w.synced(ctx), a.nodeKnown(ctx)) }, Ready: func() { close(a.proxying) }, Observe: m.observe, Node: o.node, HealthChecks: func(list []proxy.HealthCheck) { svc.healthPorts(list); checks.Set(list) },
		Mode: svc.mode, ExternalIPs: o.externalIPs, Refused: svc.refused.service, Log: log,
	}, svc)
	if err != nil {
		return err
	}
	a.proxy = p
	m.kube.changes.Store(p)
	if err := w.handle(p, servers.learn(log), a.nodesChanged); err != nil {
		return err
	}
	if err := a.prepare(); err != nil {
		return err
	}
	boot, err := bootID(o.procSys)
	if err != nil {
		return err
	}
	w.recall(o.dataDir, boot, func() bool { return svc.mode == modeUserspace && away(ctx, client, o.node) }, log)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.run(ctx) })
	group.Go(func() error { return w.keepState(ctx, o.dataDir, boot, log) })
	if o.proxy {
		group.Go(func() error { return a.answerServices(ctx) })
		group.Go(func() error { return p.Run(ctx) })
		group.Go(func() error { return svc.run(ctx, p.Poke) })
		group.Go(func() error { return svc.refused.run(ctx, client, w.service, o.node) })
		group.Go(func() error { return full.run(ctx, client, o.node) })
		group.Go(func() error { return svc.outside.follow(ctx, a.proxying, log) })
		group.Go(func() error { return apart.run(ctx, a.proxying) })
		group.Go(func() error { return past.run(ctx, a.proxying) })
	}
	if o.proxy && len(o.config.nodePorts) > 0 { // node ports are asked at addresses that the API server does not know of
		group.Go(func() error { return followAddrs(ctx, a.lookAgain, log) })
	}
	if o.cni {
		group.Go(func() error { return a.routes.Run(ctx) })
	}
	group.Go(func() error { return a.keepNode(ctx) })
	group.Go(func() error { return serveProbes(ctx, o.probes, a.probeHandler()) })
	group.Go(func() error { return serve(ctx, o.healthz, a.healthHandler(m.kube), o.config.hardFail, log) })
	group.Go(func() error { return serve(ctx, o.metrics, m.handler(log), o.config.hardFail, log) })
	log.Info("agent started", "version", version, "node", o.node, "cni", o.cni, "proxyMode", svc.mode, "proxyExternal", svc.external())
	return group.Wait()
}

// prepare does what comes before all else, of the parts that this agent has. Services that are somebody else's by now must not be ours too.
func (a *agent) prepare() error {
	if !a.o.proxy {
		close(a.proxying)
		if err := removeModes(a.o, modeNone, false); err != nil {
			return err
		}
	}
	ledger := a.o.ledger()
	for _, s := range a.o.config.conntrack {
		if err := ledger.Set(s.key, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w (%s)", err, s.why)
		}
	}
	if a.o.cni && a.unseen == nil {
		return install.Programs(a.installConfig())
	}
	return nil
}

func openLB(o options) (*socklb.LB, error) {
	root := o.cgroupRoot
	if root == "" {
		info, err := os.ReadFile("/proc/self/mountinfo")
		if err == nil {
			root, err = socklb.CgroupRoot(string(info))
		}
		if err != nil {
			return nil, fmt.Errorf("find the cgroup2 tree: %w", err)
		}
	}
	cookie, err := socklb.NetnsCookie()
	if err != nil {
		return nil, err
	}
	return socklb.Open(socklb.Config{PinDir: o.pinDir, Cgroup: root, NodeNetns: cookie})
}

// lock waits until no other agent works on this node: the maps take one writer.
func lock(ctx context.Context, dir string, log *slog.Logger) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make run folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if !told {
			log.Info("waiting for another agent on this node to end", "lock", f.Name())
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond): // flock has no wait that a context could end
		}
	}
}

func connect(o options) (kubernetes.Interface, *apiServers, error) {
	var cfg *rest.Config
	var err error
	if o.kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	} else {
		cfg, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find the API server: %w", err)
	}
	named := o.apiServers
	if len(named) == 0 {
		named = []string{cfg.Host}
	}
	servers, err := newAPIServers(named, o.dataDir)
	if err != nil {
		return nil, nil, err
	}
	cfg.Host = servers.named[0].String()
	cfg.QPS, cfg.Burst = o.config.qps, o.config.burst
	cfg.Dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}).DialContext // a machine that is gone says nothing, and others are asked then
	cfg.Wrap(servers.wrap)
	cfg.UserAgent = "orlop-agent/" + version
	cfg.AcceptContentTypes = cmp.Or(o.config.accept, "application/vnd.kubernetes.protobuf,application/json")
	cfg.DisableCompression = true // for all Services of a large cluster it takes both sides seconds of a processor; their bytes take a link less
	cfg.ContentType = cmp.Or(o.config.encode, "application/vnd.kubernetes.protobuf")
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("make API client: %w", err)
	}
	return client, servers, nil
}

// clusterRanges are the pods' ranges by flag, or by kubeadm's file where there is one.
func clusterRanges(o options) ([]netip.Prefix, error) {
	if len(o.clusterCIDRs) > 0 || o.clusterConfiguration == "" {
		return prefixes("--cluster-cidr", o.clusterCIDRs)
	}
	n, err := networking(o)
	if err != nil || n.PodSubnet == "" {
		return nil, err
	}
	return prefixes("podSubnet", strings.Split(n.PodSubnet, ","))
}

// serviceRanges are those of cluster addresses, by kubeadm's file where there is one.
func serviceRanges(o options) ([]netip.Prefix, error) {
	n, err := networking(o)
	if err != nil || n.ServiceSubnet == "" {
		return nil, err
	}
	return prefixes("serviceSubnet", strings.Split(n.ServiceSubnet, ","))
}

// networks is what kubeadm's file says of ranges.
type networks struct {
	PodSubnet     string `json:"podSubnet"`
	ServiceSubnet string `json:"serviceSubnet"`
}

func networking(o options) (networks, error) {
	if o.clusterConfiguration == "" {
		return networks{}, nil
	}
	b, err := os.ReadFile(o.clusterConfiguration)
	if errors.Is(err, os.ErrNotExist) {
		return networks{}, nil
	}
	if err != nil {
		return networks{}, fmt.Errorf("read cluster configuration: %w", err)
	}
	var c struct {
		Networking networks `json:"networking"`
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		return networks{}, fmt.Errorf("read cluster configuration: %w", err)
	}
	return c.Networking, nil
}

// nodesChanged takes the newest nodes.
func (a *agent) nodesChanged(nodes []*corev1.Node) {
	c := clusterOf(nodes, a.o.node)
	a.cluster.Store(&c)
	a.proxy.SetZone(c.zone)
	a.routes.Poke()
	a.lookAgain()
}

func (a *agent) lookAgain() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// view is false as long as this node is not among those seen: a list without it, or an empty one, says nothing of the others.
func (a *agent) view() (routes.View, bool) {
	c := a.cluster.Load()
	if c == nil || c.view.Self.Name == "" {
		return routes.View{}, false
	}
	return c.view, true
}

// routesDone has the node looked at again if what pods may send at once has changed, and the tunnel that they may go past.
func (a *agent) routesDone() {
	a.past.look()
	if mtu, known := a.routes.MTU(); known && a.mtu.Swap(int64(mtu)) != int64(mtu) {
		a.lookAgain()
	}
}

// keepNode follows changes of nodes with all but routes. Pods may come only once services are in force.
func (a *agent) keepNode(ctx context.Context) error {
	var retry <-chan time.Time
	again := time.NewTicker(resync) // somebody else may have changed a setting or rule
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-a.changed:
		case <-retry:
		}
		retry = nil
		if a.cluster.Load() == nil {
			continue
		}
		if err := a.node(ctx, a.cluster.Load()); err != nil && ctx.Err() == nil {
			a.log.Warn("set up node", "err", err)
			retry = time.After(time.Second)
		}
	}
}

// nodeKnown waits until the node's addresses are: services without them would take away its node ports that an earlier process left.
func (a *agent) nodeKnown(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.known:
		return nil
	}
}

func (a *agent) node(ctx context.Context, c *cluster) error {
	again, err := a.svc.setNode(c)
	if err != nil {
		return err
	}
	if again {
		a.proxy.Poke()
	}
	select {
	case <-a.known:
	default:
		close(a.known)
	}
	if !a.o.cni {
		return a.bridged()
	}
	direct := a.unmasked(c)
	kind, err := linkKind(a.o.bridge)
	if err != nil {
		return err
	}
	if why := a.cannotServe(c, kind); why != "" {
		return a.withhold(ctx, c, direct, why)
	}
	if err := a.settings(c); err != nil {
		return err
	}
	if err := install.PodCIDRs(filepath.Join(a.o.runDir, podCIDRsName), c.podCIDRs); err != nil {
		return err
	}
	rules := nat.Config{Bridge: a.o.bridge, Subnets: c.podCIDRs, Masquerade: true, Direct: direct}
	made, err := a.table.Ensure(rules)
	if made {
		err = errors.Join(err, plugin.RestoreRules(a.o.stateDir, networkName)) // somebody may have flushed those of pods that run
	}
	if err := errors.Join(err, a.table.SetNodes(c.addrs)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.proxying:
	}
	tunnelMTU, known := a.routes.MTU()
	if !known {
		return nil // routesDone comes back
	}
	changed, err := install.Conflist(a.installConfig(), install.Network{
		Name: networkName, Bridge: a.o.bridge, PodCIDRs: c.podCIDRs, Direct: direct, MTU: mtuOf(c.own), RouteMTU: tunnelMTU, StateDir: a.o.stateDir, Netfilter: a.svc.bridged(),
	})
	if err != nil {
		return err
	}
	if changed {
		a.log.Info("wrote CNI configuration", "podCIDRs", c.podCIDRs)
	}
	a.others()
	if err := a.bridged(); err != nil { // the configuration before may have told the plugin otherwise
		return err
	}
	if c.unavailable {
		return a.setUnavailable(ctx, false, "OrlopIsUp", "orlop-agent serves this node")
	}
	return nil
}

// cannotServe says why an ADD on this node must fail, with a link of that kind under the bridge's name; empty: it need not.
func (a *agent) cannotServe(c *cluster, kind string) string {
	if a.unseen != nil {
		return a.unseen.Error()
	}
	if kind != "" && kind != "bridge" {
		return fmt.Sprintf("interface %s is a %s, not a bridge: remove or rename it, or name another one by --bridge", a.o.bridge, kind)
	}
	if len(c.podCIDRs) == 0 {
		return "this node has no pod CIDR"
	}
	return ""
}

// withhold keeps pods off a node that cannot have any. There is no configuration then at first. One that is there stays, because without one runtimes refuse DEL
// as well, and pods could not even end: it stops ADD, says so by STATUS to runtimes that ask, and the node's condition tells the scheduler, for
// containerd 1.6 and others that do not.
func (a *agent) withhold(ctx context.Context, c *cluster, direct []netip.Prefix, why string) error {
	a.log.Warn("no pods can come to this node", "node", a.o.node, "why", why)
	if !install.Served(a.installConfig()) {
		return nil
	}
	if len(c.podCIDRs) == 0 {
		file := filepath.Join(a.o.runDir, podCIDRsName)
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("withdraw pod CIDRs: %w", err)
		}
		_, err := install.Conflist(a.installConfig(), install.Network{
			Name: networkName, Bridge: a.o.bridge, PodCIDRsFile: file, Direct: direct, MTU: mtuOf(c.own), StateDir: a.o.stateDir, Netfilter: a.svc.bridged(),
		})
		if err != nil {
			return err
		}
	}
	if c.unavailable {
		return nil
	}
	return a.setUnavailable(ctx, true, "OrlopCannotServe", why)
}

// others tells of configurations of other networks. They are not touched.
func (a *agent) others() {
	before, after, err := install.Others(a.installConfig())
	for _, name := range before {
		a.tell(fmt.Sprintf("the runtime takes the CNI configuration %s before Orlop's: pods get that network; remove it if nobody needs it", name))
	}
	if len(after) > 0 {
		a.log.Debug("other CNI configurations, which the runtime does not take", "files", after)
	}
	if err != nil {
		a.tell(err.Error())
	}
}

// tell warns of what is wrong on the node, once.
func (a *agent) tell(what string) {
	if !a.found[what] {
		a.log.Warn("found on this node", "what", what)
		a.found[what] = true
	}
}

// bridged has packets between pods of a bridge translated, where that is done by netfilter.
func (a *agent) bridged() error {
	if !a.svc.bridged() {
		return nil
	}
	return bridgedPackets(a.o.ledger(), a.log)
}

func (a *agent) setUnavailable(ctx context.Context, unavailable bool, reason, message string) error {
	now := metav1.Now()
	status := corev1.ConditionFalse
	if unavailable {
		status = corev1.ConditionTrue
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
		Type: corev1.NodeNetworkUnavailable, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
	}}}})
	if err == nil {
		_, err = a.client.CoreV1().Nodes().PatchStatus(ctx, a.o.node, patch)
	}
	if err != nil {
		return fmt.Errorf("set condition NetworkUnavailable: %w", err)
	}
	return nil
}

func (a *agent) installConfig() install.Config { return a.o.installConfig() }

// installConfig is complete after withFolders.
func (o options) installConfig() install.Config {
	return install.Config{Binary: o.binary, BinDir: o.binDir, ConfDir: o.confDir}
}
