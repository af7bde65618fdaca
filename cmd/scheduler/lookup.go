package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
)

// noProvisioner is the provisioner of classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// lookup finds what other objects say about a pod.
type lookup struct {
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	services    corelisters.ServiceLister
	controllers corelisters.ReplicationControllerLister
	replicaSets appslisters.ReplicaSetLister
	stateful    appslisters.StatefulSetLister
	classes     storagelisters.StorageClassLister

	mu sync.Mutex
	// kept are the volumes that were promised to claims, by name, until the API says so too.
	kept map[string]types.UID

	synced []cache.InformerSynced
}

func newLookup(shared informers.SharedInformerFactory) *lookup {
	core, apps, classes := shared.Core().V1(), shared.Apps().V1(), shared.Storage().V1().StorageClasses()
	l := &lookup{
		classes: classes.Lister(), kept: map[string]types.UID{},
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(), services: core.Services().Lister(),
		controllers: core.ReplicationControllers().Lister(), replicaSets: apps.ReplicaSets().Lister(), stateful: apps.StatefulSets().Lister(),
	}
	for _, i := range []cache.SharedIndexInformer{core.PersistentVolumeClaims().Informer(), core.PersistentVolumes().Informer(), classes.Informer(),
		core.Services().Informer(), core.ReplicationControllers().Informer(), apps.ReplicaSets().Informer(), apps.StatefulSets().Informer()} {
		l.synced = append(l.synced, i.HasSynced)
	}
	return l
}

// request completes pod for a decision.
func (l *lookup) request(pod *Pod) *Request {
	req := &Request{Pod: pod}
	if len(pod.Spec.ResourceClaims) > 0 { // without its devices it must not run
		req.Rejected = "pod claims devices (spec.resourceClaims), and this scheduler has no DynamicResources to allocate them"
		return req
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = ephemeral.VolumeClaimName(pod.Pod, v)
		default:
			continue
		}
		if err := l.claim(req, pod.Namespace, name); err != nil {
			req.Rejected = err.Error()
			return req
		}
	}
	// The small ones choose first: they leave the most for the others.
	slices.SortStableFunc(req.Delayed, func(a, b delayedClaim) int {
		x, y := a.claim.Spec.Resources.Requests[corev1.ResourceStorage], b.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		req.Siblings = l.siblings(pod.Pod)
	}
	return req
}

// claim takes into req what one of its claims asks of a node.
func (l *lookup) claim(req *Request, namespace, name string) error {
	pvc, err := l.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("persistentvolumeclaim %q not found", name)
	} else if err != nil {
		return err
	}
	if pvc.DeletionTimestamp != nil {
		return fmt.Errorf("persistentvolumeclaim %q is being deleted", name)
	}
	if pvc.Spec.VolumeName == "" {
		return l.delay(req, pvc)
	}
	if pvc.Status.Phase == corev1.ClaimPending {
		return errors.New("pod has unbound immediate PersistentVolumeClaims")
	}
	pv, err := l.volumes.Get(pvc.Spec.VolumeName)
	if err != nil {
		return fmt.Errorf("volume %q of persistentvolumeclaim %q: %w", pvc.Spec.VolumeName, name, err)
	}
	if pv.Spec.NodeAffinity != nil && pv.Spec.NodeAffinity.Required != nil {
		req.Volumes = append(req.Volumes, nodeaffinity.NewLazyErrorNodeSelector(pv.Spec.NodeAffinity.Required))
	}
	return nil
}

// delay takes in a claim without a volume, which only some classes let a pod have.
func (l *lookup) delay(req *Request, pvc *corev1.PersistentVolumeClaim) error {
	class, err := l.classes.Get(className(pvc))
	if className(pvc) != "" && apierrors.IsNotFound(err) {
		return fmt.Errorf("storageclass.storage.k8s.io %q not found", className(pvc))
	}
	if err != nil || !isDelayed(class) {
		return errors.New("pod has unbound immediate PersistentVolumeClaims")
	}
	volumes, err := l.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := func(name string) bool { uid, is := l.kept[name]; return is && uid != pvc.UID }
	req.Delayed = append(req.Delayed, delayedClaim{
		claim: pvc, offers: offersFor(pvc, volumes, kept),
		provisioned: class.Provisioner != "" && class.Provisioner != noProvisioner, topologies: class.AllowedTopologies,
	})
	return nil
}

// keep promises volumes to claims; release takes the promises back.
func (l *lookup) keep(all []assignment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range all {
		if a.volume != nil {
			l.kept[a.volume.Name] = a.claim.UID
		}
	}
}

func (l *lookup) release(all []assignment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range all {
		if a.volume != nil && l.kept[a.volume.Name] == a.claim.UID {
			delete(l.kept, a.volume.Name)
		}
	}
}

// siblings selects the pods that all of pod's Services and its controller select; nil when
// it has none.
func (l *lookup) siblings(pod *corev1.Pod) labels.Selector {
	var requirements labels.Requirements
	merge := func(s labels.Selector) {
		if r, selectable := s.Requirements(); selectable {
			requirements = append(requirements, r...)
		}
	}
	if services, err := l.services.Services(pod.Namespace).List(labels.Everything()); err == nil {
		for _, svc := range services {
			if len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				merge(labels.SelectorFromSet(svc.Spec.Selector))
			}
		}
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		switch ref.Kind {
		case "ReplicaSet":
			if rs, err := l.replicaSets.ReplicaSets(pod.Namespace).Get(ref.Name); err == nil && rs.UID == ref.UID {
				merge(selectorOf(rs.Spec.Selector))
			}
		case "ReplicationController":
			if rc, err := l.controllers.ReplicationControllers(pod.Namespace).Get(ref.Name); err == nil && rc.UID == ref.UID {
				merge(labels.SelectorFromSet(rc.Spec.Selector))
			}
		case "StatefulSet":
			if ss, err := l.stateful.StatefulSets(pod.Namespace).Get(ref.Name); err == nil && ss.UID == ref.UID {
				merge(selectorOf(ss.Spec.Selector))
			}
		}
	}
	if len(requirements) == 0 {
		return nil
	}
	return labels.NewSelector().Add(requirements...)
}

// conditionPatch is the change of status that says why pod has no node.
func conditionPatch(pod *corev1.Pod, reason, message, nominated string) ([]byte, error) {
	condition := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.Now(),
		ObservedGeneration: pod.Generation,
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			condition.LastTransitionTime = c.LastTransitionTime
		}
	}
	status := map[string]any{"conditions": []corev1.PodCondition{condition}}
	if nominated != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = nominated
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
}
