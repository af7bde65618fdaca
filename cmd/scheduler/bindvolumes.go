package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// volumePatience is how long a pod's volumes may take to be made and bound.
	volumePatience = 10 * time.Minute
	// lookAgain is how often it is looked whether they are.
	lookAgain = 100 * time.Millisecond
	// boundByController and bindCompleted are the binder's marks.
	boundByController = "pv.kubernetes.io/bound-by-controller"
	bindCompleted     = "pv.kubernetes.io/bind-completed"
)

// bindVolumes gives pod's claims what they were assigned on node, and waits until they have it.
func (s *Scheduler) bindVolumes(ctx context.Context, pod *Pod, node string, all []assignment) error {
	if len(all) == 0 {
		return nil
	}
	for _, a := range all {
		var err error
		if a.volume != nil {
			err = s.promise(ctx, a)
		} else {
			err = s.orderVolume(ctx, a.claim, node)
		}
		if err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, volumePatience)
	defer cancel()
	for {
		bound, err := s.allBound(pod, node, all)
		if bound || err != nil {
			return err
		}
		select {
		case <-limited.Done():
			return fmt.Errorf("binding volumes: %w", limited.Err())
		case <-time.After(lookAgain):
		}
	}
}

// promise keeps a volume for a claim; the binder does the rest.
func (s *Scheduler) promise(ctx context.Context, a assignment) error {
	if a.volume.Spec.ClaimRef != nil && a.volume.Spec.ClaimRef.UID == a.claim.UID {
		return nil
	}
	v := a.volume.DeepCopy()
	v.Spec.ClaimRef = &corev1.ObjectReference{
		APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: a.claim.Namespace, Name: a.claim.Name, UID: a.claim.UID, ResourceVersion: a.claim.ResourceVersion,
	}
	if a.volume.Spec.ClaimRef == nil {
		if v.Annotations == nil {
			v.Annotations = map[string]string{}
		}
		v.Annotations[boundByController] = "yes"
	}
	if _, err := s.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("bind volume %q to claim %q: %w", v.Name, a.claim.Name, err)
	}
	return nil
}

// orderVolume asks the claim's provisioner for a volume that node can use.
func (s *Scheduler) orderVolume(ctx context.Context, claim *corev1.PersistentVolumeClaim, node string) error {
	if claim.Annotations[selectedNode] == node {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"resourceVersion":%q,"annotations":{%q:%q}}}`, claim.UID, claim.ResourceVersion, selectedNode, node)
	_, err := s.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("choose node %q for claim %q: %w", node, claim.Name, err)
	}
	return nil
}

// allBound tells whether all claims have their volumes. It is an error when they cannot get them.
func (s *Scheduler) allBound(pod *Pod, node string, all []assignment) (bool, error) {
	if _, exists, err := s.pods.GetStore().GetByKey(pod.Namespace + "/" + pod.Name); err != nil || !exists {
		return false, errors.New("pod does not exist any more")
	}
	for _, a := range all {
		claim, err := s.lookup.claims.PersistentVolumeClaims(a.claim.Namespace).Get(a.claim.Name)
		if apierrors.IsNotFound(err) || err == nil && claim.UID != a.claim.UID {
			return false, fmt.Errorf("persistentvolumeclaim %q not found", a.claim.Name)
		} else if err != nil {
			return false, err
		}
		if claim.Spec.VolumeName == "" || claim.Annotations[bindCompleted] == "" {
			// A provisioner that cannot serve the node takes the choice back; the cache may lag behind ours.
			if chosen, had := claim.Annotations[selectedNode], a.claim.ResourceVersion != claim.ResourceVersion; a.volume == nil && had && chosen != node {
				return false, fmt.Errorf("provisioning failed for claim %q", claim.Name)
			}
			return false, nil
		}
	}
	return true, nil
}
