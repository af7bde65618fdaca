package nodeauthz

import (
	"fmt"
	"sync"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

type kind int

const (
	podKind kind = iota
	secretKind
	configMapKind
	claimKind
	accountKind
	resourceClaimKind
	volumeKind
	attachmentKind
	sliceKind
	certificateKind
)

func (k kind) namespaced() bool { return k != volumeKind && k != attachmentKind && k != sliceKind }

// owned says whether objects of the kind name their node themselves.
func (k kind) owned() bool { return k == attachmentKind || k == sliceKind || k == certificateKind }

type objectKey struct {
	kind            kind
	namespace, name string
}

// volume is what a persistent volume leads to.
type volume struct {
	claim   objectKey
	secrets []objectKey
}

// graph knows which objects each node's pods lead to.
type graph struct {
	mu sync.RWMutex
	// pods maps a pod to the node it is bound to and to what it names, itself included.
	pods map[types.UID]podRefs
	// uses counts, for each object and node, the pods of the node that name the object. Invariant: it is the sum of pods.
	uses map[objectKey]map[string]int
	// volumes maps a persistent volume's name to its claim and secrets; byClaimSecret maps back from a secret.
	volumes       map[string]volume
	secretVolumes map[objectKey]map[string]bool
	// owners maps an object that names its node to that node.
	owners map[objectKey]string
}

type podRefs struct {
	node string
	keys []objectKey
}

func newGraph() *graph {
	return &graph{
		pods:          map[types.UID]podRefs{},
		uses:          map[objectKey]map[string]int{},
		volumes:       map[string]volume{},
		secretVolumes: map[objectKey]map[string]bool{},
		owners:        map[objectKey]string{},
	}
}

// reaches says whether a pod of node leads to key.
func (g *graph) reaches(node string, key objectKey) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if key.kind.owned() {
		return node != "" && g.owners[key] == node
	}
	if key.kind == volumeKind {
		v, ok := g.volumes[key.name]
		return ok && g.uses[v.claim][node] > 0
	}
	if g.uses[key][node] > 0 {
		return true
	}
	for name := range g.secretVolumes[key] {
		if g.uses[g.volumes[name].claim][node] > 0 {
			return true
		}
	}
	return false
}

func (g *graph) setPod(pod *corev1.Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetPodLocked(pod.UID)
	if pod.Spec.NodeName == "" {
		return
	}
	refs := podRefs{node: pod.Spec.NodeName, keys: podKeys(pod)}
	g.pods[pod.UID] = refs
	for _, k := range refs.keys {
		if g.uses[k] == nil {
			g.uses[k] = map[string]int{}
		}
		g.uses[k][refs.node]++
	}
}

func (g *graph) forgetPod(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetPodLocked(uid)
}

func (g *graph) forgetPodLocked(uid types.UID) {
	refs, ok := g.pods[uid]
	if !ok {
		return
	}
	delete(g.pods, uid)
	for _, k := range refs.keys {
		if g.uses[k][refs.node]--; g.uses[k][refs.node] <= 0 {
			delete(g.uses[k], refs.node)
		}
		if len(g.uses[k]) == 0 {
			delete(g.uses, k)
		}
	}
}

func (g *graph) setVolume(pv *corev1.PersistentVolume) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetVolumeLocked(pv.Name)
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return
	}
	v := volume{claim: objectKey{claimKind, ref.Namespace, ref.Name}, secrets: volumeSecrets(pv)}
	g.volumes[pv.Name] = v
	for _, s := range v.secrets {
		if g.secretVolumes[s] == nil {
			g.secretVolumes[s] = map[string]bool{}
		}
		g.secretVolumes[s][pv.Name] = true
	}
}

func (g *graph) forgetVolume(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetVolumeLocked(name)
}

func (g *graph) forgetVolumeLocked(name string) {
	for _, s := range g.volumes[name].secrets {
		delete(g.secretVolumes[s], name)
		if len(g.secretVolumes[s]) == 0 {
			delete(g.secretVolumes, s)
		}
	}
	delete(g.volumes, name)
}

func (g *graph) setOwner(key objectKey, node string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.owners[key] = node
}

func (g *graph) forgetOwner(key objectKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.owners, key)
}

// follow keeps the graph up to date from factory's informers.
func (g *graph) follow(factory informers.SharedInformerFactory, synced *[]func() bool) error {
	core, certificates := factory.Core().V1(), factory.Certificates().V1()
	for _, f := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{core.Pods().Informer(), handler(podChanged(g), g.setPod, func(p *corev1.Pod) { g.forgetPod(p.UID) })},
		{core.PersistentVolumes().Informer(), handler(always[*corev1.PersistentVolume], g.setVolume, func(v *corev1.PersistentVolume) { g.forgetVolume(v.Name) })},
		{factory.Storage().V1().VolumeAttachments().Informer(), owner(g, attachmentKind, func(a *storagev1.VolumeAttachment) string { return a.Spec.NodeName })},
		{factory.Resource().V1().ResourceSlices().Informer(), owner(g, sliceKind, func(s *resourcev1.ResourceSlice) string {
			if s.Spec.NodeName == nil {
				return ""
			}
			return *s.Spec.NodeName
		})},
		{certificates.PodCertificateRequests().Informer(), owner(g, certificateKind, func(r *certv1.PodCertificateRequest) string { return string(r.Spec.NodeName) })},
	} {
		reg, err := f.informer.AddEventHandler(f.handler)
		if err != nil {
			return fmt.Errorf("follow pods and volumes for the node authorizer: %w", err)
		}
		*synced = append(*synced, reg.HasSynced)
	}
	return nil
}

func always[T any](_, _ T) bool { return true }

// owner follows objects that name their node.
func owner[T metav1.Object](g *graph, kind kind, node func(T) string) cache.ResourceEventHandler {
	key := func(o T) objectKey { return objectKey{kind, o.GetNamespace(), o.GetName()} }
	return handler(func(old, now T) bool { return node(old) != node(now) },
		func(o T) { g.setOwner(key(o), node(o)) }, func(o T) { g.forgetOwner(key(o)) })
}

// podChanged spares the graph the many status updates. A pod of the same name but another uid means that we missed the
// deletion of the old one.
func podChanged(g *graph) func(old, now *corev1.Pod) bool {
	return func(old, now *corev1.Pod) bool {
		if old.UID != now.UID {
			g.forgetPod(old.UID)
			return true
		}
		return old.Spec.NodeName != now.Spec.NodeName ||
			len(old.Spec.EphemeralContainers) != len(now.Spec.EphemeralContainers) ||
			len(old.Status.ResourceClaimStatuses) != len(now.Status.ResourceClaimStatuses)
	}
}

func handler[T any](changed func(old, now T) bool, set, forget func(T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(T); ok {
				set(o)
			}
		},
		UpdateFunc: func(old, now any) {
			was, ok1 := old.(T)
			is, ok2 := now.(T)
			if ok1 && ok2 && changed(was, is) {
				set(is)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(T); ok {
				forget(o)
			}
		},
	}
}
