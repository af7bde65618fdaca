package nodeauthz

import (
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "robot",
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
			InitContainers:   []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "init"}}}}}},
			Containers: []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}}}},
			Volumes: []corev1.Volume{
				{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
				{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
				{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}}}}},
			},
		},
	}
}

func TestNodeMay(t *testing.T) {
	mirror := pod("static", "n2")
	mirror.UID = "mirror"
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "data"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodeStageSecretRef: &corev1.SecretReference{Namespace: "csi", Name: "stage"}}},
	}}
	n1 := "n1"
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "gpus"}, Spec: resourcev1.ResourceSliceSpec{NodeName: &n1}}
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "att"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}}
	certificate := &certv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cert"}, Spec: certv1.PodCertificateRequestSpec{NodeName: "n1"}}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(pod("web", "n1"), mirror, pv, slice, attachment, certificate), 0)
	a, err := New(factory)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	for !a.HasSynced() {
		time.Sleep(time.Millisecond)
	}
	type ask struct{ verb, group, resource, ns, name, sel string }
	for _, tt := range []struct {
		ask
		n1, n2 bool // whether each node may
	}{
		{ask{"get", "", "secrets", "shop", "env", ""}, true, false},
		{ask{"get", "", "secrets", "shop", "vol", ""}, true, false},
		{ask{"watch", "", "secrets", "shop", "pull", ""}, true, false},
		{ask{"get", "", "secrets", "csi", "stage", ""}, true, false},
		{ask{"get", "", "secrets", "shop", "other", ""}, false, false},
		{ask{"get", "", "secrets", "other", "env", ""}, false, false},
		{ask{"list", "", "secrets", "shop", "", ""}, false, false},
		{ask{"update", "", "secrets", "shop", "env", ""}, false, false},
		{ask{"get", "", "configmaps", "shop", "init", ""}, true, false},
		{ask{"get", "", "configmaps", "shop", "kube-root-ca.crt", ""}, true, false},
		{ask{"get", "", "persistentvolumeclaims", "shop", "data", ""}, true, false},
		{ask{"get", "", "persistentvolumeclaims", "shop", "web-e", ""}, true, false},
		{ask{"patch", "", "persistentvolumeclaims/status", "shop", "data", ""}, true, false},
		{ask{"get", "", "persistentvolumes", "", "pv1", ""}, true, false},
		{ask{"create", "", "serviceaccounts/token", "shop", "robot", ""}, true, false},
		{ask{"create", "", "serviceaccounts/token", "kube-system", "admin", ""}, false, false},
		{ask{"get", "", "pods", "shop", "web", ""}, true, false},
		{ask{"get", "", "pods", "shop", "static", ""}, false, true},
		{ask{"watch", "", "pods", "", "", "spec.nodeName=n1"}, true, false},
		{ask{"list", "", "pods", "", "", ""}, false, false},
		{ask{"update", "", "pods", "shop", "web", ""}, false, false},
		{ask{"patch", "", "pods/status", "shop", "web", ""}, true, true}, // whose pod it is admission checks
		{ask{"create", "", "pods/exec", "shop", "web", ""}, false, false},
		{ask{"get", "", "nodes", "", "n1", ""}, true, false},
		{ask{"watch", "", "nodes", "", "", "metadata.name=n1"}, true, false},
		{ask{"list", "", "nodes", "", "", ""}, false, false},
		{ask{"delete", "", "nodes", "", "n1", ""}, false, false},
		{ask{"create", "", "nodes", "", "", ""}, true, true},
		{ask{"update", "coordination.k8s.io", "leases", "kube-node-lease", "n1", ""}, true, false},
		{ask{"update", "coordination.k8s.io", "leases", "kube-system", "n1", ""}, false, false},
		{ask{"get", "", "serviceaccounts", "shop", "robot", ""}, true, false},
		{ask{"list", "", "serviceaccounts", "shop", "robot", ""}, false, false},
		{ask{"list", "", "persistentvolumeclaims", "shop", "data", ""}, false, false},
		{ask{"get", "storage.k8s.io", "volumeattachments", "", "att", ""}, true, false},
		{ask{"get", "storage.k8s.io", "csinodes", "", "n1", ""}, true, false},
		{ask{"get", "resource.k8s.io", "resourceclaims", "shop", "other", ""}, false, false},
		{ask{"update", "resource.k8s.io", "resourceslices", "", "gpus", ""}, true, false},
		{ask{"create", "resource.k8s.io", "resourceslices", "", "", ""}, true, true},
		{ask{"list", "resource.k8s.io", "resourceslices", "", "", ""}, false, false},
		{ask{"deletecollection", "resource.k8s.io", "resourceslices", "", "", "spec.nodeName=n1"}, true, false},
		{ask{"get", "certificates.k8s.io", "podcertificaterequests", "shop", "cert", ""}, true, false},
		{ask{"watch", "certificates.k8s.io", "podcertificaterequests", "", "", "spec.nodeName=n1"}, true, false},
		{ask{"update", "certificates.k8s.io", "podcertificaterequests/status", "shop", "cert", ""}, false, false},
		{ask{"list", "", "services", "", "", ""}, true, true},
		{ask{"create", "authentication.k8s.io", "tokenreviews", "", "", ""}, true, true},
		{ask{"create", "certificates.k8s.io", "certificatesigningrequests", "", "", ""}, true, true},
		{ask{"update", "certificates.k8s.io", "certificatesigningrequests/approval", "", "x", ""}, false, false},
		{ask{"create", "", "events", "shop", "", ""}, true, true},
		{ask{"list", "", "endpoints", "", "", ""}, false, false},
		{ask{"create", "rbac.authorization.k8s.io", "clusterrolebindings", "", "", ""}, false, false},
	} {
		for node, want := range map[string]bool{"n1": tt.n1, "n2": tt.n2} {
			got, reason, err := a.Authorize(t.Context(), attributes(t, node, tt.verb, tt.group, tt.resource, tt.ns, tt.name, tt.sel))
			if (got == authorizer.DecisionAllow) != want || got == authorizer.DecisionDeny || err != nil {
				t.Errorf("%s, %+v: %v %q %v, want allowed=%v", node, tt.ask, got, reason, err, want)
			}
		}
	}
}

func attributes(t *testing.T, node, verb, group, resource, ns, name, sel string) authorizer.AttributesRecord {
	t.Helper()
	r := authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{"system:nodes"}},
		Verb: verb, APIGroup: group, Resource: resource, Namespace: ns, Name: name, ResourceRequest: true,
	}
	for i := range resource {
		if resource[i] == '/' {
			r.Resource, r.Subresource = resource[:i], resource[i+1:]
		}
	}
	if sel != "" {
		s, err := fields.ParseSelector(sel)
		if err != nil {
			t.Fatal(err)
		}
		r.FieldSelectorRequirements = s.Requirements()
	}
	return r
}

func TestOnlyNodesAreSpokenOf(t *testing.T) {
	for _, tt := range []struct {
		name, user string
		groups     []string
		node       string
		is         bool
	}{
		{"node", "system:node:n1", []string{"system:nodes"}, "n1", true},
		{"without the group", "system:node:n1", nil, "", false},
		{"only the group", "n1", []string{"system:nodes"}, "", false},
		{"without a name", "system:node:", []string{"system:nodes"}, "", true},
	} {
		if node, is := Identity(&user.DefaultInfo{Name: tt.user, Groups: tt.groups}); node != tt.node || is != tt.is {
			t.Errorf("%s: %q, %v", tt.name, node, is)
		}
	}
}

func TestGraphForgets(t *testing.T) {
	g := newGraph()
	one, two := pod("one", "n1"), pod("two", "n1")
	one.UID, two.UID = "1", "2"
	key := objectKey{secretKind, "shop", "env"}
	g.setPod(one)
	g.setPod(one) // the same event twice must not count twice
	g.setPod(two)
	g.forgetPod("1")
	if !g.reaches("n1", key) {
		t.Error("forgotten while another pod uses it")
	}
	g.forgetPod("2")
	if g.reaches("n1", key) {
		t.Error("still reached after the last pod went")
	}
	if len(g.uses) != 0 || len(g.pods) != 0 {
		t.Errorf("left behind: %v, %v", g.uses, g.pods)
	}
}
