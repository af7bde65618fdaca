package conformance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func webhookTests() map[string]test {
	return under("[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] ", map[string]test{
		"listing mutating webhooks should work":                                                       quickly(hooksListed(true)),
		"listing validating webhooks should work":                                                     quickly(hooksListed(false)),
		"patching/updating a mutating webhook should work":                                            quickly(hookRules(true)),
		"patching/updating a validating webhook should work":                                          quickly(hookRules(false)),
		"should be able to create and update mutating webhook configurations with match conditions":   quickly(hookConditions(true)),
		"should be able to create and update validating webhook configurations with match conditions": quickly(hookConditions(false)),
		"should reject mutating webhook configurations with invalid match conditions":                 quickly(badConditions(true)),
		"should reject validating webhook configurations with invalid match conditions":               quickly(badConditions(false)),
		"should be able to deny attaching pod":                                                        quickly(denyAttach),
		"should be able to deny pod and configmap creation":                                           quickly(denyCreation),
		"should honor timeout":                                            slowly(hookTimeout),
		"should mutate configmap":                                         quickly(mutateTwice),
		"should mutate everything except 'skip-me' configmaps":            quickly(skipMe),
		"should mutate pod and apply defaults after mutation":             quickly(mutatePod),
		"should unconditionally reject operations on fail closed webhook": quickly(failClosed),
	})
}

// hooks is a webhook server in a namespace of its own, and the namespace its configurations look at.
type hooks struct {
	c  *clustertest.Cluster
	t  *testing.T
	ns string
	ca []byte
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// serverCert is a certificate for a DNS name, its own authority, and the key.
func serverCert(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), crand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der := must(x509.CreateCertificate(crand.Reader, template, template, &private.PublicKey, private))(t)
	return pemOf("CERTIFICATE", der), pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(private))(t))
}

func newHooks(t *testing.T, c *clustertest.Cluster) *hooks {
	t.Helper()
	ns := c.Namespace(t)
	must(c.Client.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"hooks":"`+ns+`"}}}`), metav1.PatchOptions{}))(t)
	cert, key := serverCert(t, "hook."+ns+".svc")
	secret(t, c, ns, "cert", map[string]string{"tls.crt": string(cert), "tls.key": string(key)})
	service(t, c, ns, "hook", func(s *corev1.Service) {
		s.Spec.Selector = map[string]string{"app": "hook"}
		s.Spec.Ports[0].Port, s.Spec.Ports[0].TargetPort = 8443, intstr.FromInt32(8444)
	})
	c.RunPod(t, ns, c.Pod("hook", []string{"webhook", "--tls-dir=/v0"}, mounted(kinds()[1].volume(shape{source: "cert"})), first(func(ct *corev1.Container) {
		ct.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Scheme: "HTTPS", Path: "/readyz", Port: intstr.FromInt32(8444)}}}
	})))
	return &hooks{c, t, ns, cert}
}

func (h *hooks) client(path string) admissionv1.WebhookClientConfig {
	return admissionv1.WebhookClientConfig{CABundle: h.ca, Service: &admissionv1.ServiceReference{Namespace: h.ns, Name: "hook", Path: &path, Port: ptr[int32](8443)}}
}

func hexed(s string) string { return hex.EncodeToString([]byte(s)) }

func onResource(resource string, ops ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{Operations: ops, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}}}}
}

func (h *hooks) selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"hooks": h.ns}}
}

// mutating and validating register one webhook under name; change makes it special.
func (h *hooks) mutating(name, path, resource string, change ...func(*admissionv1.MutatingWebhook)) {
	h.t.Helper()
	w := admissionv1.MutatingWebhook{Name: name + ".conf.example", ClientConfig: h.client(path), Rules: onResource(resource, "CREATE"), SideEffects: ptr(admissionv1.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: h.selector()}
	for _, f := range change {
		f(&w)
	}
	api := h.c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	must(api.Create(h.t.Context(), &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + h.ns, Labels: map[string]string{"hooks": h.ns}},
		Webhooks: []admissionv1.MutatingWebhook{w}}, metav1.CreateOptions{}))(h.t)
	h.t.Cleanup(func() { api.Delete(context.Background(), name+"-"+h.ns, metav1.DeleteOptions{}) })
}

func (h *hooks) validating(name, path, resource string, change ...func(*admissionv1.ValidatingWebhook)) {
	h.t.Helper()
	w := admissionv1.ValidatingWebhook{Name: name + ".conf.example", ClientConfig: h.client(path), Rules: onResource(resource, "CREATE"), SideEffects: ptr(admissionv1.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1"}, NamespaceSelector: h.selector()}
	for _, f := range change {
		f(&w)
	}
	api := h.c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	must(api.Create(h.t.Context(), &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + h.ns, Labels: map[string]string{"hooks": h.ns}},
		Webhooks: []admissionv1.ValidatingWebhook{w}}, metav1.CreateOptions{}))(h.t)
	h.t.Cleanup(func() { api.Delete(context.Background(), name+"-"+h.ns, metav1.DeleteOptions{}) })
}

// becomes creates ConfigMaps until one comes out as wanted: configurations take a moment to be seen.
func (h *hooks) becomes(what string, data map[string]string, want func(*corev1.ConfigMap, error) bool) {
	h.t.Helper()
	h.c.Eventually(h.t, 20*time.Second, what, func(ctx context.Context) error {
		cm, err := h.c.Client.CoreV1().ConfigMaps(h.ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm-" + rand.String(8)}, Data: data}, metav1.CreateOptions{})
		if !want(cm, err) {
			return fmt.Errorf("data %v, error %v", cm.Data, err)
		}
		return nil
	})
}

func denied(_ *corev1.ConfigMap, err error) bool {
	return err != nil && strings.Contains(err.Error(), "this webhook denies it")
}
func admitted(_ *corev1.ConfigMap, err error) bool { return err == nil }
func withKey(key string) func(*corev1.ConfigMap, error) bool {
	return func(cm *corev1.ConfigMap, err error) bool { return err == nil && cm.Data[key] == "yes" }
}
func plainOnly(cm *corev1.ConfigMap, err error) bool { return err == nil && len(cm.Data) == 1 }

const addKey = `[{"op":"add","path":"/data/mutated","value":"yes"}]`

var someData = map[string]string{"start": "yes"}

func hooksListed(mutating bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		h := newHooks(t, c)
		list, found := metav1.ListOptions{LabelSelector: "hooks=" + h.ns}, 0
		for i := range 10 {
			name := fmt.Sprintf("h%d", i)
			if mutating {
				h.mutating(name, "/patch/"+hexed(addKey), "configmaps")
			} else {
				h.validating(name, "/deny", "configmaps")
			}
		}
		if mutating {
			api := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
			found = len(must(api.List(t.Context(), list))(t).Items)
			h.becomes("mutated", someData, withKey("mutated"))
			ok(t, api.DeleteCollection(t.Context(), metav1.DeleteOptions{}, list))
			h.becomes("left alone", someData, plainOnly)
		} else {
			api := c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
			found = len(must(api.List(t.Context(), list))(t).Items)
			h.becomes("denied", someData, denied)
			ok(t, api.DeleteCollection(t.Context(), metav1.DeleteOptions{}, list))
			h.becomes("admitted", someData, admitted)
		}
		if found != 10 {
			t.Errorf("%d configurations in the list, want 10", found)
		}
	}
}

func hookRules(mutating bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		h := newHooks(t, c)
		operations := `[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":[%q]}]`
		if mutating {
			h.mutating("h", "/patch/"+hexed(addKey), "configmaps")
			h.becomes("mutated", someData, withKey("mutated"))
			api := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
			w := must(api.Get(t.Context(), "h-"+h.ns, metav1.GetOptions{}))(t)
			w.Webhooks[0].Rules[0].Operations = []admissionv1.OperationType{"UPDATE"}
			must(api.Update(t.Context(), w, metav1.UpdateOptions{}))(t)
			h.becomes("left alone", someData, plainOnly)
			must(api.Patch(t.Context(), w.Name, types.JSONPatchType, []byte(fmt.Sprintf(operations, "CREATE")), metav1.PatchOptions{}))(t)
			h.becomes("mutated again", someData, withKey("mutated"))
			return
		}
		h.validating("h", "/deny", "configmaps")
		h.becomes("denied", someData, denied)
		api := c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
		w := must(api.Get(t.Context(), "h-"+h.ns, metav1.GetOptions{}))(t)
		w.Webhooks[0].Rules[0].Operations = []admissionv1.OperationType{"UPDATE"}
		must(api.Update(t.Context(), w, metav1.UpdateOptions{}))(t)
		h.becomes("admitted", someData, admitted)
		must(api.Patch(t.Context(), w.Name, types.JSONPatchType, []byte(fmt.Sprintf(operations, "CREATE")), metav1.PatchOptions{}))(t)
		h.becomes("denied again", someData, denied)
	}
}

func condition1(expression string) []admissionv1.MatchCondition {
	return []admissionv1.MatchCondition{{Name: "one", Expression: expression}}
}

// idle is a hooks without a server, for configurations that are never called.
func idle(t *testing.T, c *clustertest.Cluster) *hooks {
	cert, _ := serverCert(t, "nowhere")
	return &hooks{c, t, c.Namespace(t), cert}
}

func hookConditions(mutating bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		h := idle(t, c)
		const before, after = "object.metadata.name == 'never'", "false"
		if mutating {
			h.mutating("h", "/allow", "configmaps", func(w *admissionv1.MutatingWebhook) { w.MatchConditions = condition1(before) })
			api := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
			w := must(api.Get(t.Context(), "h-"+h.ns, metav1.GetOptions{}))(t)
			got := w.Webhooks[0].MatchConditions[0].Expression
			w.Webhooks[0].MatchConditions = condition1(after)
			w = must(api.Update(t.Context(), w, metav1.UpdateOptions{}))(t)
			same(t, []string{got, w.Webhooks[0].MatchConditions[0].Expression}, before, after)
			return
		}
		h.validating("h", "/allow", "configmaps", func(w *admissionv1.ValidatingWebhook) { w.MatchConditions = condition1(before) })
		api := c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
		w := must(api.Get(t.Context(), "h-"+h.ns, metav1.GetOptions{}))(t)
		got := w.Webhooks[0].MatchConditions[0].Expression
		w.Webhooks[0].MatchConditions = condition1(after)
		w = must(api.Update(t.Context(), w, metav1.UpdateOptions{}))(t)
		same(t, []string{got, w.Webhooks[0].MatchConditions[0].Expression}, before, after)
	}
}

func badConditions(mutating bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		body := `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"%s","metadata":{"name":"bad-condition"},"webhooks":[{"name":"h.conf.example","clientConfig":{"url":"https://nowhere.invalid"},` +
			`"sideEffects":"None","admissionReviewVersions":["v1"],"rules":[{"operations":["CREATE"],"apiGroups":["conf.example"],"apiVersions":["v1"],"resources":["nothings"]}],"matchConditions":[{"name":"bad","expression":"... [] bad expression"}]}]}`
		kind, path := "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"
		if mutating {
			kind, path = "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"
		}
		code, _, answer := raw(t, c, "POST", "/apis/admissionregistration.k8s.io/v1/"+path, "application/json", fmt.Sprintf(body, kind))
		if code != 422 || !strings.Contains(answer, "compilation failed") {
			t.Errorf("%d %s, want 422 with a compilation error", code, answer)
		}
	}
}

func denyAttach(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	h.validating("h", "/deny", "pods/attach", func(w *admissionv1.ValidatingWebhook) { w.Rules = onResource("pods/attach", "CONNECT") })
	c.Eventually(t, 20*time.Second, "attach to be denied", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		out, err := c.KubectlCommand(ctx, "attach", "-n", h.ns, "hook").CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("this webhook denies it")) {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
}

func denyCreation(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	always := func(w *admissionv1.ValidatingWebhook) {
		w.Rules[0].Operations = []admissionv1.OperationType{"CREATE", "UPDATE"}
	}
	h.validating("cm", "/deny-if/"+hexed("offending"), "configmaps", always)
	h.validating("pod", "/deny-if/"+hexed("offending"), "pods")
	h.becomes("denied", map[string]string{"offending": "x"}, denied)
	h.becomes("admitted", someData, admitted)
	_, err := c.Client.CoreV1().Pods(h.ns).Create(t.Context(), c.Pod("offending", nil), metav1.CreateOptions{})
	refused(t, err, "this webhook denies it")
	configMap(t, c, h.ns, "good", someData)
	cm := must(c.Client.CoreV1().ConfigMaps(h.ns).Get(t.Context(), "good", metav1.GetOptions{}))(t)
	cm.Data["offending"] = "x"
	_, err = c.Client.CoreV1().ConfigMaps(h.ns).Update(t.Context(), cm, metav1.UpdateOptions{})
	refused(t, err, "this webhook denies it")
	_, err = c.Client.CoreV1().ConfigMaps(h.ns).Patch(t.Context(), "good", types.MergePatchType, []byte(`{"data":{"offending":"x"}}`), metav1.PatchOptions{})
	refused(t, err, "this webhook denies it")
	configMap(t, c, c.Namespace(t), "exempt", map[string]string{"offending": "x"})
	h.validating("slow", "/delay/5", "serviceaccounts", func(w *admissionv1.ValidatingWebhook) { w.TimeoutSeconds = ptr[int32](1) })
	c.Eventually(t, 20*time.Second, "a timeout", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(h.ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{GenerateName: "sa-"}}, metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "deadline") && !apierrors.IsTimeout(err) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
}

func hookTimeout(t *testing.T, c *clustertest.Cluster) {
	for _, tt := range []struct {
		seconds *int32
		policy  admissionv1.FailurePolicyType
		fails   bool
	}{{ptr[int32](1), "Fail", true}, {ptr[int32](1), "Ignore", false}, {ptr[int32](10), "Fail", false}, {nil, "Fail", false}} {
		h := newHooks(t, c)
		h.validating("slow", "/delay/5", "configmaps", func(w *admissionv1.ValidatingWebhook) { w.TimeoutSeconds, w.FailurePolicy = tt.seconds, &tt.policy })
		time.Sleep(3 * time.Second)
		_, err := c.Client.CoreV1().ConfigMaps(h.ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}}, metav1.CreateOptions{})
		if (err != nil) != tt.fails {
			t.Errorf("timeout %v, policy %s: %v", tt.seconds, tt.policy, err)
		}
	}
}

func mutateTwice(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	h.mutating("a", "/patch/"+hexed(addKey), "configmaps")
	h.mutating("b", "/patch-if/"+hexed("mutated")+"/"+hexed(`[{"op":"add","path":"/data/b","value":"yes"}]`), "configmaps")
	h.becomes("mutated by both", someData, func(cm *corev1.ConfigMap, err error) bool {
		return withKey("mutated")(cm, err) && withKey("b")(cm, err)
	})
}

func skipMe(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	h.mutating("h", "/patch/"+hexed(addKey), "configmaps", func(w *admissionv1.MutatingWebhook) {
		w.MatchConditions = condition1("object.metadata.name != 'skip-me'")
	})
	h.becomes("mutated", someData, withKey("mutated"))
	configMap(t, c, h.ns, "skip-me", someData)
	if cm := must(c.Client.CoreV1().ConfigMaps(h.ns).Get(t.Context(), "skip-me", metav1.GetOptions{}))(t); !plainOnly(cm, nil) {
		t.Errorf("skip-me was mutated: %v", cm.Data)
	}
}

func mutatePod(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	h.mutating("h", "/patch/"+hexed(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"i","image":"i"}]}]`), "pods")
	c.Eventually(t, 20*time.Second, "the init container", func(ctx context.Context) error {
		p, err := c.Client.CoreV1().Pods(h.ns).Create(ctx, c.Pod(fmt.Sprintf("p%d", time.Now().UnixNano()), nil), metav1.CreateOptions{})
		if err != nil || len(p.Spec.InitContainers) != 1 {
			return fmt.Errorf("%+v %v", p.Spec.InitContainers, err)
		}
		if i := p.Spec.InitContainers[0]; i.TerminationMessagePolicy != corev1.TerminationMessageReadFile || i.TerminationMessagePath == "" || i.ImagePullPolicy == "" {
			t.Errorf("the init container lacks defaults: %+v", i)
		}
		return nil
	})
}

func failClosed(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	h.validating("h", "/allow", "configmaps", func(w *admissionv1.ValidatingWebhook) {
		w.FailurePolicy, w.ClientConfig.CABundle = ptr(admissionv1.Fail), nil
	})
	h.becomes("refused", someData, func(_ *corev1.ConfigMap, err error) bool {
		return err != nil && strings.Contains(err.Error(), "failed calling webhook")
	})
}
