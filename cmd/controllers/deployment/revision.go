package deployment

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/dump"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	"time"
)

// The annotations that kubectl rollout reads.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// notCopied are annotations that a ReplicaSet does not get from its Deployment.
func notCopied(key string) bool {
	switch key {
	case corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation,
		appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

// split finds the ReplicaSet with d's template, the oldest of several.
func split(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (newRS *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, rs := range sets {
		if newRS == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			newRS = rs
			continue
		}
		old = append(old, rs)
	}
	return newRS, old
}

func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(x, y)
}

// templateHash names a template; collisions counts how often the name was taken by another.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	sum := fnv.New32a()
	fmt.Fprintf(sum, "%v", dump.ForHash(*template))
	if collisions != nil {
		var b [8]byte
		for i := range 4 {
			b[i] = byte(*collisions >> (8 * i))
		}
		sum.Write(b[:])
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(sum.Sum32()), 10))
}

func revisionOf(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func nextRevision(old []*appsv1.ReplicaSet) int64 {
	var most int64
	for _, rs := range old {
		most = max(most, revisionOf(rs))
	}
	return most + 1
}

// annotateNew gives rs the Deployment's annotations and revision, and tells whether that changed it.
func annotateNew(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision int64) bool {
	before := maps.Clone(rs.Annotations)
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !notCopied(k) {
			rs.Annotations[k] = v
		}
	}
	if had := revisionOf(rs); had < revision {
		if had > 0 {
			history := strings.Split(rs.Annotations[historyAnnotation], ",")
			history = slices.DeleteFunc(history, func(s string) bool { return s == "" })
			rs.Annotations[historyAnnotation] = strings.Join(append(history, strconv.FormatInt(had, 10)), ",")
		}
		rs.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
	}
	return !maps.Equal(before, rs.Annotations)
}

// renewRevision makes the new ReplicaSet's revision the highest, and the Deployment's.
func (c *Controller) renewRevision(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	changed := rs.DeepCopy()
	dirty := annotateNew(d, changed, nextRevision(old))
	if changed.Spec.MinReadySeconds != d.Spec.MinReadySeconds {
		changed.Spec.MinReadySeconds, dirty = d.Spec.MinReadySeconds, true
	}
	if dirty {
		updated, err := c.update(ctx, d, changed)
		if err != nil {
			return nil, fmt.Errorf("annotate ReplicaSet %s: %w", rs.Name, err)
		}
		changed = updated
	}
	return changed, c.noteRevision(ctx, d, changed)
}

// noteRevision writes rs's revision to the Deployment, keeping d's status for what follows.
func (c *Controller) noteRevision(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) error {
	if d.Annotations[revisionAnnotation] == rs.Annotations[revisionAnnotation] {
		return nil
	}
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[revisionAnnotation] = rs.Annotations[revisionAnnotation]
	status := d.Status
	updated, err := c.client.AppsV1().Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("annotate Deployment: %w", err)
	}
	*d = *updated
	d.Status = status
	return nil
}

// createNew makes the ReplicaSet of d's template.
func (c *Controller) createNew(ctx context.Context, d *appsv1.Deployment, old []*appsv1.ReplicaSet, replicas int) (*appsv1.ReplicaSet, error) {
	wanted := newReplicaSet(d, int32(replicas))
	annotateNew(d, wanted, nextRevision(old))
	setSizeAnnotations(d, wanted)
	made, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		there, getErr := c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
		if getErr != nil {
			return nil, getErr
		}
		ref := metav1.GetControllerOfNoCopy(there)
		if ref != nil && ref.UID == d.UID && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
			made = there // the cache had not seen our own
			break
		}
		return nil, c.countCollision(ctx, d, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, nil
	case err != nil:
		c.written.doubt(d.Namespace+"/"+d.Name, wanted.Name)
		message := fmt.Sprintf("Failed to create new replica set %q: %v", wanted.Name, err)
		c.events.Eventf(d, corev1.EventTypeWarning, "ReplicaSetCreateError", "%s", message)
		setProgress(&d.Status, corev1.ConditionFalse, "ReplicaSetCreateError", message, time.Now())
		if _, statusErr := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{}); statusErr != nil && !apierrors.IsConflict(statusErr) {
			return nil, fmt.Errorf("create ReplicaSet: %w (and write status: %v)", err, statusErr)
		}
		return nil, fmt.Errorf("create ReplicaSet: %w", err)
	default:
		if replicas > 0 {
			c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", made.Name, replicas)
		}
	}
	c.written.note(d.Namespace+"/"+d.Name, made)
	setProgress(&d.Status, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", made.Name), time.Now())
	return made, c.noteRevision(ctx, d, made)
}

func newReplicaSet(d *appsv1.Deployment, replicas int32) *appsv1.ReplicaSet {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := d.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
}

// countCollision notes that the hash is taken by another template; the next sync uses another.
func (c *Controller) countCollision(ctx context.Context, d *appsv1.Deployment, cause error) error {
	n := int32(1)
	if d.Status.CollisionCount != nil {
		n = *d.Status.CollisionCount + 1
	}
	d.Status.CollisionCount = &n
	if _, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("count hash collision: %w", err)
	}
	return cause
}

// surplus lists the old ReplicaSets that the history limit has no room for.
func surplus(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	alive := slices.DeleteFunc(slices.Clone(old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	excess := len(alive) - int(*d.Spec.RevisionHistoryLimit)
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(alive, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revisionOf(a), revisionOf(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	return slices.DeleteFunc(alive[:excess], func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.Replicas != 0 || deref(rs.Spec.Replicas) != 0 || rs.Generation > rs.Status.ObservedGeneration
	})
}

func setSizeAnnotations(d *appsv1.Deployment, rs *appsv1.ReplicaSet) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	desired, most := sizeAnnotations(d)
	rs.Annotations[desiredAnnotation], rs.Annotations[maxAnnotation] = desired, most
}

func sizeAnnotationsMatch(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	desired, most := sizeAnnotations(d)
	return rs.Annotations[desiredAnnotation] == desired && rs.Annotations[maxAnnotation] == most
}

func sizeAnnotations(d *appsv1.Deployment) (desired, most string) {
	surge, _ := limits(d)
	replicas := int(deref(d.Spec.Replicas))
	return strconv.Itoa(replicas), strconv.Itoa(replicas + surge)
}

// limits returns maxSurge and maxUnavailable as numbers. Both may not be 0.
func limits(d *appsv1.Deployment) (surge, unavailable int) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	replicas := int(deref(d.Spec.Replicas))
	number := func(v *intstr.IntOrString, up bool) int {
		if v == nil {
			return 0
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(v, replicas, up)
		if err != nil {
			return 0
		}
		return n
	}
	surge, unavailable = number(rolling.MaxSurge, true), number(rolling.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, replicas)
}

func look(d *appsv1.Deployment, newRS *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) View {
	v := View{
		Replicas: int(deref(d.Spec.Replicas)), Paused: d.Spec.Paused, StatusReplicas: int(d.Status.Replicas),
		Recreate: d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType,
	}
	v.MaxSurge, v.MaxUnavailable = limits(d)
	numbers := func(rs *appsv1.ReplicaSet) RS {
		annotation := func(key string) int {
			n, err := strconv.Atoi(rs.Annotations[key])
			if err != nil {
				return -1
			}
			return n
		}
		out := RS{
			Name: rs.Name, UID: rs.UID, Replicas: int(deref(rs.Spec.Replicas)), Unobserved: rs.Status.ObservedGeneration < rs.Generation,
			Created: rs.CreationTimestamp.Time, Desired: annotation(desiredAnnotation), MaxReplicas: annotation(maxAnnotation),
		}
		if !out.Unobserved { // those beyond are as good as gone
			out.Available = int(min(rs.Status.AvailableReplicas, deref(rs.Spec.Replicas)))
		}
		return out
	}
	for _, rs := range old {
		v.Old = append(v.Old, numbers(rs))
	}
	if newRS != nil {
		n := numbers(newRS)
		v.New = &n
	}
	return v
}

func deref(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
