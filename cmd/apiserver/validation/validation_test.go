package validation

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cmd/apiserver/defaults"
)

// defaultedScheme is made once: it takes longer than all that a row does with it.
var defaultedScheme = sync.OnceValues(func() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(scheme.AddToScheme(s), defaults.AddToScheme(s))
})

// decode reads a defaulted object from YAML.
func decode(t *testing.T, text string) runtime.Object {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text)) // flow style looks like JSON to the decoder
	if err != nil {
		t.Fatal(err)
	}
	s, err := defaultedScheme()
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := serializer.NewCodecFactory(s).UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	s.Default(obj)
	return obj
}

func text(errs field.ErrorList) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return strings.Join(out, "\n")
}

// edit replaces text in a valid object; want is what the errors must contain, or "" for no errors.
type edit struct {
	name, from, to, want string
}

func (e edit) apply(t *testing.T, base string) string {
	t.Helper()
	if e.from == "" {
		return base
	}
	if !strings.Contains(base, e.from) {
		t.Fatalf("base has no %q", e.from)
	}
	return strings.Replace(base, e.from, e.to, 1)
}

func compare(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	switch got := text(errs); {
	case want == "" && got != "":
		t.Errorf("unexpected errors:\n%s", got)
	case want != "" && !strings.Contains(got, want):
		t.Errorf("errors:\n%s\nwant:\n%s", got, want)
	}
}

func testCreate(t *testing.T, base string, edits []edit) {
	for _, e := range append([]edit{{name: "valid"}}, edits...) {
		t.Run(e.name, func(t *testing.T) { compare(t, Create(decode(t, e.apply(t, base))), e.want) })
	}
}

func testUpdate(t *testing.T, base string, edits []edit) {
	for _, e := range append([]edit{{name: "unchanged"}}, edits...) {
		t.Run(e.name, func(t *testing.T) {
			compare(t, Update(decode(t, e.apply(t, base)), decode(t, base)), e.want)
		})
	}
}

const aPod = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: d}, spec: {
  volumes: [{name: v, emptyDir: {}}],
  initContainers: [{name: i, image: i}],
  tolerations: [{key: k, operator: Exists, effect: NoExecute, tolerationSeconds: 5}],
  containers: [{name: c, image: img, ports: [{name: http, containerPort: 80, hostPort: 8080}], env: [{name: A, value: b}],
    resources: {requests: {cpu: 100m}, limits: {cpu: 200m}}, volumeMounts: [{name: v, mountPath: /v}],
    livenessProbe: {httpGet: {port: http}}}]}}`

func TestPodCreate(t *testing.T) {
	testCreate(t, aPod, []edit{
		{"no containers", "containers: [{name: c", "ephemeralContainers: [{name: c", "spec.containers: Required value"},
		{"container name", "name: c, image", "name: C, image", `spec.containers[0].name: Invalid value: "C": a lowercase RFC 1123 label must consist of`},
		{"same name", "name: i, image: i", "name: c, image: i", `spec.initContainers[0].name: Duplicate value: "c"`},
		{"no image", "image: img", "image: ''", "spec.containers[0].image: Required value"},
		{"port", "containerPort: 80,", "containerPort: 80000,", "spec.containers[0].ports[0].containerPort: Invalid value: 80000: must be between 1 and 65535, inclusive"},
		{"host network", "spec: {", "spec: {hostNetwork: true, ", "must match `hostPort` when `hostNetwork` is true"},
		{"unknown volume", "volumeMounts: [{name: v", "volumeMounts: [{name: w", `spec.containers[0].volumeMounts[0].name: Not found: "w"`},
		{"two sources", "emptyDir: {}", "emptyDir: {}, hostPath: {path: /x}", "may not specify more than 1 volume type"},
		{"requests over limits", "cpu: 100m", "cpu: 300m", `spec.containers[0].resources.requests: Invalid value: "300m": must be less than or equal to cpu limit of 200m`},
		{"resource name", "requests: {cpu: 100m}", "requests: {disk: 1}", "must be a standard resource for containers"},
		{"two handlers", "httpGet: {port: http}", "httpGet: {port: http}, tcpSocket: {port: 1}", "may not specify more than 1 handler type"},
		{"no handler", "httpGet: {port: http}", "periodSeconds: 1", "must specify a handler type"},
		{"env sources", "value: b", "valueFrom: {}", "must specify one of: `fieldRef`"},
		{"field reference", "value: b", "valueFrom: {fieldRef: {fieldPath: spec.hostname}}", "error converting fieldPath: field label not supported: spec.hostname"},
		{"label reference", "value: b", "valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''a'']'}}", ""},
		{"restart policy", "spec: {", "spec: {restartPolicy: Sometimes, ", `spec.restartPolicy: Unsupported value: "Sometimes"`},
		{"toleration", "operator: Exists", "operator: Exists, value: x", "value must be empty when `operator` is 'Exists'"},
		{"init probe", "name: i, image: i", "name: i, image: i, livenessProbe: {exec: {command: [x]}}", "may not be set for init containers without restartPolicy=Always"},
		{"escalation", "image: img", "image: img, securityContext: {privileged: true, allowPrivilegeEscalation: false}", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"},
		{"dns none", "spec: {", "spec: {dnsPolicy: None, ", "must provide `dnsConfig` when `dnsPolicy` is None"},
		{"affinity", "spec: {", "spec: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{}]}}, ", "topologyKey: Required value: can not be empty"},
		{"ephemeral", "spec: {", "spec: {ephemeralContainers: [{name: e, image: e}], ", "cannot be set on create"},
		{"grace", "spec: {", "spec: {terminationGracePeriodSeconds: -1, ", ""},
	})
}

func TestPodUpdate(t *testing.T) {
	testUpdate(t, aPod, []edit{
		{"image", "image: img", "image: other", ""},
		{"labels", "name: p,", "name: p, labels: {a: b},", ""},
		{"toleration lasts longer", "tolerationSeconds: 5", "tolerationSeconds: 50", ""},
		{"toleration changed", "key: k", "key: l", "existing toleration can not be modified except its tolerationSeconds"},
		{"deadline", "spec: {", "spec: {activeDeadlineSeconds: 3, ", ""},
		{"command", "image: img", "image: img, command: [sh]", "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"},
		{"another container", "containers: [{name: c", "containers: [{name: d, image: d}, {name: c", "pod updates may not add or remove containers"},
		{"gate", "spec: {", "spec: {schedulingGates: [{name: a/b}], ", "only deletion is allowed, but found new scheduling gate 'a/b'"},
	})
}

func TestPodStatusMayNotRestart(t *testing.T) {
	old := decode(t, strings.Replace(aPod, "spec: {", "spec: {restartPolicy: Never, ", 1)).(*corev1.Pod)
	old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	again := old.DeepCopy()
	again.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	compare(t, UpdateStatus(again, old), "may not be transitioned to non-terminated state")
	compare(t, UpdateStatus(old, old), "")
}

const aService = `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: d}, spec: {type: NodePort, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7],
  ipFamilies: [IPv4], selector: {a: b}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}}`

func TestService(t *testing.T) {
	testCreate(t, aService, []edit{
		{"no port name", "{name: http, port", "{port", "spec.ports[0].name: Required value"},
		{"same name", "name: dns", "name: http", `spec.ports[1].name: Duplicate value: "http"`},
		{"port number", "port: 80", "port: 0", "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"},
		{"headless node port", "clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7]", "clusterIP: None, clusterIPs: [None]", "may not be set to 'None' for NodePort services"},
		{"address", "clusterIPs: [10.96.0.7]", "clusterIPs: [x]", "spec.clusterIPs: Invalid value"},
		{"external name", "type: NodePort", "type: ExternalName", "may not be set for ExternalName services"},
		{"protocol", "protocol: UDP", "protocol: ICMP", `spec.ports[1].protocol: Unsupported value: "ICMP"`},
		{"selector", "selector: {a: b}", "selector: {'-': b}", "spec.selector: Invalid value"},
		{"node port", "type: NodePort", "type: ClusterIP", ""},
	})
	testUpdate(t, aService, []edit{
		{"another address", "clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7]", "clusterIP: 10.96.0.8, clusterIPs: [10.96.0.8]", "spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"},
		{"to external name", "type: NodePort, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7],\n  ipFamilies: [IPv4]", "type: ExternalName, externalName: a.b", ""},
		{"port", "port: 80", "port: 81", ""},
	})
}

const aDeployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: d}, spec: {selector: {matchLabels: {a: b}},
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: c}]}}}}`

func TestDeployment(t *testing.T) {
	testCreate(t, aDeployment, []edit{
		{"selector misses", "labels: {a: b}", "labels: {a: c}", "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"},
		{"no selector", "selector: {matchLabels: {a: b}},", "", "spec.selector: Required value"},
		{"negative", "spec: {selector", "spec: {replicas: -1, selector", "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		{"restart policy", "containers: [", "restartPolicy: Never, containers: [", `spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
		{"stuck rollout", "spec: {selector", "spec: {strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}, selector", "may not be 0 when `maxSurge` is 0"},
		{"recreate", "spec: {selector", "spec: {strategy: {type: Recreate, rollingUpdate: {}}, selector", "may not be specified when strategy `type` is 'Recreate'"},
	})
	testUpdate(t, aDeployment, []edit{
		{"image", "image: c", "image: d", ""},
		{"selector", "selector: {matchLabels: {a: b}}", "selector: {matchExpressions: [{key: a, operator: Exists}]}", "field is immutable"},
	})
}

const aStatefulSet = `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x, namespace: d}, spec: {serviceName: s, selector: {matchLabels: {a: b}},
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}],
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: c, volumeMounts: [{name: data, mountPath: /d}]}]}}}}`

func TestStatefulSet(t *testing.T) {
	testCreate(t, aStatefulSet, nil)
	testUpdate(t, aStatefulSet, []edit{
		{"replicas", "serviceName: s,", "serviceName: s, replicas: 3,", ""},
		{"service", "serviceName: s,", "serviceName: t,", "updates to statefulset spec for fields other than 'replicas'"},
	})
}

const aJob = `{apiVersion: batch/v1, kind: Job, metadata: {name: x, namespace: d}, spec: {manualSelector: true, selector: {matchLabels: {a: b}},
  template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}`

func TestJob(t *testing.T) {
	testCreate(t, aJob, []edit{
		{"always", "restartPolicy: Never", "restartPolicy: Always", `spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`},
		{"indexed", "spec: {manual", "spec: {completionMode: Indexed, parallelism: 2, manual", "spec.completions: Required value: when completion mode is Indexed"},
	})
	testUpdate(t, aJob, []edit{
		{"parallelism", "spec: {manual", "spec: {parallelism: 2, completions: 1, manual", ""},
		{"completions", "spec: {manual", "spec: {completions: 2, parallelism: 1, manual", "spec.completions: Invalid value: 2: field is immutable"},
		{"template", "image: c", "image: d", "spec.template: Invalid value"},
	})
}

func TestOtherKinds(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"cron", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: x, namespace: d}, spec: {schedule: "*/5 0-3 * jan,6 mon", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}}}`, ""},
		{"cron schedule", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: x, namespace: d}, spec: {schedule: "61 * * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}}}`, "end of range (61) above maximum (59): 61"},
		{"config map key", `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: d}, data: {"a b": c}}`, "a valid config key must consist of alphanumeric characters"},
		{"tls secret", `{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: d}, type: kubernetes.io/tls, data: {tls.crt: ""}}`, "data[tls.key]: Required value"},
		{"role verbs", `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: x, namespace: d}, rules: [{apiGroups: [""], resources: [pods]}]}`, "rules[0].verbs: Required value"},
		{"role ref kind", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: x}, roleRef: {kind: Role, name: r}}`, `roleRef.kind: Unsupported value: "Role"`},
		{"binding", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x, namespace: d}, roleRef: {kind: Role, name: "system:r"}, subjects: [{kind: ServiceAccount, name: a, namespace: ns}, {kind: User, name: u}]}`, ""},
		{"ingress", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x, namespace: d}, spec: {rules: [{host: "*.a.b", http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}}]}}`, ""},
		{"ingress path type", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x, namespace: d}, spec: {rules: [{http: {paths: [{path: /, backend: {service: {name: s, port: {number: 80}}}}]}}]}}`, "pathType: Required value: pathType must be specified"},
		{"network policy except", `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: x, namespace: d}, spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}}`, "must be a strict subset of `cidr`"},
		{"budget", `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: x, namespace: d}, spec: {minAvailable: 1, maxUnavailable: 1}}`, "minAvailable and maxUnavailable cannot be both set"},
		{"priority", `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: x}, value: 2000000000}`, "maximum allowed value of a user defined priority is 1000000000"},
		{"system priority", `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: system-node-critical}, value: 2000001000}`, ""},
		{"webhook side effects", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: x}, webhooks: [{name: a.b.c, admissionReviewVersions: [v1], clientConfig: {url: "https://a/b"}}]}`, "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"},
		{"webhook", `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: x}, webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {service: {name: s, namespace: n1}}, matchConditions: [{name: m, expression: "object.metadata.name == 'x'"}]}]}`, ""},
		{"policy", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: x}, spec: {matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]}, variables: [{name: who, expression: "object.metadata.name"}], validations: [{expression: "variables.who != 'x'"}]}}`, ""},
		{"policy expression", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: x}, spec: {matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]}, validations: [{expression: "obj.x"}]}}`, "undeclared reference to 'obj'"},
		{"storage class", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: x}}`, "provisioner: Required value"},
		{"volume", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: x}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}`, ""},
		{"volume source", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: x}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}}}`, "must specify a volume type"},
		{"claim", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x, namespace: d}, spec: {accessModes: [ReadWriteOnce]}}`, "spec.resources[storage]: Required value"},
		{"slice", `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: d}, addressType: IPv4, endpoints: [{addresses: [127.0.0.1]}]}`, "may not be in the loopback range"},
		{"lease", `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: x, namespace: d}, spec: {leaseDurationSeconds: 0}}`, "must be greater than 0"},
		{"quota", `{apiVersion: v1, kind: ResourceQuota, metadata: {name: x, namespace: d}, spec: {hard: {pods: 1500m}}}`, "must be an integer"},
		{"limits", `{apiVersion: v1, kind: LimitRange, metadata: {name: x, namespace: d}, spec: {limits: [{type: Container, min: {cpu: 2}, max: {cpu: 1}}]}}`, "min value 2 is greater than max value 1"},
		{"scaler", `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: x, namespace: d}, spec: {minReplicas: 3, maxReplicas: 2, scaleTargetRef: {kind: Deployment, name: x}}}`, "must be greater than or equal to `minReplicas`"},
		{"signing request", `{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: x}, spec: {request: "", signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}`, "PEM block type must be CERTIFICATE REQUEST"},
		{"event", `{apiVersion: v1, kind: Event, metadata: {name: x, namespace: d}, involvedObject: {namespace: other}}`, "does not match event.namespace"},
		{"node", `{apiVersion: v1, kind: Node, metadata: {name: x}, spec: {taints: [{key: a, effect: Never}]}}`, `metadata.taints[0].effect: Unsupported value: "Never"`},
		{"controller", `{apiVersion: v1, kind: ReplicationController, metadata: {name: x, namespace: d}, spec: {selector: {a: b}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: c}]}}}}`, "`selector` does not match template `labels`"},
		{"daemon", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x, namespace: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {hostNetwork: true, containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}}}}`, ""},
		{"runtime class", `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: x}, handler: A}`, "handler: Invalid value"},
	} {
		t.Run(tt.name, func(t *testing.T) { compare(t, Create(decode(t, tt.yaml)), tt.want) })
	}
}

func TestImmutable(t *testing.T) {
	for _, tt := range []struct{ name, base, from, to, want string }{
		{"secret type", `{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: d}, type: a}`, "type: a", "type: b", "type: Invalid value: \"b\": field is immutable"},
		{"config map", `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: d}, immutable: true, data: {a: b}}`, "a: b", "a: c", "data: Forbidden: field is immutable when `immutable` is set"},
		{"role ref", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x, namespace: d}, roleRef: {kind: Role, name: r}}`, "name: r}", "name: s}", "cannot change roleRef"},
		{"claim", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x, namespace: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, "storage: 1Gi", "storage: 2Gi", "spec is immutable after creation"},
		{"claim bound", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x, namespace: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, "spec: {", "spec: {volumeName: v, ", ""},
		{"pod cidr", `{apiVersion: v1, kind: Node, metadata: {name: x}, spec: {podCIDRs: [10.0.0.0/24]}}`, "10.0.0.0/24", "10.0.1.0/24", "node updates may not change podCIDR except from \"\" to valid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			compare(t, Update(decode(t, strings.Replace(tt.base, tt.from, tt.to, 1)), decode(t, tt.base)), tt.want)
		})
	}
}

// TestOwnManifests holds that what we ship passes.
func TestOwnManifests(t *testing.T) {
	files, err := filepath.Glob("../../../static-manifests/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests found: %v", err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(raw), "\n---") {
			if !strings.Contains(doc, "kind:") || strings.Contains(doc, "{{") {
				continue
			}
			obj := decode(t, doc)
			if svc, ok := obj.(*corev1.Service); ok && svc.Spec.ClusterIP != "" {
				svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP} // as the service's strategy does before validation
			}
			compare(t, Create(obj), "")
		}
	}
}

// TestEmptyObjects holds that no rule relies on a field being set, with defaults and without them.
func TestEmptyObjects(t *testing.T) {
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	if err := defaults.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for gvk := range s.AllKnownTypes() {
		for _, defaulted := range []bool{false, true} {
			obj, err := s.New(gvk)
			if err != nil {
				t.Fatal(err)
			}
			if defaulted {
				s.Default(obj)
			}
			Create(obj)
			Update(obj, obj.DeepCopyObject())
			UpdateStatus(obj, obj.DeepCopyObject())
		}
	}
}
