package localpath

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testClass() *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local-path"}, Provisioner: Provisioner}
}

func testNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name + ".host"}}}
}

func testClaim(uid, node string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c", UID: types.UID(uid), Annotations: map[string]string{provisionerAnnotation: Provisioner, selectedNode: node}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("local-path"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

// story is a state of which one thing after another is changed.
type story struct{ state }

func newStory() *story {
	return &story{state{name: "pvc-u", claim: testClaim("u", "a"), class: testClass(), nodes: map[string]*corev1.Node{"a": testNode("a")}, now: epoch}}
}

func (s *story) maker(n int, phase corev1.PodPhase, message string) *story {
	pod, err := maker(volumeFor(testClaim("u", "a"), testClass(), testNode("a")), "a", n)
	if err != nil {
		panic(err)
	}
	return s.add(pod, phase, message)
}

func (s *story) remover(n int, phase corev1.PodPhase, message string) *story {
	return s.add(remover(s.state.volume, n), phase, message)
}

func (s *story) add(pod *corev1.Pod, phase corev1.PodPhase, message string) *story {
	pod.CreationTimestamp = metav1.NewTime(epoch)
	pod.Status.Phase = phase
	if message != "" {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: message}}}}
	}
	s.helpers = append(s.helpers, pod)
	return s
}

func (s *story) made(phase corev1.PersistentVolumePhase, mutate ...func(*corev1.PersistentVolume)) *story {
	s.volume = volumeFor(testClaim("u", "a"), testClass(), testNode("a"))
	s.volume.Status.Phase = phase
	for _, m := range mutate {
		m(s.volume)
	}
	return s
}

func (s *story) at(d time.Duration) *story { s.now = epoch.Add(d); return s }
func (s *story) unclaimed() *story         { s.claim = nil; return s }
func (s *story) lost(node string) *story   { delete(s.nodes, node); return s }
func (s *story) with(mutate func(*corev1.PersistentVolumeClaim)) *story {
	mutate(s.claim)
	return s
}

func going(v *corev1.PersistentVolume) { v.DeletionTimestamp = ptr.To(metav1.NewTime(epoch)) }
func retained(v *corev1.PersistentVolume) {
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
}

func TestPlan(t *testing.T) {
	const failed = `warn ProvisioningFailed: failed to provision volume with StorageClass "local-path": `
	const path = "/var/lib/orlop-local-path/pvc-u"
	for _, tt := range []struct {
		name string
		s    *story
		want []string
	}{
		{"a claim with a node", newStory(), []string{`tell Provisioning: External provisioner is provisioning volume for claim "n/c"`, "make helper local-path-make-pvc-u on a"}},
		{"a claim of another provisioner", newStory().with(func(c *corev1.PersistentVolumeClaim) { c.Annotations[provisionerAnnotation] = "x" }), nil},
		{"a claim that is being deleted", newStory().with(func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.NewTime(epoch)) }), nil},
		{"a claim with a volume", newStory().with(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }), nil},
		{"several writers", newStory().with(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}), []string{failed + "access mode ReadWriteMany: a directory of a node has only ReadWriteOnce and ReadWriteOncePod"}},
		{"a block device", newStory().with(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }),
			[]string{failed + "volume mode Block is not supported"}},
		{"no node", newStory().with(func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, selectedNode) }),
			[]string{failed + "no node was selected: the class needs volumeBindingMode WaitForFirstConsumer"}},
		{"a node that is gone", newStory().lost("a"), []string{failed + `node "a" not found`, "unselect"}},
		{"the helper waits", newStory().maker(0, corev1.PodPending, ""), []string{"again after 1m0s"}},
		{"the helper waits long", newStory().maker(0, corev1.PodPending, "").at(time.Hour), []string{failed + `node "a" has not run pod kube-system/local-path-make-pvc-u yet`}},
		{"the disk is full", newStory().maker(0, corev1.PodRunning, "no space left on device").at(time.Hour), []string{failed + "no space left on device"}},
		{"the helper's node is gone", newStory().maker(0, corev1.PodPending, "").lost("a"), []string{"force helper local-path-make-pvc-u on a"}},
		{"the helper was evicted", newStory().maker(0, corev1.PodFailed, "evicted"), []string{failed + "evicted", "again after 5s"}},
		{"and is made again", newStory().maker(0, corev1.PodFailed, "evicted").at(6 * time.Second), []string{failed + "evicted", "make helper local-path-make-pvc-u-1 on a"}},
		{"then the old one goes", newStory().maker(0, corev1.PodFailed, "").maker(1, corev1.PodPending, ""), []string{"drop helper local-path-make-pvc-u on a", "again after 1m0s"}},
		{"evicted, and nobody wants it any more", newStory().maker(0, corev1.PodFailed, "evicted").unclaimed(), []string{"make volume"}},
		{"the directory is there", newStory().maker(0, corev1.PodSucceeded, ""), []string{"make volume"}},
		{"the directory is there, the claim is not", newStory().maker(0, corev1.PodSucceeded, "").unclaimed(), []string{"make volume"}},
		{"the volume is there", newStory().maker(0, corev1.PodSucceeded, "").made(corev1.VolumeBound), []string{"drop helper local-path-make-pvc-u on a"}},
		{"a bound volume", newStory().made(corev1.VolumeBound), nil},
		{"a bound volume of a node that is gone", newStory().made(corev1.VolumeBound).lost("a"), nil},
		{"a bound volume that somebody deletes", newStory().made(corev1.VolumeBound, going), nil},
		{"a released volume", newStory().made(corev1.VolumeReleased).unclaimed(), []string{"delete volume"}},
		{"a volume that was called released too early", newStory().made(corev1.VolumeReleased, going), nil},
		{"a released volume to keep", newStory().made(corev1.VolumeReleased, retained).unclaimed(), nil},
		{"a volume to keep is deleted", newStory().made(corev1.VolumeReleased, retained, going).unclaimed(), []string{"release volume"}},
		{"deletion has begun", newStory().made(corev1.VolumeReleased, going).unclaimed(), []string{"make helper local-path-remove-pvc-u on a"}},
		{"but one may still make it", newStory().made(corev1.VolumeReleased, going).unclaimed().maker(0, corev1.PodRunning, ""), []string{"drop helper local-path-make-pvc-u on a"}},
		{"it is being removed", newStory().made(corev1.VolumeReleased, going).unclaimed().remover(0, corev1.PodRunning, ""), nil},
		{"it cannot be removed", newStory().made(corev1.VolumeReleased, going).unclaimed().remover(0, corev1.PodRunning, "a file system is mounted there"),
			[]string{"warn VolumeFailedDelete: a file system is mounted there"}},
		{"it is removed", newStory().made(corev1.VolumeReleased, going).unclaimed().remover(0, corev1.PodSucceeded, ""), []string{"release volume"}},
		{"the volume is gone", newStory().made(corev1.VolumeReleased, going).unclaimed().remover(0, corev1.PodSucceeded, "").without(), []string{"drop helper local-path-remove-pvc-u on a"}},
		{"released, and the node is gone", newStory().made(corev1.VolumeReleased).unclaimed().lost("a"),
			[]string{`warn VolumeFailedDelete: node "a" is not there to remove ` + path + `: delete the volume to give the directory up`}},
		{"deleted, and the node is gone", newStory().made(corev1.VolumeReleased, going).unclaimed().lost("a"),
			[]string{`warn VolumeFailedDelete: node "a" is gone, and ` + path + ` with it`, "release volume"}},
		{"a volume of another path", newStory().made(corev1.VolumeReleased, going, func(v *corev1.PersistentVolume) { v.Spec.Local.Path = "/etc" }).unclaimed(), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, a := range plan(tt.s.state) {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func (s *story) without() *story { s.volume = nil; return s }

// What the pod of a full node says reaches the claim.
func TestComplaintOfARejectedPod(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "p"}, Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfpods", Message: "Node didn't have enough resource: pods"}}
	if got := complaint(pod); !strings.Contains(got, "enough resource") {
		t.Error(got)
	}
}

// A volume goes through its helper's annotation unchanged, and only one of ours comes out.
func TestVolumeInHelper(t *testing.T) {
	v := volumeFor(testClaim("u", "a"), testClass(), testNode("a"))
	pod, err := maker(v, "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := volumeOf(pod)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, got); diff != "" {
		t.Error(diff)
	}
	v.Spec.Local.Path = "/etc"
	if pod, err = maker(v, "a", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := volumeOf(pod); err == nil {
		t.Error("a volume of /etc was taken for one of ours")
	}
}
