package kubelet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	authv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/orlop-io/orlop/kubelet/eviction"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/manifests"
	"github.com/orlop-io/orlop/kubelet/node"
	"github.com/orlop-io/orlop/kubelet/sysctls"
	"github.com/orlop-io/orlop/kubelet/volumes/objects"
)

// apiSide is all that the kubelet knows from, and tells, the API server. Until there is one, its
// answers are errors that say so; nothing in it makes a static pod wait.
type apiSide struct {
	k *Kubelet
	// conn is set once there are credentials.
	conn atomic.Pointer[connection]
	// listed: the pods of this node were read from the API server.
	listed atomic.Bool
	node   atomic.Pointer[node.Node]
	// connected is closed when conn is set.
	connected chan struct{}
	uids      atomic.Pointer[cache.Indexer]
}

// connection is the API server in reach.
type connection struct {
	client   kubernetes.Interface
	objects  *objects.Objects
	services cache.SharedIndexInformer
	pods     cache.SharedIndexInformer
}

func newAPISide(k *Kubelet) *apiSide { return &apiSide{k: k, connected: make(chan struct{})} }

// run connects, and keeps everything that goes over the connection until ctx ends.
func (a *apiSide) run(ctx context.Context) error {
	clients, err := a.k.cfg.Connect(ctx, a.k.metrics.asked)
	if err != nil {
		return fmt.Errorf("connect to API server: %w", err)
	}
	client := clients.API
	c := &connection{client: client}
	c.objects = objects.New(objects.Config{Client: client, Node: a.k.cfg.Node, NodeUID: a.nodeUID, Changed: a.objectChanged, Needed: a.k.hasNamespace, Log: a.k.log})
	c.services = cache.NewSharedIndexInformerWithOptions(listWatch(client.CoreV1().Services("").List, client.CoreV1().Services("").Watch, ""),
		&v1.Service{}, cache.SharedIndexInformerOptions{})
	own := fields.OneTermEqualSelector("spec.nodeName", a.k.cfg.Node).String()
	c.pods = cache.NewSharedIndexInformerWithOptions(listWatch(client.CoreV1().Pods("").List, client.CoreV1().Pods("").Watch, own),
		&v1.Pod{}, cache.SharedIndexInformerOptions{})
	if err := errors.Join(c.services.SetTransform(lean), c.pods.SetTransform(lean)); err != nil {
		return err
	}
	n, err := node.New(a.k.cfg.Registration, a.k.facts, nodeSource{a.k}, a.k.events.Node, a.k.log)
	if err != nil {
		return err
	}
	a.node.Store(n)
	a.conn.Store(c)
	close(a.connected)
	g, ctx := errgroup.WithContext(ctx)
	if a.k.cfg.Served != nil {
		g.Go(func() error { a.k.cfg.Served(ctx, client); return ctx.Err() })
	}
	g.Go(func() error { return c.objects.Run(ctx) })
	g.Go(func() error { return n.Run(ctx, client, clients.Heartbeats) })
	g.Go(func() error { return a.k.events.Run(ctx, eventSink{clients.Events}) })
	g.Go(func() error { return a.k.reports.Run(ctx, clients.Statuses, n.UID) })
	g.Go(func() error { c.services.RunWithContext(ctx); return ctx.Err() })
	g.Go(func() error { return a.followPods(ctx, c) })
	return g.Wait()
}

// lean drops what the kubelet never reads, for it is kept in memory.
func lean(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

type lister[L runtime.Object] func(context.Context, metav1.ListOptions) (L, error)
type watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)

func listWatch[L runtime.Object](list lister[L], follow watcher, selector string) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return list(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return follow(ctx, o)
		},
	}
}

// followPods hands this node's pods to their workers. It begins once the runtime was listed: a pod
// that runs already must be found, not started.
func (a *apiSide) followPods(ctx context.Context, c *connection) error {
	select {
	case <-a.k.restored:
	case <-ctx.Done():
		return ctx.Err()
	}
	reg, err := c.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { a.podSet(o.(*v1.Pod)) },
		UpdateFunc: func(old, o any) {
			a.k.metrics.resizes(old.(*v1.Pod), o.(*v1.Pod))
			a.podSet(o.(*v1.Pod))
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			a.podGone(o.(*v1.Pod))
		},
	})
	if err != nil {
		return fmt.Errorf("follow pods: %w", err)
	}
	store := c.pods.GetIndexer()
	a.uids.Store(&store)
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), reg.HasSynced) {
			a.listed.Store(true)
			a.k.reports.MirrorsListed()
		}
	}()
	c.pods.RunWithContext(ctx)
	return ctx.Err()
}

func (a *apiSide) podSet(p *v1.Pod) {
	if uid, ok := p.Annotations[manifests.AnnMirror]; ok {
		a.k.reports.Mirror(p.Namespace, p.Name, p)
		a.k.reports.Seen(types.UID(uid), p)
		return
	}
	a.k.reports.Seen(p.UID, p)
	a.catchUp(p)
	a.k.setAPI(p)
}

// catchUp reads the Node again where a new pod selects labels that the Node did not have when it was last read: the
// scheduler may have seen a newer one. The wait is short, since it is all pods that wait.
func (a *apiSide) catchUp(p *v1.Pod) {
	n, c := a.node.Load(), a.conn.Load()
	if n == nil || c == nil || a.k.worker(p.UID) != nil || selects(p, n.Object()) {
		return
	}
	ctx, cancel := context.WithTimeout(a.k.ctx, time.Second)
	defer cancel()
	if err := n.Read(ctx, c.client); err != nil {
		a.k.log.Warn("read the node again for a new pod", "pod", fullName(p), "err", err)
	}
}

// selects says whether the node is one that the pod requires by its labels; a node that was never read is.
func selects(p *v1.Pod, n *v1.Node) bool {
	if n == nil {
		return true
	}
	ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(n)
	return err == nil && ok
}

func (a *apiSide) podGone(p *v1.Pod) {
	if _, ok := p.Annotations[manifests.AnnMirror]; ok {
		a.k.reports.Mirror(p.Namespace, p.Name, nil)
		return
	}
	a.k.removeAPI(p.UID)
}

// names says whether the API server named a pod, though its worker may be yet to come.
func (a *apiSide) names(uid types.UID) bool {
	store := a.uids.Load()
	if store == nil {
		return false
	}
	for _, o := range (*store).List() {
		if o.(*v1.Pod).UID == uid {
			return true
		}
	}
	return false
}

func (a *apiSide) nodeChanged() {
	if n := a.node.Load(); n != nil {
		n.Poke()
	}
}

// services are what a pod's variables tell of; a static pod does not wait for them.
func (a *apiSide) services(_ context.Context, pod *v1.Pod) ([]*v1.Service, error) {
	c := a.conn.Load()
	static := isStatic(pod.Annotations)
	if c == nil || !c.services.HasSynced() {
		if static {
			return nil, nil
		}
		return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	var out []*v1.Service
	for _, o := range c.services.GetStore().List() {
		if s := o.(*v1.Service); s.Namespace == pod.Namespace || s.Namespace == metav1.NamespaceDefault && s.Name == "kubernetes" {
			out = append(out, s)
		}
	}
	return out, nil
}

// handler is the runtime handler of a pod's RuntimeClass.
func (a *apiSide) handler(ctx context.Context, pod *v1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	c := a.conn.Load()
	if c == nil {
		return "", objects.ErrNoServer
	}
	var class *nodev1.RuntimeClass
	class, err := c.client.NodeV1().RuntimeClasses().Get(ctx, *pod.Spec.RuntimeClassName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("RuntimeClass %q: %w", *pod.Spec.RuntimeClassName, err)
	}
	return class.Handler, nil
}

// hasNamespace says whether there is a pod of a namespace here.
func (k *Kubelet) hasNamespace(namespace string) bool {
	return slices.ContainsFunc(k.all(), func(w *worker) bool { return w.shown.Load().state.Pod.Namespace == namespace })
}

// ConfigMap gives a ConfigMap that a pod of this node names.
func (a *apiSide) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.ConfigMap(ctx, namespace, name)
	}
	return nil, objects.ErrNoServer
}

// Secret gives a Secret that a pod of this node names.
func (a *apiSide) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.Secret(ctx, namespace, name)
	}
	return nil, objects.ErrNoServer
}

// Claim gives a claim that a pod of this node names.
func (a *apiSide) Claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.Claim(ctx, namespace, name)
	}
	return nil, objects.ErrNoServer
}

// Volume gives a persistent volume.
func (a *apiSide) Volume(ctx context.Context, name string) (*v1.PersistentVolume, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.Volume(ctx, name)
	}
	return nil, objects.ErrNoServer
}

// Token asks for a service account's token.
func (a *apiSide) Token(ctx context.Context, namespace, account string, req *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.Token(ctx, namespace, account, req)
	}
	return nil, objects.ErrNoServer
}

// TrustBundles gives all trust bundles.
func (a *apiSide) TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.TrustBundles(ctx)
	}
	return nil, objects.ErrNoServer
}

// RequestCertificate asks for a pod's certificate.
func (a *apiSide) RequestCertificate(ctx context.Context, req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.RequestCertificate(ctx, req)
	}
	return nil, objects.ErrNoServer
}

// CertificateRequest waits for the answer to such a request.
func (a *apiSide) CertificateRequest(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error) {
	if c := a.conn.Load(); c != nil {
		return c.objects.CertificateRequest(ctx, namespace, name)
	}
	return nil, objects.ErrNoServer
}

func (a *apiSide) nodeUID() types.UID {
	if n := a.node.Load(); n != nil {
		return n.UID()
	}
	return ""
}

// objectChanged brings a changed object to the pods that may be made of it.
func (a *apiSide) objectChanged(key objects.Key) {
	for _, w := range a.k.all() {
		if concerns(key, w.shown.Load().state.Pod) {
			w.refresh()
			w.post(lifecycle.InputsChanged{})
		}
	}
}

// concerns says whether a pod may be made of an object. Any pod of a namespace may use its ConfigMaps and Secrets; few pods
// use the rest.
func concerns(key objects.Key, pod *v1.Pod) bool {
	inNamespace := key.Namespace == "" || key.Namespace == pod.Namespace
	switch key.Kind {
	case objects.TrustBundle:
		return projects(pod, func(p *v1.VolumeProjection) bool { return p.ClusterTrustBundle != nil })
	case objects.CertificateRequest:
		return inNamespace && projects(pod, func(p *v1.VolumeProjection) bool { return p.PodCertificate != nil })
	}
	return inNamespace
}

func projects(pod *v1.Pod, what func(*v1.VolumeProjection) bool) bool {
	for i := range pod.Spec.Volumes {
		if src := pod.Spec.Volumes[i].Projected; src != nil {
			for j := range src.Sources {
				if what(&src.Sources[j]) {
					return true
				}
			}
		}
	}
	return false
}

// eventSink sends events to the API server.
type eventSink struct{ client kubernetes.Interface }

func (s eventSink) Create(ctx context.Context, e *v1.Event) (*v1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s.client.CoreV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
}

func (s eventSink) Patch(ctx context.Context, namespace, name string, patch []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := s.client.CoreV1().Events(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// runtimePatience is how long a runtime may be away before the node is not ready: it may be
// restarted without harm to any pod.
const runtimePatience = 30 * time.Second

// nodeSource tells the node's status what the kubelet knows.
type nodeSource struct{ k *Kubelet }

// Ready is nil if pods can run.
func (s nodeSource) Ready(context.Context) error {
	if at := s.k.answered.Load(); at == nil || time.Since(*at) > runtimePatience {
		return errors.New("container runtime is down")
	}
	open, why := s.k.network.state()
	select {
	case <-open:
		return nil
	default:
		return errors.New(why)
	}
}

// Pressures are the conditions of what the node is short of.
func (s nodeSource) Pressures() []v1.NodeConditionType { return s.k.pressures() }

// Runtime names the container runtime, unless it does not answer.
func (s nodeSource) Runtime(ctx context.Context) string {
	v, err := s.k.rt.Version(ctx)
	if err != nil {
		return ""
	}
	return v.RuntimeName + "://" + v.RuntimeVersion
}

// Images lists the largest images, as upstream does.
func (s nodeSource) Images(ctx context.Context) []v1.ContainerImage { return s.k.nodeImages(ctx) }

// Abilities are what the runtime says of itself and its handlers.
func (s nodeSource) Abilities() ([]v1.NodeRuntimeHandler, *v1.NodeFeatures) {
	return abilities(s.k.runtimeStatus.Load())
}

// admit says why this node cannot run a pod, nil if it can. The scheduler has looked already; this
// is for pods that were bound past it, or side by side. A critical pod takes the room of others, and has to wait for the
// end of those that are returned.
func (k *Kubelet) admit(pod *v1.Pod) ([]*worker, *lifecycle.Rejected) {
	n := k.sync.node.Load()
	if n == nil {
		return nil, nil
	}
	if r := k.forbids(pod, n); r != nil {
		return nil, r
	}
	others := k.othersLocked(pod.UID)
	short, ports := shortages(pod, others, n.Allocatable()), portsFree(pod, others)
	switch {
	case len(short) == 0:
		return nil, ports
	case ports != nil || !(eviction.Pod{Pod: pod}).Critical():
		return nil, short[0].rejection()
	}
	behind, err := k.makeRoomLocked(pod, false)
	if err != nil {
		return nil, &lifecycle.Rejected{Reason: "UnexpectedAdmissionError", Message: "Pod was rejected: Unexpected error while attempting to recover from admission failure: " + err.Error()}
	}
	return behind, nil
}

// admitStatic makes room for a static pod as far as there is any: without it the node may not be one.
func (k *Kubelet) admitStatic(pod *v1.Pod) []*worker {
	if fits(pod, k.othersLocked(pod.UID), k.allocatable) == nil {
		return nil
	}
	behind, err := k.makeRoomLocked(pod, true)
	if err != nil {
		k.log.Warn("a static pod runs though the node has no room for it", "pod", fullName(pod), "err", err)
	}
	return behind
}

// forbids says why a pod could not run here even if nothing else did.
func (k *Kubelet) forbids(pod *v1.Pod, n *node.Node) *lifecycle.Rejected {
	if !selects(pod, n.Object()) {
		return &lifecycle.Rejected{Reason: "NodeAffinity", Message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return &lifecycle.Rejected{Reason: "PodOSNotSupported", Message: "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS"}
	}
	if why := sysctls.Forbidden(pod, k.cfg.UnsafeSysctls); why != "" {
		return &lifecycle.Rejected{Reason: "SysctlForbidden", Message: "Pod was rejected: " + why}
	}
	if why := eviction.Admits(eviction.Pod{Pod: pod}, qos.GetPodQOS(pod), k.pressures()); why != "" {
		return &lifecycle.Rejected{Reason: "Evicted", Message: "Pod was rejected: " + why}
	}
	return nil
}

// othersLocked lists the pods beside one that hold something of the node, with the resources that they hold.
func (k *Kubelet) othersLocked(but types.UID) []*v1.Pod {
	var out []*v1.Pod
	for _, w := range k.workers {
		v := w.shown.Load()
		switch {
		case w.uid == but || v.state.Stage >= lifecycle.Finished || v.state.Rejected():
		default:
			out = append(out, w.allocatedLocked())
		}
	}
	return out
}

// allocatedLocked is the pod with the resources that it holds.
func (w *worker) allocatedLocked() *v1.Pod {
	if w.granted != nil {
		return w.granted
	}
	return w.shown.Load().state.Pod
}
