package validation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const aRunningPod = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: d}, spec: {
  initContainers: [{name: i, image: i, resources: {limits: {cpu: 1}}}, {name: s, image: s, restartPolicy: Always, resources: {requests: {cpu: 10m}}}],
  containers: [{name: c, image: img, resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 64Mi}}},
    {name: b, image: img}]},
  status: {phase: Running, qosClass: Burstable, containerStatuses: [{name: c, image: "", imageID: "", ready: true, restartCount: 0, state: {running: {}}, resources: {}}]}}`

func TestPodResize(t *testing.T) {
	for _, tt := range []struct{ name, base, from, to, want string }{
		{"nothing", aRunningPod, "", "", ""},
		{"request", aRunningPod, "cpu: 100m", "cpu: 150m", ""},
		{"limit", aRunningPod, "limits: {cpu: 200m", "limits: {cpu: 2", ""},
		{"sidecar", aRunningPod, "cpu: 10m", "cpu: 20m", ""},
		{"first limit", aRunningPod, "{name: b, image: img}", "{name: b, image: img, resources: {limits: {memory: 1Gi}}}", ""},
		{"request above limit", aRunningPod, "cpu: 100m", "cpu: 300m", "spec.containers[0].resources.requests: Invalid value: \"300m\": must be less than or equal to cpu limit of 200m"},
		{"removed limit", aRunningPod, ", limits: {cpu: 200m, memory: 64Mi}", "", "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"},
		{"removed request", aRunningPod, "requests: {cpu: 10m}", "requests: {}", "spec.initContainers[1].resources.requests: Forbidden: resource requests cannot be removed"},
		{"init container", aRunningPod, "limits: {cpu: 1}", "limits: {cpu: 2}", "spec.initContainers[0].resources: Forbidden: resources for non-sidecar init containers are immutable"},
		{"other resource", aRunningPod, "limits: {cpu: 200m", "limits: {ephemeral-storage: 1Gi, cpu: 200m", "spec: Forbidden: only cpu and memory resources are mutable"},
		{"image", aRunningPod, "image: img", "image: other", "spec: Forbidden: only cpu and memory resources are mutable"},
		{"renamed", aRunningPod, "name: b,", "name: d,", "spec: Forbidden: containers may not be renamed or reordered on resize"},
		{"removed container", aRunningPod, "{name: b, image: img}", "", "spec.containers: Forbidden: containers may not be added or removed on resize"},
		{"class", strings.Replace(aRunningPod, "qosClass: Burstable", "qosClass: BestEffort", 1), "", "", "Pod QOS Class may not change as a result of resizing"},
		{"old node", strings.Replace(aRunningPod, ", resources: {}}]", "}]", 1), "", "", "spec: Forbidden: Pod running on node without support for resize"},
		{"static", strings.Replace(aRunningPod, "name: p, ", "name: p, annotations: {kubernetes.io/config.mirror: x}, ", 1), "", "", "Forbidden: static pods cannot be resized"},
		{"windows", strings.Replace(aRunningPod, "spec: {", "spec: {os: {name: windows}, ", 1), "", "", "Forbidden: windows pods cannot be resized"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := edit{from: tt.from, to: tt.to}
			compare(t, PodResize(decode(t, e.apply(t, tt.base)).(*corev1.Pod), decode(t, tt.base).(*corev1.Pod)), tt.want)
		})
	}
}
