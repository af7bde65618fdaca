package scheduler

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func testVolume(name, size string, mutate ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	v.Spec.StorageClassName, v.Spec.AccessModes = "late", []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	v.Status.Phase = corev1.VolumeAvailable
	for _, m := range mutate {
		m(v)
	}
	return v
}

func onlyOn(node string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
}

func testClaim(name, size string, mutate ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	c.Spec.StorageClassName, c.Spec.AccessModes = ptr.To("late"), []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	for _, m := range mutate {
		m(c)
	}
	return c
}

func TestOffers(t *testing.T) {
	ref := func(name string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: name}
		}
	}
	volumes := []*corev1.PersistentVolume{
		testVolume("big", "9Gi"), testVolume("small", "1Mi"), testVolume("fit-b", "2Gi"), testVolume("fit-a", "2Gi"), testVolume("kept", "2Gi"), testVolume("mine", "3Gi", ref("c")),
		testVolume("theirs", "2Gi", ref("d")), testVolume("bound", "2Gi", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeReleased }),
		testVolume("other", "2Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "other" }),
		testVolume("block", "2Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }),
		testVolume("readonly", "2Gi", func(v *corev1.PersistentVolume) {
			v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		}),
	}
	var got []string
	for _, o := range offersFor(testClaim("c", "1Gi"), volumes, func(name string) bool { return name == "kept" }) {
		got = append(got, o.volume.Name)
	}
	if want := "fit-a fit-b mine big"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestDelayedClaimsChooseTheNode(t *testing.T) {
	nodes := []*corev1.Node{testNode("a"), testNode("b", func(n *corev1.Node) { n.Labels["zone"] = "z" })}
	offers := func(volumes ...*corev1.PersistentVolume) []offer {
		return offersFor(testClaim("c", "1Gi"), volumes, func(string) bool { return false })
	}
	one := offers(testVolume("v", "1Gi", onlyOn("b")))
	zone := []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: []string{"y", "z"}}}}}
	chosen := func(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{selectedNode: "b"} }
	const none = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
	for _, tc := range []struct {
		name    string
		claims  []delayedClaim
		node    string
		volume  string
		message string
	}{
		{"where the volume is", []delayedClaim{{claim: testClaim("c", "1Gi"), offers: one}}, "b", "v", ""},
		{"one volume is not two claims'", []delayedClaim{{claim: testClaim("c", "1Gi"), offers: one}, {claim: testClaim("d", "1Gi"), offers: one}}, "", "", none},
		{"the second is made", []delayedClaim{{claim: testClaim("c", "1Gi"), offers: one}, {claim: testClaim("d", "1Gi"), provisioned: true, topologies: zone}}, "b", "v", ""},
		{"made where it may", []delayedClaim{{claim: testClaim("c", "1Gi"), provisioned: true, topologies: zone}}, "b", "", ""},
		{"being made already", []delayedClaim{{claim: testClaim("c", "1Gi", chosen), provisioned: true}}, "b", "", ""},
		{"nothing to be had", []delayedClaim{{claim: testClaim("c", "1Gi")}}, "", "", none},
	} {
		v, _ := clusterOf(nodes, nil).place(&Request{Pod: NewPod(testPod("p")), Delayed: tc.claims})
		if message, _, _ := strings.Cut(v.Message, " preemption:"); v.Node != tc.node || message != tc.message {
			t.Errorf("%s: %q, %q", tc.name, v.Node, message)
			continue
		}
		if tc.volume != "" && (v.volumes[0].volume == nil || v.volumes[0].volume.Name != tc.volume) || tc.volume == "" && v.Node != "" && v.volumes[0].volume != nil {
			t.Errorf("%s: %+v", tc.name, v.volumes)
		}
	}
}

// The scheduler promises a volume, orders another, and binds the pod when the claims have both.
func TestBindsVolumesFirst(t *testing.T) {
	late := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Provisioner: "example.com/p", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	uses := func(names ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			for _, name := range names {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
			}
		}
	}
	client, _, _ := running(t, testNode("a", func(n *corev1.Node) { n.Spec.Unschedulable = true }), testNode("b"), testPod("p", minor, uses("static", "dynamic")), late, testVolume("v", "1Gi", onlyOn("b")), testClaim("static", "1Gi"), testClaim("dynamic", "5Gi"))
	settle := func(client *fake.Clientset, claim, volume string) {
		claims := client.CoreV1().PersistentVolumeClaims("default")
		c, err := claims.Get(t.Context(), claim, metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		c.Spec.VolumeName, c.Status.Phase = volume, corev1.ClaimBound
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		c.Annotations[bindCompleted] = "yes"
		if _, err := claims.Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "volume promised and node chosen", func() bool {
		v, err1 := client.CoreV1().PersistentVolumes().Get(t.Context(), "v", metav1.GetOptions{})
		c, err2 := client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "dynamic", metav1.GetOptions{})
		return err1 == nil && err2 == nil && v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Name == "static" && c.Annotations[selectedNode] == "b"
	})
	bound := func() string {
		p, err := client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p.Spec.NodeName
	}
	if node := bound(); node != "" {
		t.Errorf("bound to %s before its volumes", node)
	}
	settle(client, "static", "v")
	settle(client, "dynamic", "made")
	eventually(t, "the pod on b", func() bool { return bound() == "b" })
}
