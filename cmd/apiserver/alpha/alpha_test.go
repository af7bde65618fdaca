package alpha

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const used = `
evictionResponders: [{name: a.b/c, priority: 5000}]
schedulingGroup: {podGroupName: g}
volumes:
- {name: e, emptyDir: {mode: 448, medium: Memory}}
- {name: s, secret: {secretName: s, defaultUser: 1, items: [{key: k, path: p, user: 1}]}}
- {name: c, configMap: {name: c, defaultUser: 1, items: [{key: k, path: p, user: 1}]}}
- {name: d, downwardAPI: {defaultUser: 1, items: [{path: p, user: 1, fieldRef: {fieldPath: metadata.name}}]}}
- name: p
  projected:
    defaultUser: 1
    sources:
    - secret: {name: s, items: [{key: k, path: p, user: 1}]}
    - configMap: {name: c, items: [{key: k, path: p, user: 1}]}
    - downwardAPI: {items: [{path: p, user: 1}]}
    - serviceAccountToken: {path: p, user: 1}
    - clusterTrustBundle: {name: b, path: p, user: 1}
    - podCertificate: {signerName: a.b/c, keyType: ED25519, user: 1}
initContainers: [{name: i, volumeMounts: [{name: e, mountPath: /e, bindMountOptions: [noexec]}]}]
containers:
- name: c
  livenessProbe: {httpGet: {port: 80, protocol: HTTP2}}
  readinessProbe: {grpc: {port: 81, service: "", mode: TLS}}
  lifecycle: {preStop: {httpGet: {port: 82, protocol: HTTP2}}}
`

const kept = `
volumes:
- {name: e, emptyDir: {medium: Memory}}
- {name: s, secret: {secretName: s, items: [{key: k, path: p}]}}
- {name: c, configMap: {name: c, items: [{key: k, path: p}]}}
- {name: d, downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}}]}}
- name: p
  projected:
    sources:
    - secret: {name: s, items: [{key: k, path: p}]}
    - configMap: {name: c, items: [{key: k, path: p}]}
    - downwardAPI: {items: [{path: p}]}
    - serviceAccountToken: {path: p}
    - clusterTrustBundle: {name: b, path: p}
    - podCertificate: {signerName: a.b/c, keyType: ED25519}
initContainers: [{name: i, volumeMounts: [{name: e, mountPath: /e}]}]
containers:
- name: c
  livenessProbe: {httpGet: {port: 80}}
  readinessProbe: {grpc: {port: 81, service: ""}}
  lifecycle: {preStop: {httpGet: {port: 82}}}
`

func specFrom(t *testing.T, text string) corev1.PodSpec {
	t.Helper()
	var s corev1.PodSpec
	if err := yaml.UnmarshalStrict([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDrop(t *testing.T) {
	want := specFrom(t, kept)
	pod := &corev1.Pod{Spec: specFrom(t, used)}
	Drop(pod, nil)
	if diff := cmp.Diff(want, pod.Spec); diff != "" {
		t.Errorf("new pod (-want +got):\n%s", diff)
	}
	d := &appsv1.Deployment{}
	d.Spec.Template.Spec = specFrom(t, used)
	Drop(d, &appsv1.Deployment{})
	if diff := cmp.Diff(want, d.Spec.Template.Spec); diff != "" {
		t.Errorf("changed template (-want +got):\n%s", diff)
	}
	pod.Spec = specFrom(t, used)
	Drop(pod, pod.DeepCopy())
	if diff := cmp.Diff(specFrom(t, used), pod.Spec); diff != "" {
		t.Errorf("a pod that had them (-want +got):\n%s", diff)
	}
	Drop(&corev1.ConfigMap{}, nil) // a kind without pods
}
