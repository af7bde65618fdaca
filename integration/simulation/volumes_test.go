package simulation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// volumesPlot is of claims, the volumes that they are bound to, at once or for their first pod, and pods that use them.
type volumesPlot struct{ made int }

func (p *volumesPlot) parts() []string {
	return []string{"persistentvolume-binder", "pvc-protection", "pv-protection"}
}

func (p *volumesPlot) ownerless() {}

func (p *volumesPlot) begin(s *story) {
	class := func(name string, mode storagev1.VolumeBindingMode) {
		s.put("storageclasses", &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &mode})
	}
	class("now", storagev1.VolumeBindingImmediate)
	class("later", storagev1.VolumeBindingWaitForFirstConsumer)
	for range 3 {
		p.volume(s)
	}
	p.claim(s, "c0")
	p.pod(s, "p0", "c0")
}

func (p *volumesPlot) name(kind string) string {
	p.made++
	return fmt.Sprint(kind, p.made)
}

// volume makes a volume by hand.
func (p *volumesPlot) volume(s *story) {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: p.name("v")}}
	v.Spec = corev1.PersistentVolumeSpec{Capacity: corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse(fmt.Sprintf("%dGi", 1+s.rand.IntN(3)))},
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: pick(s, []string{"now", "later"}),
		PersistentVolumeReclaimPolicy: pick(s, []corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimRetain, corev1.PersistentVolumeReclaimDelete}),
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/v"}}}
	v.Status.Phase = corev1.VolumePending
	s.put("persistentvolumes", v)
	s.note("user: volume %s of %s, %s, %s", v.Name, v.Spec.Capacity.Storage(), v.Spec.StorageClassName, v.Spec.PersistentVolumeReclaimPolicy)
}

func (p *volumesPlot) claim(s *story, name string) {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	c.Spec = corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(pick(s, []string{"now", "later"})),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse(fmt.Sprintf("%dGi", 1+s.rand.IntN(2)))}}}
	c.Status.Phase = corev1.ClaimPending
	s.put("persistentvolumeclaims", c)
	s.note("user: claim %s of %s, %s", name, c.Spec.Resources.Requests.Storage(), *c.Spec.StorageClassName)
}

func (p *volumesPlot) pod(s *story, name, claim string) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: template("db", "v0").Spec}
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	pod.Status.Phase = corev1.PodPending
	s.put("pods", pod)
	s.note("user: pod %s with %s", name, claim)
}

func (p *volumesPlot) user(s *story) {
	switch n := s.rand.IntN(7); n {
	case 0:
		if len(s.table("persistentvolumes").objects) < 6 {
			p.volume(s)
		}
	case 1, 2:
		if name := fmt.Sprint("c", s.rand.IntN(3)); s.table("persistentvolumeclaims").objects[name] == nil {
			p.claim(s, name)
		} else if n == 1 {
			s.note("user: delete claim %s", name)
			s.remove("persistentvolumeclaims", name)
		}
	case 3, 4:
		i := s.rand.IntN(3)
		if name := fmt.Sprint("p", i); s.table("pods").objects[name] == nil {
			p.pod(s, name, fmt.Sprint("c", i))
		} else if n == 3 {
			s.note("user: delete pod %s", name)
			s.remove("pods", name)
		}
	case 5:
		if volumes := all[*corev1.PersistentVolume](s.world, "persistentvolumes"); len(volumes) > 0 && s.rand.IntN(3) == 0 {
			v := pick(s, volumes)
			s.note("user: delete volume %s", v.Name)
			s.remove("persistentvolumes", v.Name)
		}
	}
}

func (p *volumesPlot) accident(*story) {}
func (p *volumesPlot) calm(*story)     {}

// claimOf is the claim that v is kept for, nil where there is none, or another of its name.
func claimOf(w *world, v *corev1.PersistentVolume) *corev1.PersistentVolumeClaim {
	if v.Spec.ClaimRef == nil {
		return nil
	}
	c := find[*corev1.PersistentVolumeClaim](w, "persistentvolumeclaims", v.Spec.ClaimRef.Name)
	if c == nil || c.UID != v.Spec.ClaimRef.UID {
		return nil
	}
	return c
}

func (p *volumesPlot) check(s *story, e effect) {
	switch before := e.before.(type) {
	case *corev1.PersistentVolumeClaim:
		p.checkClaim(s, e, before)
	case *corev1.PersistentVolume:
		p.checkVolume(s, e, before)
	case *corev1.Pod:
		if e.verb != "bind" {
			return
		}
		c := find[*corev1.PersistentVolumeClaim](s.world, "persistentvolumeclaims", before.Spec.Volumes[0].PersistentVolumeClaim.ClaimName)
		if why := e.excused(func(saw sight) string {
			seen, _ := saw["persistentvolumeclaims"][before.Spec.Volumes[0].PersistentVolumeClaim.ClaimName].(*corev1.PersistentVolumeClaim)
			if seen == nil || seen.Spec.VolumeName == "" || seen.Annotations["pv.kubernetes.io/bind-completed"] == "" {
				return fmt.Sprintf("bound pod %s, whose claim %v was not", before.Name, c)
			}
			return ""
		}); why != "" {
			s.fail("%s", why)
		}
	}
}

func (p *volumesPlot) checkClaim(s *story, e effect, before *corev1.PersistentVolumeClaim) {
	is := e.out.(*corev1.PersistentVolumeClaim)
	if was := before.Spec.VolumeName; was != "" && is.Spec.VolumeName != was {
		s.fail("claim %s had volume %s and has %s", is.Name, was, is.Spec.VolumeName)
	}
	// No two have the same volume. What another claim of that name left behind is nobody's.
	for _, other := range all[*corev1.PersistentVolumeClaim](s.world, "persistentvolumeclaims") {
		if name := is.Spec.VolumeName; before.Spec.VolumeName == "" && name != "" && other.UID != is.UID && other.Spec.VolumeName == name && other.Status.Phase == corev1.ClaimBound {
			s.fail("claims %s and %s have volume %s", is.Name, other.Name, name)
		}
	}
	if is.Status.Phase == corev1.ClaimBound && before.Status.Phase != corev1.ClaimBound {
		if v := find[*corev1.PersistentVolume](s.world, "persistentvolumes", is.Spec.VolumeName); v != nil && (v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != is.UID) {
			s.fail("claim %s is bound to volume %s, which is %v's", is.Name, v.Name, v.Spec.ClaimRef)
		}
	}
	lost := len(before.Finalizers) > 0 && len(is.Finalizers) == 0
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if uses := pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName == is.Name; lost && uses && pod.Spec.NodeName != "" && !p.justBound(pod, e) {
			s.fail("claim %s may go, and pod %s uses it", is.Name, pod.Name)
		}
	}
}

// justBound tells that the caller cannot have known that pod is on a node: it was bound after it asked.
func (p *volumesPlot) justBound(pod *corev1.Pod, e effect) bool {
	return e.excused(func(saw sight) string {
		seen, _ := saw["pods"][pod.Name].(*corev1.Pod)
		if seen == nil || seen.UID != pod.UID || seen.Spec.NodeName == "" {
			return ""
		}
		return "it knew"
	}) == ""
}

func (p *volumesPlot) checkVolume(s *story, e effect, before *corev1.PersistentVolume) {
	if e.verb == "delete" && (before.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || claimOf(s.world, before) != nil) {
		s.fail("deleted volume %s, %s, of %v", before.Name, before.Spec.PersistentVolumeReclaimPolicy, before.Spec.ClaimRef)
	}
	is := e.out.(*corev1.PersistentVolume)
	if owner := claimOf(s.world, before); owner != nil && (is.Spec.ClaimRef == nil || is.Spec.ClaimRef.UID != owner.UID) && (owner.Spec.VolumeName == "" || owner.Spec.VolumeName == is.Name) {
		if owner.Status.Phase == corev1.ClaimBound {
			s.fail("volume %s was taken from claim %s and given to %v", is.Name, owner.Name, is.Spec.ClaimRef)
		}
	}
}

func (p *volumesPlot) end(s *story) {
	for _, v := range all[*corev1.PersistentVolume](s.world, "persistentvolumes") {
		owner := claimOf(s.world, v)
		want := corev1.VolumeAvailable
		switch {
		case owner != nil && owner.Spec.VolumeName == v.Name:
			want = corev1.VolumeBound
		case v.Spec.ClaimRef != nil && owner == nil:
			want = corev1.VolumeReleased
		case owner != nil:
			s.fail("calm, and volume %s is kept for claim %s, which has %s", v.Name, owner.Name, owner.Spec.VolumeName)
		}
		gone := v.DeletionTimestamp != nil && want != corev1.VolumeBound || want == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
		if v.Status.Phase != want || gone {
			s.fail("calm, and volume %s is %s, not %s; deleted %t", v.Name, v.Status.Phase, want, v.DeletionTimestamp != nil)
		}
	}
	for _, c := range all[*corev1.PersistentVolumeClaim](s.world, "persistentvolumeclaims") {
		p.endOf(s, c)
	}
	if !s.everybodyKnows() {
		s.fail("calm, and somebody does not know")
	}
}

// endOf tells whether a claim has what it could have.
func (p *volumesPlot) endOf(s *story, c *corev1.PersistentVolumeClaim) {
	var user *corev1.Pod
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName == c.Name {
			user = pod
		}
	}
	switch {
	case c.DeletionTimestamp != nil:
		if user == nil || user.Spec.NodeName == "" {
			s.fail("calm, and claim %s, which nobody uses, is still there", c.Name)
		}
		return
	case c.Status.Phase == corev1.ClaimBound:
		if v := find[*corev1.PersistentVolume](s.world, "persistentvolumes", c.Spec.VolumeName); v == nil || claimOf(s.world, v) != c {
			s.fail("calm, and claim %s is bound to %s, which is not its own", c.Name, c.Spec.VolumeName)
		}
		if user != nil && !available(user) && user.DeletionTimestamp == nil {
			s.fail("calm, and pod %s, whose claim is bound, is %s on %q", user.Name, user.Status.Phase, user.Spec.NodeName)
		}
		return
	case c.Status.Phase == corev1.ClaimLost:
		if s.table("persistentvolumes").objects[c.Spec.VolumeName] != nil && claimOf(s.world, find[*corev1.PersistentVolume](s.world, "persistentvolumes", c.Spec.VolumeName)) == c {
			s.fail("calm, and claim %s is lost, and its volume is there", c.Name)
		}
		return
	case *c.Spec.StorageClassName == "later" && (user == nil || user.Spec.NodeName != ""):
		return // nobody chooses its node: the pod had one before the claim was made, or check would have complained of that
	}
	for _, v := range all[*corev1.PersistentVolume](s.world, "persistentvolumes") {
		if v.Spec.ClaimRef == nil && v.DeletionTimestamp == nil && v.Spec.StorageClassName == *c.Spec.StorageClassName && v.Spec.Capacity.Storage().Cmp(*c.Spec.Resources.Requests.Storage()) >= 0 {
			s.fail("calm, and claim %s has nothing, and volume %s is free", c.Name, v.Name)
		}
	}
}
