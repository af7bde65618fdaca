package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// sample is what k8s.io/sample-apiserver needs in a cluster: its server and an etcd of its own in one pod, a Service,
// the rights to ask us who somebody is and what he may, and the APIService. $NS, $SERVER, $ETCD, $CA, $CERT and $KEY are
// filled in.
const sample = `
{apiVersion: v1, kind: ServiceAccount, metadata: {name: apiserver, namespace: $NS}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: $NS}, rules: [
{apiGroups: [""], resources: [namespaces], verbs: [get, watch, list]},
{apiGroups: [admissionregistration.k8s.io], resources: ["*"], verbs: [get, watch, list]},
{apiGroups: [flowcontrol.apiserver.k8s.io], resources: [prioritylevelconfigurations, flowschemas], verbs: [list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: $NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: $NS}, subjects: [{kind: ServiceAccount, name: apiserver, namespace: $NS}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: "$NS:delegator"}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}, subjects: [{kind: ServiceAccount, name: apiserver, namespace: $NS}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: $NS, namespace: kube-system}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}, subjects: [{kind: ServiceAccount, name: apiserver, namespace: $NS}]}
---
{apiVersion: v1, kind: Secret, metadata: {name: cert, namespace: $NS}, data: {tls.crt: $CERT, tls.key: $KEY}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: sample, namespace: $NS}, spec: {replicas: 1, selector: {matchLabels: {app: sample}}, template: {metadata: {labels: {app: sample}}, spec: {serviceAccountName: apiserver, terminationGracePeriodSeconds: 1,
volumes: [{name: cert, secret: {secretName: cert}}], containers: [
{name: sample, image: $SERVER, args: ["--etcd-servers=http://127.0.0.1:12379", "--secure-port=8443", "--tls-cert-file=/cert/tls.crt", "--tls-private-key-file=/cert/tls.key"], volumeMounts: [{name: cert, mountPath: /cert}],
readinessProbe: {periodSeconds: 1, httpGet: {scheme: HTTPS, port: 8443, path: /readyz}}},
{name: etcd, image: $ETCD, command: [/usr/local/bin/etcd, --data-dir=/tmp/etcd, "--listen-client-urls=http://127.0.0.1:12379", "--advertise-client-urls=http://127.0.0.1:12379", "--listen-peer-urls=http://127.0.0.1:12380"]}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: sample, namespace: $NS}, spec: {selector: {app: sample}, ports: [{port: 7443, targetPort: 8443}]}}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1alpha1.wardle.example.com}, spec: {group: wardle.example.com, version: v1alpha1, caBundle: $CA, groupPriorityMinimum: 2000, versionPriority: 200,
service: {name: sample, namespace: $NS, port: 7443}}}
`

func sampleServer(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	cert, key := serverCert(t, "sample."+ns+".svc")
	b64 := base64.StdEncoding.EncodeToString
	objects := []byte(strings.NewReplacer("$NS", ns, "$SERVER", c.Image("sample-apiserver"), "$ETCD", c.Image("orlop-server"), "$CA", b64(cert), "$CERT", b64(cert), "$KEY", b64(key)).Replace(sample))
	must(c.KubectlIn(objects, "create", "-f", "-"))(t)
	t.Cleanup(func() { c.KubectlIn(objects, "delete", "--wait=false", "-f", "-") })
	kubectl(t, c, ns, "wait", "--for=condition=Available", "--timeout=90s", "apiservice/v1alpha1.wardle.example.com")
	client := must(dynamic.NewForConfig(c.Config))(t)
	flunders := client.Resource(gvr("wardle.example.com/v1alpha1/flunders")).Namespace(ns)
	flunder := &unstructured.Unstructured{}
	flunder.SetAPIVersion("wardle.example.com/v1alpha1")
	flunder.SetKind("Flunder")
	flunder.SetName("f")
	c.Eventually(t, 60*time.Second, "a flunder to be made", func(ctx context.Context) error {
		_, err := flunders.Create(ctx, flunder, metav1.CreateOptions{})
		return err
	})
	if l := must(flunders.List(t.Context(), metav1.ListOptions{}))(t); len(l.Items) != 1 || l.Items[0].GetName() != "f" {
		t.Errorf("list: %v", l.Items)
	}
	o := must(flunders.Patch(t.Context(), "f", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}))(t)
	if o.GetLabels()["a"] != "b" {
		t.Errorf("patched: %v", o.Object)
	}
	holds(t, kubectl(t, c, ns, "get", "flunders"), `f\s`)
	c.Eventually(t, 60*time.Second, "its documentation", func(context.Context) error { // it is fetched in the background
		out, err := c.Kubectl("explain", "flunders")
		if err == nil && !regexp.MustCompile("KIND: +Flunder").MatchString(out) {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
	sampleService(t, c, client)
	c.Eventually(t, 30*time.Second, "the group in discovery", func(context.Context) error {
		_, _, body := raw(t, c, "GET", "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "")
		l, err := c.Client.Discovery().ServerResourcesForGroupVersion("wardle.example.com/v1alpha1")
		if err == nil && (len(l.APIResources) == 0 || !strings.Contains(body, "wardle.example.com")) {
			err = fmt.Errorf("resources %v, in the aggregated document: %v", l.APIResources, strings.Contains(body, "wardle.example.com"))
		}
		return err
	})
	ok(t, flunders.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	if l := must(flunders.List(t.Context(), metav1.ListOptions{}))(t); len(l.Items) != 0 {
		t.Errorf("%d are left", len(l.Items))
	}
}

// sampleService takes the APIService through its verbs and those of its status.
func sampleService(t *testing.T, c *clustertest.Cluster, client dynamic.Interface) {
	t.Helper()
	const name = "v1alpha1.wardle.example.com"
	services := client.Resource(gvr("apiregistration.k8s.io/v1/apiservices"))
	must(services.Get(t.Context(), name, metav1.GetOptions{}, "status"))(t)
	o := must(services.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec":{"versionPriority":400},"metadata":{"labels":{"e2e":"patched"}}}`), metav1.PatchOptions{}))(t)
	if p, _, _ := unstructured.NestedInt64(o.Object, "spec", "versionPriority"); p != 400 || o.GetLabels()["e2e"] != "patched" {
		t.Errorf("patched: %v", o.Object)
	}
	o = updated(t, services, name, func(o *unstructured.Unstructured) {
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		conditions = append(conditions, map[string]any{"type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "Set from an e2e test", "lastTransitionTime": "2026-01-01T00:00:00Z"})
		ok(t, unstructured.SetNestedSlice(o.Object, conditions, "status", "conditions"))
	}, "status")
	if body := must(json.Marshal(o.Object["status"]))(t); !strings.Contains(string(body), "StatusUpdated") {
		t.Errorf("status %s", body)
	}
	if l := must(services.List(t.Context(), metav1.ListOptions{LabelSelector: "e2e=patched"}))(t); len(l.Items) != 1 {
		t.Errorf("%d services in the list", len(l.Items))
	}
}
