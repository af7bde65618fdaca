package admission

import (
	"context"
	"maps"
	"strings"
	"testing"

	authnv1 "k8s.io/api/authentication/v1"
	certv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func nobody(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionNoOpinion, "", nil
}

func onlyAcme(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetName() == "acme.io/*" {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func onNode(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name + "-uid")}, Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "robot",
		Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}}}}}}}}
}

func mirrorOf(node string, edit func(*corev1.Pod)) *corev1.Pod {
	yes := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "static", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: "n1-uid", Controller: &yes}}},
		Spec: corev1.PodSpec{NodeName: node},
	}
	if edit != nil {
		edit(pod)
	}
	return pod
}

func node(name string, labels map[string]string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "n1-uid", Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
}

func tokenFor(pod, uid string, audiences ...string) *authnv1.TokenRequest {
	r := &authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{Audiences: audiences}}
	if pod != "" {
		r.Spec.BoundObjectRef = &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(uid)}
	}
	return r
}

func TestNodeRestriction(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "robot", UID: "robot-uid"}}
	p := ready(t, newNodeRestriction(), onNode("mine", "n1"), onNode("yours", "n2"), node("n1", nil), account)
	nodes, accounts := corev1.SchemeGroupVersion.WithResource("nodes"), corev1.SchemeGroupVersion.WithResource("serviceaccounts")
	leases, csrs := coordinationv1.SchemeGroupVersion.WithResource("leases"), certv1.SchemeGroupVersion.WithResource("certificatesigningrequests")
	relabelled := onNode("mine", "n1")
	relabelled.Labels = map[string]string{"app": "stolen"}
	base := map[string]string{"kubernetes.io/hostname": "n1"}
	plus := func(k string) map[string]string {
		m := maps.Clone(base)
		m[k] = "x"
		return m
	}
	createCSR := func(cn string) write {
		return write{op: adm.Create, resource: csrs, obj: &certv1.CertificateSigningRequest{Spec: certv1.CertificateSigningRequestSpec{
			SignerName: certv1.KubeAPIServerClientKubeletSignerName, Request: request(t, cn, "system:nodes")}}}
	}
	token := func(r *authnv1.TokenRequest) write {
		return write{op: adm.Create, resource: accounts, sub: "token", ns: "shop", name: "robot", obj: r}
	}
	certificate := func(edit func(*certv1.PodCertificateRequestSpec)) write {
		r := &certv1.PodCertificateRequest{Spec: certv1.PodCertificateRequestSpec{PodName: "mine", PodUID: "mine-uid",
			ServiceAccountName: "robot", ServiceAccountUID: "robot-uid", NodeName: "n1", NodeUID: "n1-uid"}}
		if edit != nil {
			edit(&r.Spec)
		}
		return write{op: adm.Create, resource: certv1.SchemeGroupVersion.WithResource("podcertificaterequests"), ns: "shop", obj: r}
	}
	claimed := onNode("mine", "n1")
	claimed.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c"}
	update := func(old, now *corev1.Node) write {
		return write{op: adm.Update, resource: nodes, name: now.Name, obj: now, old: old}
	}
	for _, tt := range []struct {
		name string
		write
		want string // part of the refusal; empty means allowed
	}{
		{"mirror pod", createPod(mirrorOf("n1", nil)), ""},
		{"pod that is no mirror", createPod(onNode("x", "n1")), "can only create mirror pods"},
		{"mirror pod on another node", createPod(mirrorOf("n2", nil)), "nodeName set to itself"},
		{"mirror pod with an account", createPod(mirrorOf("n1", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "admin" })), "service account"},
		{"mirror pod with a secret", createPod(mirrorOf("n1", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		})), "secrets"},
		{"mirror pod without an owner", createPod(mirrorOf("n1", func(p *corev1.Pod) { p.OwnerReferences = nil })), "owner reference"},
		{"mirror pod of a node made anew", createPod(mirrorOf("n1", func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" })), "UID mismatch"},
		{"delete own pod", write{op: adm.Delete, resource: pods(), ns: "shop", name: "mine"}, ""},
		{"delete another's pod", write{op: adm.Delete, resource: pods(), ns: "shop", name: "yours"}, "can only delete pods"},
		{"status of own pod", write{op: adm.Update, resource: pods(), sub: "status", ns: "shop", name: "mine", obj: onNode("mine", "n1"), old: onNode("mine", "n1")}, ""},
		{"status of another's", write{op: adm.Update, resource: pods(), sub: "status", ns: "shop", name: "yours", obj: onNode("yours", "n1"), old: onNode("yours", "n2")}, "can only update pod status"},
		{"labels by status", write{op: adm.Update, resource: pods(), sub: "status", ns: "shop", name: "mine", obj: relabelled, old: onNode("mine", "n1")}, "cannot update labels"},
		{"claims by status", write{op: adm.Update, resource: pods(), sub: "status", ns: "shop", name: "mine", obj: claimed, old: onNode("mine", "n1")}, "cannot update extended resource claim status"},
		{"resize", write{op: adm.Update, resource: pods(), sub: "resize", ns: "shop", name: "mine", obj: onNode("mine", "n1"), old: onNode("mine", "n1")},
			`unexpected pod subresource "resize", only 'status' and 'eviction' are allowed`},
		{"certificate of own pod", certificate(nil), ""},
		{"certificate of another's pod", certificate(func(s *certv1.PodCertificateRequestSpec) { s.PodName, s.PodUID = "yours", "yours-uid" }), "is not running on node"},
		{"certificate for another node", certificate(func(s *certv1.PodCertificateRequestSpec) { s.NodeName = "n2" }), "which is not the requesting node"},
		{"certificate of another account", certificate(func(s *certv1.PodCertificateRequestSpec) { s.ServiceAccountName = "admin" }), "differs from running pod"},
		{"certificate of an account made anew", certificate(func(s *certv1.PodCertificateRequestSpec) { s.ServiceAccountUID = "old" }), "ServiceAccountUID"},
		{"certificate of a node made anew", certificate(func(s *certv1.PodCertificateRequestSpec) { s.NodeUID = "old" }), "inconsistent"},
		{"evict own", write{op: adm.Create, resource: pods(), sub: "eviction", ns: "shop", name: "mine", obj: &policyv1.Eviction{}}, ""},
		{"evict another's", write{op: adm.Create, resource: pods(), sub: "eviction", ns: "shop", name: "yours", obj: &policyv1.Eviction{}}, "can only evict"},
		{"bind", write{op: adm.Create, resource: pods(), sub: "binding", ns: "shop", name: "mine", obj: &corev1.Binding{}}, "unexpected pod subresource"},
		{"own node", write{op: adm.Create, resource: nodes, obj: node("n1", plus("node.kubernetes.io/x"), corev1.Taint{Key: "t"})}, ""},
		{"another node", write{op: adm.Create, resource: nodes, obj: node("n2", base)}, `not allowed to modify node "n2"`},
		{"role label", write{op: adm.Create, resource: nodes, obj: node("n1", plus("node-role.kubernetes.io/control-plane"))}, "node-role.kubernetes.io/control-plane"},
		{"own label of no Kubernetes domain", update(node("n1", base), node("n1", plus("acme.io/rack"))), ""},
		{"restriction label", update(node("n1", base), node("n1", plus("a.node-restriction.kubernetes.io/b"))), "not allowed to modify labels"},
		{"restriction label removed", update(node("n1", plus("node-restriction.kubernetes.io/b")), node("n1", base)), "not allowed to modify labels"},
		{"taint removed", update(node("n1", base, corev1.Taint{Key: "t"}), node("n1", base)), "not allowed to modify taints"},
		{"another node's update", update(node("n2", base), node("n2", base)), `not allowed to modify node "n2"`},
		{"token of own pod", token(tokenFor("mine", "mine-uid")), "not found in pod spec"},
		{"token for the pod's audience", token(tokenFor("mine", "mine-uid", "vault")), ""},
		{"token for another audience", token(tokenFor("mine", "mine-uid", "bank")), "not found in pod spec"},
		{"token of another's pod", token(tokenFor("yours", "yours-uid", "vault")), "different node"},
		{"token of a pod gone", token(tokenFor("mine", "old", "vault")), "does not match the UID"},
		{"token of no pod", token(tokenFor("", "", "vault")), "not bound to a pod"},
		{"own lease", write{op: adm.Create, resource: leases, ns: "kube-node-lease", obj: lease("n1")}, ""},
		{"another's lease", write{op: adm.Create, resource: leases, ns: "kube-node-lease", obj: lease("n2")}, "same name"},
		{"lease elsewhere", write{op: adm.Update, resource: leases, ns: "kube-system", name: "n1", obj: lease("n1")}, "system namespace"},
		{"own certificate", createCSR("system:node:n1"), ""},
		{"another's certificate", createCSR("system:node:n2"), "CN=system:node:n1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.user, tt.groups = "system:node:n1", []string{"system:nodes"}
			err := p.Admit(t.Context(), tt.attributes(), nil)
			switch {
			case tt.want == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case tt.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			tt.user, tt.groups = "ann", nil
			if err := p.Admit(t.Context(), tt.attributes(), nil); err != nil {
				t.Fatalf("refused to somebody who is no node: %v", err)
			}
		})
	}
}

// The cache may not have seen yet that a pod was bound, or that it was made anew under its name; the kubelet has.
func TestNodeRestrictionBehindTheKubelet(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "robot", UID: "robot-uid"}}
	for name, stale := range map[string]*corev1.Pod{
		"not bound yet": onNode("mine", ""),
		"an old one":    {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "mine", UID: "old"}, Spec: corev1.PodSpec{NodeName: "n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := ready(t, newNodeRestriction(), onNode("mine", "n1"), account)
			store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
			if err := store.Add(stale); err != nil {
				t.Fatal(err)
			}
			p.pods = corelisters.NewPodLister(store)
			w := write{op: adm.Create, resource: corev1.SchemeGroupVersion.WithResource("serviceaccounts"), sub: "token", ns: "shop", name: "robot",
				user: "system:node:n1", groups: []string{"system:nodes"}, obj: tokenFor("mine", "mine-uid", "vault")}
			if err := p.Admit(t.Context(), w.attributes(), nil); err != nil {
				t.Errorf("a token for the kubelet's own pod is refused: %v", err)
			}
		})
	}
}
