package scheduler

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// watchStorage keeps what the cluster knows of volumes, and tells the queue what changed.
func (s *Scheduler) watchStorage(shared informers.SharedInformerFactory) error {
	core, storage := shared.Core().V1(), shared.Storage().V1()
	known := s.cluster.storage
	return errors.Join(
		follow(s, core.PersistentVolumeClaims().Informer(), claimChanged,
			func(c *corev1.PersistentVolumeClaim) { known.Claims[c.Namespace+"/"+c.Name] = c },
			func(c *corev1.PersistentVolumeClaim) { delete(known.Claims, c.Namespace+"/"+c.Name) }),
		follow(s, core.PersistentVolumes().Informer(), volumeChanged,
			func(v *corev1.PersistentVolume) { known.Volumes[v.Name] = v }, func(v *corev1.PersistentVolume) { delete(known.Volumes, v.Name) }),
		follow(s, storage.StorageClasses().Informer(), classChanged,
			func(c *storagev1.StorageClass) { known.Classes[c.Name] = c }, func(c *storagev1.StorageClass) { delete(known.Classes, c.Name) }),
		follow(s, storage.CSINodes().Informer(), csiNodeChanged,
			func(n *storagev1.CSINode) { known.Nodes[n.Name] = n }, func(n *storagev1.CSINode) { delete(known.Nodes, n.Name) }),
		follow(s, storage.VolumeAttachments().Informer(), 0, known.attach, func(a *storagev1.VolumeAttachment) {
			known.detach(a)
			s.queue.happened(change{event: detached})
		}),
	)
}

// follow calls set and drop under the cluster's lock for what informer sees, and tells the queue of what is set; 0 is told of nothing.
func follow[T any](s *Scheduler, informer cache.SharedIndexInformer, told event, set, drop func(*T)) error {
	seen := func(obj any) {
		s.cluster.mu.Lock()
		set(obj.(*T))
		s.cluster.mu.Unlock()
		if told == 0 {
			return
		}
		c := change{event: told}
		if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok {
			c.claim = claim.Namespace + "/" + claim.Name
		}
		s.queue.happened(c)
	}
	return s.watch(informer, cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, obj any) { seen(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if last, ok := obj.(*T); ok {
				s.cluster.mu.Lock()
				defer s.cluster.mu.Unlock()
				drop(last)
			}
		},
	})
}
