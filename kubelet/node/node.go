package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/kubelet/eviction"
)

// Config says what the node tells of itself.
type Config struct {
	Name string
	// Hostname is told beside the addresses.
	Hostname string
	IPs      []string
	// Labels and Taints are given at registration; labels are kept since.
	Labels map[string]string
	Taints []v1.Taint
	// Register makes the node's object; without, somebody else must.
	Register bool
	// Unschedulable registers the node cordoned.
	Unschedulable bool
	ProviderID    string
	// Port is where the kubelet serves.
	Port    int32
	Version string
	// MaxPods and Reserved bound what pods may use. RootDir's file system is the node's storage.
	MaxPods  int64
	Reserved v1.ResourceList
	RootDir  string
	// Thresholds are where pods begin to be evicted: below the hard ones nothing is for pods.
	Thresholds []eviction.Threshold
	// StatusEvery is how often the status is looked at, 10 s if 0; ReportEvery how often it is sent
	// unchanged, 5 min if 0. LeaseDuration is 40 s if 0; it is renewed four times in that.
	StatusEvery, ReportEvery, LeaseDuration time.Duration
}

// Source says how the node is just now.
type Source interface {
	// Ready is nil if pods can run here.
	Ready(ctx context.Context) error
	// Pressures are the conditions of what the node is short of.
	Pressures() []v1.NodeConditionType
	// Runtime names the container runtime, as in containerd://1.6.20; empty if it does not answer.
	Runtime(ctx context.Context) string
	// Images lists some images that are there; nil if the runtime does not answer.
	Images(ctx context.Context) []v1.ContainerImage
	// Abilities are what the runtime said last that it and its handlers can do; nil where it says nothing of that.
	Abilities() ([]v1.NodeRuntimeHandler, *v1.NodeFeatures)
}

// Node keeps one node's object.
type Node struct {
	cfg     Config
	machine Machine
	src     Source
	tell    func(warning bool, reason, message string)
	log     *slog.Logger
	poke    chan struct{}
	uid     atomic.Pointer[types.UID]
	// Object is the node as last seen in the API; nil before.
	object atomic.Pointer[v1.Node]

	capacity, allocatable v1.ResourceList

	// Below: Run's goroutine only.
	images  []v1.ContainerImage
	runtime string
	sent    *v1.NodeStatus
	sentAt  time.Time
	// cordoned is what events told of last.
	cordoned bool
}

// New makes a Node that has told nothing. tell records events on the node.
func New(cfg Config, m Machine, src Source, tell func(warning bool, reason, message string), log *slog.Logger) (*Node, error) {
	for d, v := range map[*time.Duration]time.Duration{&cfg.StatusEvery: 10 * time.Second, &cfg.ReportEvery: 5 * time.Minute, &cfg.LeaseDuration: 40 * time.Second} {
		if *d == 0 {
			*d = v
		}
	}
	if cfg.Name == "" || len(cfg.IPs) == 0 {
		return nil, errors.New("node needs a name and an address")
	}
	n := &Node{cfg: cfg, machine: m, src: src, tell: tell, log: log, poke: make(chan struct{}, 1)}
	n.capacity = m.Capacity(cfg)
	n.allocatable = Allocatable(n.capacity, cfg)
	return n, nil
}

// Allocatable is what pods may use. It is not to be changed.
func (n *Node) Allocatable() v1.ResourceList { return n.allocatable }

// UID is the node's identity in the API, empty before it is known.
func (n *Node) UID() types.UID {
	if uid := n.uid.Load(); uid != nil {
		return *uid
	}
	return ""
}

// Object is the node as it was last read, nil before.
func (n *Node) Object() *v1.Node { return n.object.Load() }

// Read reads the node from the API, for a decision that what was last read does not allow.
func (n *Node) Read(ctx context.Context, client kubernetes.Interface) error {
	have, err := client.CoreV1().Nodes().Get(ctx, n.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", n.cfg.Name, err)
	}
	n.object.Store(have)
	return nil
}

// Poke says that the node's state may have changed.
func (n *Node) Poke() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// Allocatable is what of a capacity pods may count on: not what is reserved for the system, nor what must stay free.
func Allocatable(capacity v1.ResourceList, cfg Config) v1.ResourceList {
	out := Bound(capacity, cfg)
	for _, t := range cfg.Thresholds {
		if !t.Hard() {
			continue
		}
		switch t.Signal {
		case eviction.MemoryAvailable:
			subtract(out, v1.ResourceMemory, t.Below.Of(value(capacity, v1.ResourceMemory)))
		case eviction.NodeFsAvailable:
			subtract(out, v1.ResourceEphemeralStorage, t.Below.Of(value(capacity, v1.ResourceEphemeralStorage)))
		}
	}
	return out
}

// Bound is what of a capacity pods may use at most: eviction begins before they do.
func Bound(capacity v1.ResourceList, cfg Config) v1.ResourceList {
	out := capacity.DeepCopy()
	for name, q := range cfg.Reserved {
		if have, ok := out[name]; ok {
			have.Sub(q)
			if have.Sign() < 0 {
				have = *resource.NewQuantity(0, have.Format)
			}
			out[name] = have
		}
	}
	return out
}

func value(list v1.ResourceList, name v1.ResourceName) int64 {
	q := list[name]
	return q.Value()
}

func subtract(list v1.ResourceList, name v1.ResourceName, n int64) {
	if q, ok := list[name]; ok {
		list[name] = *resource.NewQuantity(max(q.Value()-n, 0), q.Format)
	}
}

// Run registers the node and keeps status and lease until ctx ends.
func (n *Node) Run(ctx context.Context, client, heartbeats kubernetes.Interface) error {
	n.tell(false, "Starting", "Starting kubelet.")
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { n.renew(ctx, heartbeats) })
	tick := time.NewTicker(n.cfg.StatusEvery)
	defer tick.Stop()
	retry := time.Duration(0)
	for {
		err := n.once(ctx, client)
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			retry = min(max(2*retry, 100*time.Millisecond), 5*time.Second)
			n.log.Warn("tell node status", "err", err)
			again = time.After(retry)
		} else {
			retry = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-n.poke:
		case <-again:
		}
	}
}

// once registers the node if need be, and tells its status if that is due.
func (n *Node) once(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nodes := client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, n.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && n.cfg.Register {
		n.sent = nil
		have, err = nodes.Create(ctx, n.initial(ctx), metav1.CreateOptions{})
		if err == nil {
			n.tellTransitions(nil, have.Status.Conditions)
		}
	}
	if err != nil {
		return fmt.Errorf("get node %s: %w", n.cfg.Name, err)
	}
	n.uid.Store(&have.UID)
	n.object.Store(have)
	n.tellCordon(have.Spec.Unschedulable)
	if patch := n.labelPatch(have); patch != nil {
		if _, err := nodes.Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("label node %s: %w", n.cfg.Name, err)
		}
	}
	st := n.status(ctx, have.Status.Conditions)
	if n.sent != nil && time.Since(n.sentAt) < n.cfg.ReportEvery && sameStatus(n.sent, &st) && len(have.Status.Conditions) > 0 {
		return nil
	}
	patch, err := statusPatch(&st)
	if err != nil {
		return err
	}
	if _, err := nodes.Patch(ctx, n.cfg.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("patch status of node %s: %w", n.cfg.Name, err)
	}
	n.tellTransitions(have.Status.Conditions, st.Conditions)
	n.sent, n.sentAt = &st, time.Now()
	return nil
}

func (n *Node) labels() map[string]string {
	out := map[string]string{
		v1.LabelHostname: n.cfg.Name, v1.LabelOSStable: "linux", v1.LabelArchStable: n.machine.Info.Architecture,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": n.machine.Info.Architecture,
	}
	if n.cfg.Hostname != "" {
		out[v1.LabelHostname] = n.cfg.Hostname
	}
	maps.Copy(out, n.cfg.Labels)
	return out
}

func (n *Node) labelPatch(have *v1.Node) []byte {
	missing := map[string]string{}
	for k, v := range n.labels() {
		if have.Labels[k] != v {
			missing[k] = v
		}
	}
	if len(missing) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		return nil // strings always encode
	}
	return patch
}

func (n *Node) initial(ctx context.Context) *v1.Node {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: n.labels(), Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
		Spec:       v1.NodeSpec{Taints: n.cfg.Taints, Unschedulable: n.cfg.Unschedulable, ProviderID: n.cfg.ProviderID},
	}
	node.Status = n.status(ctx, nil)
	return node
}

func (n *Node) status(ctx context.Context, before []v1.NodeCondition) v1.NodeStatus {
	n.askRuntime(ctx)
	st := v1.NodeStatus{
		Capacity: n.capacity, Allocatable: n.allocatable, NodeInfo: n.machine.Info, Images: n.images,
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: n.cfg.Port}},
	}
	st.NodeInfo.KubeletVersion = n.cfg.Version
	st.NodeInfo.KubeProxyVersion = "" // deprecated, and not ours to say
	st.NodeInfo.ContainerRuntimeVersion = n.runtime
	st.RuntimeHandlers, st.Features = n.src.Abilities()
	st.DeclaredFeatures = declaredFeatures()
	for _, ip := range n.cfg.IPs {
		st.Addresses = append(st.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	host := n.cfg.Hostname
	if host == "" {
		host = n.cfg.Name
	}
	st.Addresses = append(st.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: host})
	st.Conditions = conditions(n.src.Pressures(), n.src.Ready(ctx), before, time.Now())
	return st
}

// runtimeWait is how long the status waits for the runtime: that it hangs must be told, not waited for.
const runtimeWait = 2 * time.Second

// askRuntime learns what only the runtime knows. While it does not answer, what it said last is told.
func (n *Node) askRuntime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, runtimeWait)
	defer cancel()
	if images := n.src.Images(ctx); images != nil {
		n.images = images
	}
	if name := n.src.Runtime(ctx); name != "" {
		n.runtime = name
	} else if n.runtime == "" {
		n.runtime = "unknown"
	}
}

// sameStatus compares all but the heartbeats.
func sameStatus(a, b *v1.NodeStatus) bool {
	strip := func(s *v1.NodeStatus) *v1.NodeStatus {
		c := *s
		c.Conditions = nil
		for _, cond := range s.Conditions {
			cond.LastHeartbeatTime = metav1.Time{}
			c.Conditions = append(c.Conditions, cond)
		}
		return &c
	}
	return equality.Semantic.DeepEqual(strip(a), strip(b))
}

// statusPatch writes the status as a patch that leaves others' conditions alone.
func statusPatch(st *v1.NodeStatus) ([]byte, error) {
	text, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encode node status: %w", err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("encode node status: %w", err)
	}
	addresses, _ := m["addresses"].([]any)
	m["addresses"] = append([]any{map[string]any{"$patch": "replace"}}, addresses...) // merged by type otherwise
	return json.Marshal(map[string]any{"status": m})
}
