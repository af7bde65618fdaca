// Package history keeps the ControllerRevisions of a DaemonSet or StatefulSet: the
// record of its pod templates that kubectl rollout history and undo read.
package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"reflect"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
)

// Owner is the object whose templates are recorded.
type Owner struct {
	Meta       metav1.Object
	GVK        schema.GroupVersionKind
	Selector   labels.Selector
	Template   *corev1.PodTemplateSpec
	Collisions *int32
}

// Records reads and writes ControllerRevisions.
type Records struct {
	Client kubernetes.Interface
	Lister appslisters.ControllerRevisionLister
}

// Owned lists owner's revisions, oldest first.
func (r Records) Owned(owner Owner) ([]*appsv1.ControllerRevision, error) {
	all, err := r.Lister.ControllerRevisions(owner.Meta.GetNamespace()).List(owner.Selector)
	if err != nil {
		return nil, err
	}
	return sorted(owner, all), nil
}

// live lists owner's revisions as the API server has them.
func (r Records) live(ctx context.Context, owner Owner) ([]*appsv1.ControllerRevision, error) {
	list, err := r.Client.AppsV1().ControllerRevisions(owner.Meta.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: owner.Selector.String()})
	if err != nil {
		return nil, fmt.Errorf("list ControllerRevisions: %w", err)
	}
	all := make([]*appsv1.ControllerRevision, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	return sorted(owner, all), nil
}

// sorted are those of all that are owner's, oldest first.
func sorted(owner Owner, all []*appsv1.ControllerRevision) []*appsv1.ControllerRevision {
	var owned []*appsv1.ControllerRevision
	for _, rev := range all {
		if ref := metav1.GetControllerOfNoCopy(rev); ref != nil && ref.UID == owner.Meta.GetUID() {
			owned = append(owned, rev)
		}
	}
	slices.SortFunc(owned, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return owned
}

// Current returns the revision of owner's present template, made or renumbered where
// it must be, and the others, oldest first.
func (r Records) Current(ctx context.Context, owner Owner) (*appsv1.ControllerRevision, []*appsv1.ControllerRevision, error) {
	owned, err := r.Owned(owner)
	if err != nil {
		return nil, nil, err
	}
	data, err := Encode(owner.Template)
	if err != nil {
		return nil, nil, err
	}
	if newest := len(owned) - 1; newest < 0 || !sameJSON(owned[newest].Data.Raw, data) {
		// The cache may not show the last number given: two would have the same one.
		if owned, err = r.live(ctx, owner); err != nil {
			return nil, nil, err
		}
	}
	next := int64(1)
	if len(owned) > 0 {
		next = owned[len(owned)-1].Revision + 1
	}
	i := len(owned) - 1 // of several alike, the newest
	for i >= 0 && !sameJSON(owned[i].Data.Raw, data) {
		i--
	}
	if i < 0 {
		made, err := r.create(ctx, owner, data, next)
		return made, owned, err
	}
	current, others := owned[i], slices.Delete(slices.Clone(owned), i, i+1)
	if current.Revision == next-1 {
		return current, others, nil
	}
	renumbered := current.DeepCopy() // an old template has come back: it is the newest now
	renumbered.Revision = next
	current, err = r.Client.AppsV1().ControllerRevisions(current.Namespace).Update(ctx, renumbered, metav1.UpdateOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("renumber ControllerRevision: %w", err)
	}
	return current, others, nil
}

func (r Records) create(ctx context.Context, owner Owner, data []byte, number int64) (*appsv1.ControllerRevision, error) {
	sum := fnv.New32a()
	sum.Write(data)
	if owner.Collisions != nil {
		sum.Write([]byte(strconv.Itoa(int(*owner.Collisions))))
	}
	hash := rand.SafeEncodeString(strconv.FormatUint(uint64(sum.Sum32()), 10))
	revLabels := maps.Clone(owner.Template.Labels)
	if revLabels == nil {
		revLabels = map[string]string{}
	}
	revLabels[appsv1.ControllerRevisionHashLabelKey] = hash
	annotations := maps.Clone(owner.Meta.GetAnnotations())
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	wanted := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.Meta.GetNamespace(), Name: owner.Meta.GetName() + "-" + hash, Labels: revLabels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner.Meta, owner.GVK)},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}
	made, err := r.Client.AppsV1().ControllerRevisions(wanted.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		there, getErr := r.Client.AppsV1().ControllerRevisions(wanted.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
		if getErr == nil && sameJSON(there.Data.Raw, data) {
			return there, nil // the cache had not seen our own
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create ControllerRevision: %w", err)
	}
	return made, nil
}

// Trim deletes the oldest of others beyond limit, sparing those whose hash is in use.
func (r Records) Trim(ctx context.Context, others []*appsv1.ControllerRevision, limit int, inUse map[string]bool) error {
	idle := slices.DeleteFunc(slices.Clone(others), func(rev *appsv1.ControllerRevision) bool {
		return inUse[rev.Labels[appsv1.ControllerRevisionHashLabelKey]] || inUse[rev.Name]
	})
	var errs []error
	for _, rev := range idle[:max(len(idle)-limit, 0)] {
		err := r.Client.AppsV1().ControllerRevisions(rev.Namespace).Delete(ctx, rev.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete ControllerRevision %s: %w", rev.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Encode returns template as the patch that would bring it back.
func Encode(template *corev1.PodTemplateSpec) ([]byte, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(template)
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	content["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": content}})
}

// Decode returns the template that a revision holds.
func Decode(rev *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var holder struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	if err := json.Unmarshal(rev.Data.Raw, &holder); err != nil {
		return nil, fmt.Errorf("decode ControllerRevision %s: %w", rev.Name, err)
	}
	return &holder.Spec.Template, nil
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
