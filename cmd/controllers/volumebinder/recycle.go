package volumebinder

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// glance is how often a pod that empties a volume is looked at.
	glance = 2 * time.Second
	// gibi is the size that a recycler's time grows by.
	gibi = 1 << 30
)

// Recycler is how volumes of one kind are emptied: by a pod, whose first volume is replaced by the one to empty.
type Recycler struct {
	// Pod is the template. Its namespace is that of the pods, default where it has none.
	Pod *corev1.Pod
	// Minimum is how long a pod may take at least, and PerGiB what each GiB of the volume adds.
	Minimum, PerGiB time.Duration
}

// Recyclers are those of the kinds of volumes that can be recycled. One without a template refuses its kind.
type Recyclers struct{ HostPath, NFS Recycler }

// Validate says what is wrong with the templates.
func (r Recyclers) Validate() error {
	check := func(kind string, of Recycler, has func(*corev1.Volume) bool) error {
		switch {
		case of.Pod == nil:
			return nil
		case len(of.Pod.Spec.Volumes) == 0 || !has(&of.Pod.Spec.Volumes[0]):
			return fmt.Errorf("recycler pod for %s: its first volume must be one", kind)
		case of.Pod.Spec.RestartPolicy != corev1.RestartPolicyNever && of.Pod.Spec.RestartPolicy != corev1.RestartPolicyOnFailure:
			return fmt.Errorf("recycler pod for %s: its restartPolicy must be Never or OnFailure, or it never ends", kind)
		}
		return nil
	}
	return errors.Join(
		check("hostPath", r.HostPath, func(v *corev1.Volume) bool { return v.HostPath != nil }),
		check("nfs", r.NFS, func(v *corev1.Volume) bool { return v.NFS != nil }))
}

// podFor is the pod that empties v.
func (r Recyclers) podFor(v *corev1.PersistentVolume) (*corev1.Pod, error) {
	var of Recycler
	var source corev1.VolumeSource
	switch {
	case v.Spec.HostPath != nil:
		of, source.HostPath = r.HostPath, v.Spec.HostPath
	case v.Spec.NFS != nil:
		of, source.NFS = r.NFS, v.Spec.NFS
	default:
		return nil, errors.New("No recycler plugin found for the volume!")
	}
	if of.Pod == nil {
		kind := "hostpath"
		if v.Spec.NFS != nil {
			kind = "nfs"
		}
		return nil, fmt.Errorf("there is no recycler pod: set --pv-recycler-pod-template-filepath-%s, or use the policy Retain or Delete", kind)
	}
	pod := of.Pod.DeepCopy()
	pod.GenerateName, pod.Name = "", "recycler-for-"+v.Name
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Spec.Volumes[0].VolumeSource = source
	if pod.Spec.ActiveDeadlineSeconds == nil {
		limit := int64(max(of.Minimum, of.PerGiB*time.Duration((size(v).Value()+gibi-1)/gibi)) / time.Second)
		pod.Spec.ActiveDeadlineSeconds = &limit
	}
	if a := v.Spec.NodeAffinity; a != nil && pod.Spec.Affinity == nil { // what is to be emptied may be on one node only
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: a.Required}}
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[ofVolume] = string(v.UID)
	return pod, nil
}

// ofVolume is the annotation by which a recycler's pod tells which volume it empties: another may have had its name.
const ofVolume = "orlop.io/recycles"

// recycle empties v, which was released, and gives it free. It is called again and again until that is done.
func (c *Controller) recycle(ctx context.Context, v *corev1.PersistentVolume) error {
	wanted, err := c.recyclers.podFor(v)
	if err != nil {
		return c.recycleFailed(ctx, v, err.Error())
	}
	pods := c.client.CoreV1().Pods(wanted.Namespace)
	pod, err := pods.Get(ctx, wanted.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		if c.failed.IsInBackOffSinceUpdate(string(v.UID), time.Now()) {
			c.byName.AddAfter(v.Name, c.failed.Get(string(v.UID)))
			return nil
		}
		if _, err := pods.Create(ctx, wanted, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			c.failed.Next(string(v.UID), time.Now())
			return errors.Join(c.recycleFailed(ctx, v, fmt.Sprintf("Recycle failed: unexpected error creating recycler pod:  %v", err)), fmt.Errorf("create recycler pod: %w", err))
		}
		c.events.Eventf(v, corev1.EventTypeNormal, "RecyclerPod", "Recycler pod: Created pod %s/%s", wanted.Namespace, wanted.Name)
	case err != nil:
		return fmt.Errorf("read recycler pod: %w", err)
	case pod.DeletionTimestamp != nil: // an earlier one; the next comes when it is gone
	case pod.Annotations[ofVolume] != string(v.UID):
		return c.dismiss(ctx, pod)
	case pod.Status.Phase == corev1.PodSucceeded:
		return c.recycled(ctx, v, pod)
	case pod.Status.Phase == corev1.PodFailed:
		c.failed.Next(string(v.UID), time.Now())
		why := pod.Status.Message
		if why == "" {
			why = "pod failed, pod.Status.Message unknown"
		}
		return errors.Join(c.dismiss(ctx, pod), c.recycleFailed(ctx, v, "Recycle failed: "+why))
	}
	c.byName.AddAfter(v.Name, glance)
	return nil
}

// dismiss deletes a recycler's pod that has done what it could.
func (c *Controller) dismiss(ctx context.Context, pod *corev1.Pod) error {
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete recycler pod: %w", err)
	}
	return nil
}

// recycled gives v free: it is empty. The pod goes last, for it is what says so if this is cut off.
func (c *Controller) recycled(ctx context.Context, v *corev1.PersistentVolume, pod *corev1.Pod) error {
	c.failed.DeleteEntry(string(v.UID))
	free := v.DeepCopy()
	delete(free.Annotations, boundByController)
	if ref := free.Spec.ClaimRef; v.Annotations[boundByController] != "" {
		free.Spec.ClaimRef = nil
	} else if ref != nil { // who reserved it by name keeps it reserved, for the next claim of that name
		ref.UID, ref.ResourceVersion = "", ""
	}
	written, err := c.client.CoreV1().PersistentVolumes().Update(ctx, free, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("give recycled volume free: %w", err)
	}
	c.events.Event(v, corev1.EventTypeNormal, "VolumeRecycled", "Volume recycled")
	written.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable, LastPhaseTransitionTime: written.Status.LastPhaseTransitionTime}
	if _, err := c.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, written, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("write status of recycled volume: %w", err)
	}
	return c.dismiss(ctx, pod)
}

// recycleFailed says so, once.
func (c *Controller) recycleFailed(ctx context.Context, v *corev1.PersistentVolume, why string) error {
	if v.Status.Phase == corev1.VolumeFailed && v.Status.Message == why {
		return nil
	}
	var p Plan
	p.tell(corev1.EventTypeWarning, "VolumeFailedRecycle", "%s", why)
	p.volumePhase(v, corev1.VolumeFailed, why)
	return c.carryOut(ctx, v, p)
}
