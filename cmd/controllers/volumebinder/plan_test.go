package volumebinder

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func ptr[T any](v T) *T { return &v }

func volume(name, size string, mutate ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	v.Status.Phase = corev1.VolumeAvailable
	for _, m := range mutate {
		m(v)
	}
	return v
}

func claim(size string, mutate ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c", UID: "uid-c"}}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Status.Phase = corev1.ClaimPending
	for _, m := range mutate {
		m(c)
	}
	return c
}

func of(name, uid string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "n", Name: name, UID: types.UID(uid)}
	}
}

func text(p Plan) string {
	var out []string
	if p.Volume != nil {
		owner := "nobody"
		if p.Volume.Spec.ClaimRef != nil {
			owner = p.Volume.Spec.ClaimRef.Name
		}
		out = append(out, p.Volume.Name+" of "+owner)
	}
	if p.VolumeStatus != nil {
		out = append(out, p.VolumeStatus.Name+" "+string(p.VolumeStatus.Status.Phase))
	}
	if p.Claim != nil {
		out = append(out, "claims "+p.Claim.Spec.VolumeName)
	}
	if p.ClaimStatus != nil {
		out = append(out, "claim "+string(p.ClaimStatus.Status.Phase))
	}
	if p.Recycle {
		out = append(out, "recycle")
	}
	if p.Delete {
		out = append(out, "delete")
	}
	for _, e := range p.Events {
		out = append(out, e.reason)
	}
	return strings.Join(out, ", ")
}

func TestDecideClaim(t *testing.T) {
	class := func(name string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = name }
	}
	wants := func(name string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name }
	}
	bound := func(c *corev1.PersistentVolumeClaim) {
		c.Annotations = map[string]string{bindCompleted: "yes"}
		c.Spec.VolumeName, c.Status.Phase = "a", corev1.ClaimBound
	}
	later := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "k"}, Provisioner: noProvisioner, VolumeBindingMode: ptr(storagev1.VolumeBindingWaitForFirstConsumer)}
	classed := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr("k") }
	whole := "%s of c, %s Bound, claims %s, claim Bound"
	all := func(name string) string { return strings.ReplaceAll(whole, "%s", name) }
	type vs = []*corev1.PersistentVolume
	for _, tc := range []struct {
		name    string
		claim   *corev1.PersistentVolumeClaim
		volumes vs
		class   *storagev1.StorageClass
		want    string
	}{
		{"the smallest that fits", claim("2Gi"), vs{volume("a", "1Gi"), volume("b", "5Gi"), volume("c", "3Gi")}, nil, all("c")},
		{"the first of equals", claim("1Gi"), vs{volume("b", "1Gi"), volume("a", "1Gi")}, nil, all("a")},
		{"not another's", claim("1Gi"), vs{volume("a", "1Gi", of("x", "uid-x")), volume("b", "2Gi")}, nil, all("b")},
		{"reserved for it, though larger", claim("1Gi"), vs{volume("a", "1Gi"), volume("b", "9Gi", of("c", ""))}, nil, all("b")},
		{"not released", claim("1Gi"), vs{volume("a", "1Gi", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeReleased })}, nil, "FailedBinding"},
		{"selector", claim("1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"name": "b"}}
		}), vs{volume("a", "1Gi"), volume("b", "2Gi")}, nil, all("b")},
		{"access modes", claim("1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = append(c.Spec.AccessModes, corev1.ReadWriteMany)
		}), vs{volume("a", "1Gi")}, nil, "FailedBinding"},
		{"volume mode", claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr(corev1.PersistentVolumeBlock) }), vs{volume("a", "1Gi")}, nil, "FailedBinding"},
		{"class", claim("1Gi", classed), vs{volume("a", "1Gi"), volume("b", "2Gi", class("k"))}, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "k"}}, all("b")},
		{"waits for its first consumer", claim("1Gi", classed), vs{volume("b", "2Gi", class("k"))}, later, "WaitForFirstConsumer"},
		{"no longer, with a node", claim("1Gi", classed, func(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{selectedNode: "n"} }), vs{volume("b", "2Gi", class("k"))}, later, all("b")},
		{"to be provisioned", claim("1Gi", classed), nil, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "k"}, Provisioner: "x.example"}, "claims , ExternalProvisioning"},
		{"by name", claim("1Gi", wants("b")), vs{volume("a", "1Gi"), volume("b", "9Gi")}, nil, all("b")},
		{"by name, too small", claim("1Gi", wants("b")), vs{volume("b", "1Mi")}, nil, "VolumeMismatch"},
		{"by name, taken", claim("1Gi", wants("b")), vs{volume("b", "1Gi", of("x", "uid-x"))}, nil, "FailedBinding"},
		{"by name, to come", claim("1Gi", wants("b")), nil, nil, ""},
		{"lost", claim("1Gi", bound), nil, nil, "claim Lost, ClaimLost"},
		{"misbound", claim("1Gi", bound), vs{volume("a", "1Gi", of("x", "uid-x"))}, nil, "claim Lost, ClaimMisbound"},
		{"half bound", claim("1Gi"), vs{volume("a", "1Gi", of("c", "uid-c"))}, nil, "a Bound, claims a, claim Bound"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, text(DecideClaim(tc.claim, tc.volumes, tc.class))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecideVolume(t *testing.T) {
	going := func(v *corev1.PersistentVolume) { v.DeletionTimestamp = &metav1.Time{Time: time.Now()} }
	phase := func(p corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) { v.Status.Phase = p }
	}
	policy := func(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
	}
	chosen := func(v *corev1.PersistentVolume) { v.Annotations = map[string]string{boundByController: "yes"} }
	mine, released := of("c", "uid-c"), phase(corev1.VolumeReleased)
	for _, tc := range []struct {
		name   string
		volume *corev1.PersistentVolume
		claim  *corev1.PersistentVolumeClaim
		want   string
	}{
		{"new", volume("a", "1Gi", phase(corev1.VolumePending)), nil, "a Available"},
		{"reserved", volume("a", "1Gi", phase(corev1.VolumePending), of("c", "")), nil, "a Available"},
		{"being bound", volume("a", "1Gi", mine), claim("1Gi"), ""},
		{"bound", volume("a", "1Gi", mine), claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "a" }), "a Bound"},
		{"its claim is gone", volume("a", "1Gi", mine, phase(corev1.VolumeBound)), nil, "a Released"},
		{"its claim is another of that name", volume("a", "1Gi", of("c", "old"), phase(corev1.VolumeBound)), claim("1Gi"), "a Released"},
		{"retain", volume("a", "1Gi", mine, released), nil, ""},
		{"delete", volume("a", "1Gi", mine, released, policy(corev1.PersistentVolumeReclaimDelete)), nil, "delete"},
		{"its provisioner deletes", volume("a", "1Gi", mine, released, policy(corev1.PersistentVolumeReclaimDelete), func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{provisionedBy: "x.example"}
		}), nil, ""},
		{"recycle", volume("a", "1Gi", mine, released, policy(corev1.PersistentVolumeReclaimRecycle)), nil, "recycle"},
		{"kept for a claim, and deleted", volume("a", "1Gi", mine, chosen, going, phase(corev1.VolumeBound)), claim("1Gi"), "a of nobody, a Available"},
		{"kept by hand for a claim, and deleted", volume("a", "1Gi", mine, going, phase(corev1.VolumeBound)), claim("1Gi"), "a Available"},
		{"chosen in vain", volume("a", "1Gi", mine, chosen), claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "b" }), "a of nobody"},
	} {
		if diff := cmp.Diff(tc.want, text(DecideVolume(tc.volume, tc.claim))); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

// Whatever is cut off where, each claim ends with one volume of its own, and no volume has two.
func TestCrashAnywhere(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 9))
		var volumes []*corev1.PersistentVolume
		var claims []*corev1.PersistentVolumeClaim
		for i := range 4 {
			volumes = append(volumes, volume(string(rune('a'+i)), "1Gi"))
			claims = append(claims, claim("1Gi", func(c *corev1.PersistentVolumeClaim) {
				c.Name = string(rune('p' + i))
				c.UID = types.UID(c.Name)
			}))
		}
		for range 200 {
			i := r.IntN(4)
			p := DecideClaim(claims[i], volumes, nil)
			if r.IntN(3) == 0 {
				v := volumes[r.IntN(4)]
				var owner *corev1.PersistentVolumeClaim
				if ref := v.Spec.ClaimRef; ref != nil {
					owner = claims[slices.IndexFunc(claims, func(c *corev1.PersistentVolumeClaim) bool { return c.Name == ref.Name })]
				}
				p = DecideVolume(v, owner)
			}
			write := func(v *corev1.PersistentVolume, status bool) {
				j := slices.IndexFunc(volumes, func(o *corev1.PersistentVolume) bool { return o.Name == v.Name })
				next := volumes[j].DeepCopy()
				if status {
					next.Status = v.Status
				} else {
					next.Spec, next.Annotations = v.Spec, v.Annotations
				}
				volumes[j] = next
			}
			var effects []func()
			if p.Volume != nil {
				effects = append(effects, func() { write(p.Volume, false) })
			}
			if p.VolumeStatus != nil {
				effects = append(effects, func() { write(p.VolumeStatus, true) })
			}
			if p.Claim != nil {
				effects = append(effects, func() {
					next := p.Claim.DeepCopy()
					next.Status = claims[i].Status
					claims[i] = next
				})
			}
			if p.ClaimStatus != nil {
				effects = append(effects, func() {
					next := claims[i].DeepCopy()
					next.Status = p.ClaimStatus.Status
					claims[i] = next
				})
			}
			for _, e := range effects[:r.IntN(len(effects)+1)] {
				e()
			}
		}
		seen := map[string]bool{}
		for _, c := range claims {
			if c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName == "" || seen[c.Spec.VolumeName] {
				t.Fatalf("seed %d: claim %s has volume %q and is %s", seed, c.Name, c.Spec.VolumeName, c.Status.Phase)
			}
			seen[c.Spec.VolumeName] = true
		}
		for _, v := range volumes {
			if v.Status.Phase != corev1.VolumeBound {
				t.Fatalf("seed %d: volume %s is %s", seed, v.Name, v.Status.Phase)
			}
		}
	}
}

func TestDefaultClass(t *testing.T) {
	class := func(name string, age int64, marked string) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000-age, 0), Annotations: map[string]string{isDefault: marked}}}
	}
	if got := defaultClass([]*storagev1.StorageClass{class("other", 0, "false"), class("old", 9, "true"), class("b", 5, "true"), class("a", 5, "true")}); got == nil || got.Name != "a" {
		t.Errorf("the default is %v", got)
	}
	if got := defaultClass([]*storagev1.StorageClass{class("other", 0, "false")}); got != nil {
		t.Errorf("%s was not meant", got.Name)
	}
	for name, tc := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		want  bool
	}{
		"none named":  {claim("1Gi"), true},
		"none wanted": {claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr("") }), false},
		"named the old way": {claim("1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: ""}
		}), false},
		"of a volume": {claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }), false},
	} {
		if got := unclassed(tc.claim); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
