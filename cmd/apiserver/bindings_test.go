package apiserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/cmd/apiserver/defaults"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// boundPods remembers which pod got which node.
type boundPods map[string]string

func (b boundPods) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if err := validate(ctx, obj); err != nil {
		return nil, err
	}
	b[apirequest.NamespaceValue(ctx)+"/"+name] = obj.(*corev1.Binding).Target.Name
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (boundPods) New() runtime.Object { return &corev1.Binding{} }

// forbidden is admission that lets no binding to one node pass.
type forbidden string

func (forbidden) Handles(o admission.Operation) bool { return o == admission.Create }

func (f forbidden) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetObject().(*corev1.Binding).Target.Name == string(f) && a.GetSubresource() == "binding" && a.GetName() == "p" {
		return admission.NewForbidden(a, errors.New("not there"))
	}
	return nil
}

// What a scheduler sends is answered here; all else, and every mistake, reaches the library as it was sent.
func TestBindingsAreAnsweredHere(t *testing.T) {
	kinds, err := scheme.New(defaults.AddToScheme)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(mutate func(*corev1.Binding)) []byte {
		binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
		mutate(binding)
		info, _ := runtime.SerializerInfoForMediaType(kinds.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		data, err := runtime.Encode(kinds.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), binding)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	plain := encode(func(*corev1.Binding) {})
	const path, proto = "/api/v1/namespaces/n/pods/p/binding", "application/vnd.kubernetes.protobuf"
	for _, tt := range []struct {
		name, path, content, accept string
		body                        []byte
		observed, closed            bool
		code                        int // 0: the library's
	}{
		{"of a scheduler", path, proto, proto, plain, false, false, 201},
		{"that takes JSON, too", path, proto, proto + ",application/json", plain, false, false, 201},
		{"refused by admission", path, proto, proto, encode(func(b *corev1.Binding) { b.Target.Name = "bad" }), false, false, 403},
		{"without a namespace of its own", path, proto, proto, encode(func(b *corev1.Binding) { b.Namespace = "" }), false, false, 201},
		{"that others see", path, proto, proto, plain, true, false, 0},
		{"before the storage is there", path, proto, proto, plain, false, true, 0},
		{"in JSON", path, "application/json", proto, []byte(`{"kind":"Binding","apiVersion":"v1","target":{"name":"n1"}}`), false, false, 0},
		{"answered in JSON", path, proto, "application/json", plain, false, false, 0},
		{"answered as a table", path, proto, proto + ";as=Table;v=v1;g=meta.k8s.io", plain, false, false, 0},
		{"with options", path + "?dryRun=All", proto, proto, plain, false, false, 0},
		{"elsewhere", path + "/", proto, proto, plain, false, false, 0},
		{"no protobuf", path, proto, proto, []byte("k8s\x00x"), false, false, 0},
		{"nothing", path, proto, proto, nil, false, false, 0},
		{"of another namespace", path, proto, proto, encode(func(b *corev1.Binding) { b.Namespace = "m" }), false, false, 0},
		{"with owners of fields", path, proto, proto, encode(func(b *corev1.Binding) { b.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}} }), false, false, 0},
		{"with owners", path, proto, proto, encode(func(b *corev1.Binding) { b.OwnerReferences = []metav1.OwnerReference{{Name: "o"}} }), false, false, 0},
		{"too large", path, proto, proto, encode(func(b *corev1.Binding) { b.Annotations = map[string]string{"a": strings.Repeat("x", largestBinding)} }), false, false, 0},
		{"create of a pod", "/api/v1/namespaces/n/pods", proto, proto, plain, false, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := newBindings(kinds.Scheme, kinds.Codecs)
			if err != nil {
				t.Fatal(err)
			}
			stored := boundPods{}
			if !tt.closed {
				b.open(stored, forbidden("bad"), func() bool { return tt.observed })
			}
			r := httptest.NewRequest(http.MethodPost, tt.path, bytes.NewReader(tt.body))
			r.Header.Set("Content-Type", tt.content)
			r.Header.Set("Accept", tt.accept)
			info, err := (&apirequest.RequestInfoFactory{APIPrefixes: sets.NewString("api"), GrouplessAPIPrefixes: sets.NewString("api")}).NewRequestInfo(r)
			if err != nil {
				t.Fatal(err)
			}
			var handedOn []byte
			library := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handedOn, _ = io.ReadAll(r.Body)
				w.WriteHeader(http.StatusTeapot)
			})
			w := httptest.NewRecorder()
			b.before(library).ServeHTTP(w, r.WithContext(apirequest.WithRequestInfo(r.Context(), info)))
			want := tt.code
			if want == 0 {
				want = http.StatusTeapot
				if !bytes.Equal(handedOn, tt.body) {
					t.Errorf("the library was sent %d bytes, want the %d of the request", len(handedOn), len(tt.body))
				}
			}
			if w.Code != want || (stored["n/p"] == "n1") != (want == 201) {
				t.Errorf("answered %d, stored %v, want %d", w.Code, stored, want)
			}
		})
	}
}

func TestSeesBindings(t *testing.T) {
	for resource, want := range map[string]bool{
		"pods/binding": true, "*/*": true, "pods/*": true, "*/binding": true,
		"*": false, "pods": false, "bindings": false, "pods/status": false, "*/scale": false, "services/*": false,
	} {
		if got := seesBindings([]string{"secrets", resource}); got != want {
			t.Errorf("%s: %v, want %v", resource, got, want)
		}
	}
}

// A scheduler that speaks protobuf gets the same answers as one that speaks JSON, whose bindings go the library's way, and
// leaves the same pod behind.
func TestBindingsEqualTheLibrarys(t *testing.T) {
	ns, ctx := namespace(t, "bindings"), t.Context()
	config := clientrest.CopyConfig(shared.admin)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	fast, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	binding := func(name, node string, uid types.UID) *corev1.Binding {
		return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid, Annotations: map[string]string{"a": "b"}}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	}
	var left [2]*corev1.Pod
	var answers [2][]metav1.Status
	for i, client := range []kubernetes.Interface{shared.client, fast} {
		pods := client.CoreV1().Pods(ns)
		alone := pod("p", nil)
		alone.Spec.AutomountServiceAccountToken = new(bool) // its volume has a name by chance
		made, err := pods.Create(ctx, alone, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, try := range []*corev1.Binding{
			binding("p", "", ""), binding("p", "Bad", ""), binding("q", "n1", ""), binding("p", "n1", "another"), binding("p", "n1", made.UID), binding("p", "n2", ""),
		} {
			err := pods.Bind(ctx, try, metav1.CreateOptions{})
			status := apierrors.APIStatus(nil)
			switch {
			case errors.As(err, &status):
				s := status.Status()
				s.Message = strings.ReplaceAll(s.Message, string(made.UID), "UID")
				answers[i] = append(answers[i], s)
			case err != nil:
				t.Fatal(err)
			default:
				answers[i] = append(answers[i], metav1.Status{Status: metav1.StatusSuccess})
			}
		}
		got, err := pods.Get(ctx, "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got.UID, got.ResourceVersion, got.CreationTimestamp, got.ManagedFields = "", "", metav1.Time{}, nil
		got.Status.Conditions[0].LastTransitionTime = metav1.Time{}
		left[i] = got
		if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(left[0], left[1]); diff != "" {
		t.Errorf("pods (-JSON +protobuf):\n%s", diff)
	}
	if diff := cmp.Diff(answers[0], answers[1]); diff != "" {
		t.Errorf("answers (-JSON +protobuf):\n%s", diff)
	}
}

// A policy for bindings is heeded, also where it came when the server ran.
func TestPoliciesSeeBindings(t *testing.T) {
	ns, ctx := namespace(t, "seen-bindings"), t.Context()
	config := clientrest.CopyConfig(shared.admin)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	fast, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	api := shared.client.AdmissionregistrationV1()
	_, err = api.ValidatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}},
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/binding"}},
				}}},
			},
			Validations: []admissionregistrationv1.Validation{{Expression: `object.target.name != "closed"`}},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = api.ValidatingAdmissionPolicies().Delete(context.WithoutCancel(ctx), ns, metav1.DeleteOptions{})
		_ = api.ValidatingAdmissionPolicyBindings().Delete(context.WithoutCancel(ctx), ns, metav1.DeleteOptions{})
	})
	if _, err := api.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: ns, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}}},
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := fast.CoreV1().Pods(ns)
	eventually(t, func() error {
		if _, err := pods.Create(ctx, pod("p", nil), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "closed"}}, metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+ns+"'") {
			return errors.Join(errors.New("not denied by the policy"), err, pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		}
		return nil
	})
}
