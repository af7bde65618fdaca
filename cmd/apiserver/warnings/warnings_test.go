package warnings

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

func decode(t *testing.T, text string) runtime.Object {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	obj, _, err := serializer.NewCodecFactory(s).UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// podOf is a pod of the given spec and, after a bar, metadata.
func podOf(text string) string {
	spec, meta, _ := strings.Cut(text, "|")
	return "{apiVersion: v1, kind: Pod, metadata: {name: p" + meta + "}, spec: {" + spec + "}}"
}

func TestPod(t *testing.T) {
	for _, tt := range []struct{ name, pod, want string }{
		{"nothing", "containers: [{name: c}]", ""},
		{"node selector", "nodeSelector: {beta.kubernetes.io/os: linux}", `spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`},
		{"node affinity", "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: failure-domain.beta.kubernetes.io/zone, operator: Exists}]}]}}}",
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead`},
		{"preferred node affinity", "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: beta.kubernetes.io/arch, operator: Exists}]}}]}}",
			`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead`},
		{"pod affinity", "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: k}]}}",
			"spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod"},
		{"pod anti-affinity", "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: k}}]}}",
			"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod"},
		{"spread", "topologySpreadConstraints: [{topologyKey: failure-domain.beta.kubernetes.io/region}]",
			`spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/region is deprecated since v1.17; use "topology.kubernetes.io/region" instead` + "\n" +
				"spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod"},
		{"critical", "|, annotations: {scheduler.alpha.kubernetes.io/critical-pod: ''}", `metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"sysctls", "|, annotations: {security.alpha.kubernetes.io/sysctls: ''}", `metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the "sysctls" field instead`},
		{"seccomp", "containers: [{name: c}]|, annotations: {container.seccomp.security.alpha.kubernetes.io/c: x}", `metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use the "seccompProfile" field instead`},
		{"apparmor", "containers: [{name: c}]|, annotations: {container.apparmor.security.beta.kubernetes.io/c: x}", `metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead`},
		{"apparmor field", "containers: [{name: c, securityContext: {appArmorProfile: {type: Unconfined}}}]|, annotations: {container.apparmor.security.beta.kubernetes.io/c: unconfined}", ""},
		{"volumes", "volumes: [{name: a, gitRepo: {repository: r}}, {name: b, rbd: {monitors: [], image: i}}, {name: c, scaleIO: {gateway: g, system: s, secretRef: {}}}]",
			"spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+\nspec.volumes[1].rbd: deprecated in v1.28, non-functional in v1.31+\nspec.volumes[2].scaleIO: deprecated in v1.16, non-functional in v1.22+"},
		{"ephemeral claim", "volumes: [{name: a, ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 200m}}}}}}]",
			`spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value "200m" is invalid, must be an integer`},
		{"host aliases", "hostAliases: [{ip: 1.1.1.1}, {ip: 1.1.1.1}]", `spec.hostAliases[1].ip: duplicate ip "1.1.1.1"`},
		{"empty pull secret", "imagePullSecrets: [{name: ''}]", `spec.imagePullSecrets[0].name: invalid empty name ""`},
		{"twice a pull secret", "imagePullSecrets: [{name: a}, {name: a}]", `spec.imagePullSecrets[1].name: duplicate name "a"`},
		{"env", "containers: [{name: c, env: [{name: A, value: v}, {name: A, value: w}]}]", `spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`},
		{"env extended", "containers: [{name: c, env: [{name: A, value: x}, {name: A, value: $(A):y}]}]", ""},
		{"memory", "containers: [{name: c, resources: {limits: {memory: 100m}}}]", `spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer`},
		{"overhead", "overhead: {memory: 100m}", `spec.overhead[memory]: fractional byte value "100m" is invalid, must be an integer`},
		{"port", "containers: [{name: c, ports: [{containerPort: 80}]}, {name: d, ports: [{containerPort: 80}]}]", "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]"},
		{"port overlaps", "containers: [{name: c, ports: [{containerPort: 80, hostPort: 80}, {containerPort: 80}]}]", "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]"},
		{"host address without port", "containers: [{name: c, ports: [{containerPort: 80, protocol: UDP, hostIP: 10.0.0.1}]}]",
			"spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:UDP HostIP:10.0.0.1}"},
		{"port name", "containers: [{name: c, ports: [{containerPort: 80, name: a}]}, {name: d, ports: [{containerPort: 81, name: a}]}]",
			`spec.containers[1].ports[0]: duplicate port name "a" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]`},
		{"init port", "initContainers: [{name: i, ports: [{containerPort: 80}]}], containers: [{name: c, ports: [{containerPort: 80}]}]", ""},
		{"grace", "terminationGracePeriodSeconds: -1", "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"},
		{"nameserver", "dnsConfig: {nameservers: [010.1.1.1]}", "spec.dnsConfig.nameservers[0]: non-standard IP address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(For(decode(t, podOf(tt.pod)), nil), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestKinds(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"name", `{apiVersion: v1, kind: Pod, metadata: {name: a.b}}`, "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"},
		{"template", `{apiVersion: apps/v1, kind: Deployment, spec: {selector: {}, template: {spec: {hostAliases: [{ip: 1.1.1.1}, {ip: 1.1.1.1}]}}}}`, `spec.template.spec.hostAliases[1].ip: duplicate ip "1.1.1.1"`},
		{"cron job", `{apiVersion: batch/v1, kind: CronJob, spec: {schedule: "* * * * *", jobTemplate: {spec: {template: {spec: {imagePullSecrets: [{name: ''}]}}}}}}`, `spec.jobTemplate.spec.template.spec.imagePullSecrets[0].name: invalid empty name ""`},
		{"headless", `{apiVersion: v1, kind: Service, spec: {clusterIP: None, sessionAffinity: ClientIP, externalIPs: [1.2.3.4], loadBalancerIP: 1.2.3.4}}`,
			"spec.loadBalancerIP is ignored for headless services\nspec.externalIPs is ignored for headless services\nspec.SessionAffinity is ignored for headless services"},
		{"headless, of the default affinity", `{apiVersion: v1, kind: Service, spec: {clusterIP: None, sessionAffinity: None}}`, ""},
		{"external name", `{apiVersion: v1, kind: Service, spec: {type: ExternalName, externalName: a.b, externalIPs: [1.2.3.4]}}`, `spec.externalIPs is ignored when spec.type is "ExternalName"`},
		{"no external name", `{apiVersion: v1, kind: Service, spec: {type: ClusterIP, externalName: a.b}}`, `spec.externalName is ignored when spec.type is not "ExternalName"`},
		{"hints", `{apiVersion: v1, kind: Service, metadata: {annotations: {service.kubernetes.io/topology-aware-hints: auto}}}`, "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead"},
		{"addresses", `{apiVersion: v1, kind: Service, spec: {clusterIP: 010.0.0.1, clusterIPs: [010.0.0.1], loadBalancerSourceRanges: [10.0.0.1/8]}}`, "spec.loadBalancerSourceRanges[0]"},
		{"recycle", `{apiVersion: v1, kind: PersistentVolume, metadata: {annotations: {volume.beta.kubernetes.io/mount-options: x}}, spec: {persistentVolumeReclaimPolicy: Recycle, cephfs: {monitors: []}}}`,
			`metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use "mountOptions" attribute instead` + "\n" +
				"spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.\nspec.cephfs: deprecated in v1.28, non-functional in v1.31+"},
		{"claim", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {annotations: {volume.beta.kubernetes.io/storage-class: x}}, spec: {resources: {requests: {storage: 100m}}}}`,
			`metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead` + "\n" +
				`spec.resources.requests[storage]: fractional byte value "100m" is invalid, must be an integer`},
		{"node", `{apiVersion: v1, kind: Node, spec: {externalID: x, configSource: {}}}`, "spec.configSource: the feature is removed\nspec.externalID: this field is deprecated, and is unused by Kubernetes"},
		{"tls", `{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, data: {}}`, "tls: failed to find any PEM data in certificate input"},
		{"opaque", `{apiVersion: v1, kind: Secret, type: Opaque}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(For(decode(t, tt.yaml), nil), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestUpdates holds that only what changes is warned of.
func TestUpdates(t *testing.T) {
	bad := decode(t, `{apiVersion: apps/v1, kind: Deployment, spec: {selector: {}, template: {spec: {imagePullSecrets: [{name: ''}]}}}}`)
	if got := For(bad, bad.DeepCopyObject()); got != nil {
		t.Errorf("unchanged template: %q", got)
	}
	good := decode(t, `{apiVersion: apps/v1, kind: Deployment, spec: {selector: {}, template: {spec: {}}}}`)
	if diff := cmp.Diff([]string{`spec.template.spec.imagePullSecrets[0].name: invalid empty name ""`}, For(bad, good)); diff != "" {
		t.Error(diff)
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{}}}}
	if got := For(pod, pod); got != nil {
		t.Errorf("pod: %q", got)
	}
}
