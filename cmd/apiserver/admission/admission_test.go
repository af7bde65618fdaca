package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	certv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// ready gives a plugin its informers and client, filled with objs.
func ready[P adm.Interface](t *testing.T, p P, objs ...runtime.Object) P {
	t.Helper()
	client := fake.NewClientset(objs...)
	factory := informers.NewSharedInformerFactory(client, 0)
	if w, ok := any(p).(initializer.WantsExternalKubeInformerFactory); ok {
		w.SetExternalKubeInformerFactory(factory)
	}
	if w, ok := any(p).(initializer.WantsExternalKubeClientSet); ok {
		w.SetExternalKubeClientSet(client)
	}
	if w, ok := any(p).(initializer.WantsUnconditionalAuthorizer); ok {
		w.SetUnconditionalAuthorizer(authorizer.AuthorizerFunc(nobody))
	}
	if v, ok := any(p).(adm.InitializationValidator); ok {
		if err := v.ValidateInitialization(); err != nil {
			t.Fatal(err)
		}
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return p
}

type write struct {
	op       adm.Operation
	resource schema.GroupVersionResource
	sub      string
	ns, name string
	obj, old runtime.Object
	user     string
	groups   []string
}

func (w write) attributes() adm.Attributes {
	return adm.NewAttributesRecord(w.obj, w.old, schema.GroupVersionKind{}, w.ns, w.name, w.resource, w.sub, w.op, nil, false,
		&user.DefaultInfo{Name: w.user, Groups: w.groups})
}

func pods() schema.GroupVersionResource { return corev1.SchemeGroupVersion.WithResource("pods") }

func createPod(pod *corev1.Pod) write {
	return write{op: adm.Create, resource: pods(), ns: "shop", obj: pod}
}

func TestOrder(t *testing.T) {
	order := RecommendedOrder()
	known := adm.NewPlugins()
	Register(known, NewPatience())
	if got := known.Registered(); len(got) != len(order) {
		t.Errorf("%d plugins registered, %d in order", len(got), len(order))
	}
	at := func(name string) int { return slices.Index(order, name) }
	for _, pair := range [][2]string{{"NamespaceLifecycle", "ServiceAccount"}, {"ServiceAccount", "NodeRestriction"}, {"Priority", "MutatingAdmissionWebhook"},
		{"MutatingAdmissionWebhook", "ValidatingAdmissionPolicy"}} {
		if at(pair[0]) < 0 || at(pair[0]) > at(pair[1]) {
			t.Errorf("%s must run before %s: %v", pair[0], pair[1], order)
		}
	}
	if slices.Contains(DefaultOn(), "NodeRestriction") || !slices.Contains(DefaultOn(), "ServiceAccount") || !slices.Contains(DefaultOff(), "NodeRestriction") {
		t.Errorf("on: %v, off: %v", DefaultOn(), DefaultOff())
	}
}

func TestServiceAccount(t *testing.T) {
	no := false
	account := func(name string, edit func(*corev1.ServiceAccount)) *corev1.ServiceAccount {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		if edit != nil {
			edit(sa)
		}
		return sa
	}
	p := ready(t, newServiceAccount(),
		account("default", func(sa *corev1.ServiceAccount) { sa.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}} }),
		account("quiet", func(sa *corev1.ServiceAccount) { sa.AutomountServiceAccountToken = &no }),
		account("strict", func(sa *corev1.ServiceAccount) { sa.Annotations = map[string]string{enforceMountable: "true"} }))
	p.generateName = func(base string) string { return base + "abcde" }
	for _, tt := range []struct {
		name    string
		edit    func(*corev1.Pod)
		account string
		mounts  int
		want    string
	}{
		{name: "default", account: "default", mounts: 2},
		{name: "old field", edit: func(p *corev1.Pod) { p.Spec.DeprecatedServiceAccount = "quiet" }, account: "quiet"},
		{name: "no token by account", edit: func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }, account: "quiet"},
		{name: "no token by pod", edit: func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = &no }, account: "default"},
		{name: "own mount", edit: func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "own", MountPath: tokenMountPath}}
		}, account: "default", mounts: 1},
		{name: "no such account", edit: func(p *corev1.Pod) { p.Spec.ServiceAccountName = "ghost" }, want: "error looking up service account shop/ghost"},
		{name: "secret that the account does not list", edit: func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		}, want: `volume with secret.secretName="s" is not allowed because service account strict does not reference that secret`},
		{name: "mirror pod with an account", edit: func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.ServiceAccountName = "default"
		}, want: "may not reference service accounts"},
		{name: "mirror pod", edit: func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "c"}}}}
			if tt.edit != nil {
				tt.edit(pod)
			}
			a := createPod(pod).attributes()
			err := p.Admit(t.Context(), a, nil)
			if err == nil {
				err = p.Validate(t.Context(), a, nil)
			}
			if tt.want != "" {
				if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mounts := 0
			for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
				for _, m := range c.VolumeMounts {
					if m.Name == "kube-api-access-abcde" && m.MountPath == tokenMountPath && m.ReadOnly {
						mounts++
					}
				}
			}
			if pod.Spec.ServiceAccountName != tt.account || pod.Spec.DeprecatedServiceAccount != tt.account || mounts != tt.mounts || (mounts > 0) != (len(pod.Spec.Volumes) == 1) {
				t.Fatalf("account %q, %d mounts, %d volumes", pod.Spec.ServiceAccountName, mounts, len(pod.Spec.Volumes))
			}
		})
	}
}

func TestPriority(t *testing.T) {
	never := corev1.PreemptNever
	p := ready(t, newPriority(),
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 7, GlobalDefault: true},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000, PreemptionPolicy: &never})
	number := func(n int32) *int32 { return &n }
	for _, tt := range []struct {
		name, class string
		given       *int32
		wantClass   string
		want        int32
		refusal     string
	}{
		{"default", "", nil, "usual", 7, ""},
		{"named", "high", nil, "high", 1000, ""},
		{"system class before it is made", "system-node-critical", number(2000001000), "system-node-critical", 2000001000, ""},
		{"number that the class does not give", "high", number(5), "", 0, "the integer value of priority (5) must not be provided"},
		{"number without a class", "", number(2000001000), "", 0, "must not be provided"},
		{"unknown", "ghost", nil, "", 0, "no PriorityClass with name ghost was found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{PriorityClassName: tt.class, Priority: tt.given}}
			err := p.Admit(t.Context(), createPod(pod).attributes(), nil)
			if tt.refusal != "" {
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.refusal) {
					t.Fatalf("got %v, want %q", err, tt.refusal)
				}
				return
			}
			if err != nil || *pod.Spec.Priority != tt.want || pod.Spec.PriorityClassName != tt.wantClass || pod.Spec.PreemptionPolicy == nil {
				t.Fatalf("got %v, %v, %v", err, pod.Spec.Priority, pod.Spec.PriorityClassName)
			}
		})
	}
	second := write{op: adm.Create, resource: schedulingv1.SchemeGroupVersion.WithResource("priorityclasses"),
		obj: &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "too"}, GlobalDefault: true}}
	if err := p.Validate(t.Context(), second.attributes(), nil); err == nil || !strings.Contains(err.Error(), "already marked as default") {
		t.Errorf("a second default: %v", err)
	}
}

func TestFailureTolerations(t *testing.T) {
	all := corev1.Toleration{Operator: corev1.TolerationOpExists}
	ten := int64(10)
	own := corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &ten}
	other := corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
	for _, tt := range []struct {
		name string
		in   []corev1.Toleration
		want int
	}{{"none", nil, 2}, {"all tolerated", []corev1.Toleration{all}, 1}, {"own seconds", []corev1.Toleration{own}, 2}, {"other effect", []corev1.Toleration{other}, 3}} {
		got := NewPatience().tolerations(tt.in)
		if len(got) != tt.want || len(NewPatience().tolerations(got)) != len(got) {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if got := (Patience{NotReady: 1, Unreachable: 2}).tolerations(nil); *got[0].TolerationSeconds != 1 || *got[1].TolerationSeconds != 2 {
		t.Errorf("not as long as was said: %v", got)
	}
}

func TestLimitRanger(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		if cpu == "" {
			return nil
		}
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	p := ready(t, newLimitRanger(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Default: list("500m"), DefaultRequest: list("100m"), Min: list("50m"), Max: list("1")},
		{Type: corev1.LimitTypePod, Max: list("1500m")},
	}}})
	for _, tt := range []struct {
		name, request, limit string
		containers           int
		want, note           string
	}{
		{"defaults", "", "", 1, "", "LimitRanger plugin set: cpu request for container c; cpu limit for container c"},
		{"own", "200m", "300m", 1, "", ""},
		{"too little", "10m", "300m", 1, "minimum cpu usage per Container is 50m, but request is 10m", ""},
		{"too much", "200m", "2", 1, "maximum cpu usage per Container is 1, but limit is 2", ""},
		{"too much in all", "200m", "1", 2, "maximum cpu usage per Pod is 1500m, but limit is 2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := new(corev1.Pod)
			for range tt.containers {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(tt.request), Limits: list(tt.limit)}})
			}
			a := createPod(pod).attributes()
			err := p.Admit(t.Context(), a, nil)
			if err == nil {
				err = p.Validate(t.Context(), a, nil)
			}
			if tt.want == "" && err != nil || tt.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if got := pod.Annotations[limitRangerAnnotation]; tt.want == "" && got != tt.note {
				t.Errorf("note %q, want %q", got, tt.note)
			}
		})
	}
}

func TestPodSecurity(t *testing.T) {
	plugin, err := newPodSecurity(nil)
	if err != nil {
		t.Fatal(err)
	}
	ns := func(name, level string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": level}}}
	}
	ready(t, plugin, ns("shop", "baseline"), ns("free", "privileged"))
	pod := &corev1.Pod{Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	w := createPod(pod)
	if err := plugin.Validate(t.Context(), w.attributes(), nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("baseline: %v", err)
	}
	w.ns = "free"
	if err := plugin.Validate(t.Context(), w.attributes(), nil); err != nil {
		t.Errorf("privileged: %v", err)
	}
}

func TestSignerGuard(t *testing.T) {
	allow := authorizer.AuthorizerFunc(onlyAcme)
	csr := func(signer string, cert string) *certv1.CertificateSigningRequest {
		return &certv1.CertificateSigningRequest{Spec: certv1.CertificateSigningRequestSpec{SignerName: signer},
			Status: certv1.CertificateSigningRequestStatus{Certificate: []byte(cert)}}
	}
	approve, sign := newCertificateApproval(), newCertificateSigning()
	approve.authz, sign.authz = allow, allow
	for _, tt := range []struct {
		name     string
		p        *signerGuard
		sub      string
		old, now *certv1.CertificateSigningRequest
		ok       bool
	}{
		{"by domain", approve, "approval", csr("acme.io/one", ""), csr("acme.io/one", ""), true},
		{"other signer", approve, "approval", csr("kubernetes.io/kube-apiserver-client", ""), csr("kubernetes.io/kube-apiserver-client", ""), false},
		{"signer swapped", approve, "approval", csr("kubernetes.io/kube-apiserver-client", ""), csr("acme.io/one", ""), false},
		{"sign other", sign, "status", csr("kubernetes.io/kube-apiserver-client", ""), csr("kubernetes.io/kube-apiserver-client", "x"), false},
		{"status without a certificate", sign, "status", csr("kubernetes.io/kube-apiserver-client", ""), csr("kubernetes.io/kube-apiserver-client", ""), true},
	} {
		w := write{op: adm.Update, resource: certv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), sub: tt.sub, name: "x", obj: tt.now, old: tt.old}
		if err := tt.p.Validate(t.Context(), w.attributes(), nil); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestNobodyBecomesMaster(t *testing.T) {
	for _, tt := range []struct {
		signer, org string
		ok          bool
	}{{certv1.KubeAPIServerClientSignerName, "system:masters", false}, {certv1.KubeAPIServerClientSignerName, "devs", true}, {"acme.io/x", "system:masters", true}} {
		w := write{op: adm.Create, resource: certv1.SchemeGroupVersion.WithResource("certificatesigningrequests"),
			obj: &certv1.CertificateSigningRequest{Spec: certv1.CertificateSigningRequestSpec{SignerName: tt.signer, Request: request(t, "x", tt.org)}}}
		if err := newSubjectRestriction().Validate(t.Context(), w.attributes(), nil); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func request(t *testing.T, cn, org string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn, Organization: []string{org}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func lease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: name}}
}
