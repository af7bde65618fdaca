package validation

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testTexts creates objects of a kind from the text after their metadata.
func testTexts(t *testing.T, kind string, rows []podRow) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			compare(t, Create(decode(t, "{apiVersion: v1, kind: "+kind+", metadata: {name: x, namespace: d}, "+r.spec+"}")), r.want)
		})
	}
}

func TestNodes(t *testing.T) {
	testTexts(t, "Node", []podRow{
		{"valid", "spec: {podCIDRs: [10.0.0.0/24, 'fd00::/64'], taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoExecute}]}", ""},
		{"taint key", "spec: {taints: [{key: '!', effect: NoSchedule}]}", `metadata.taints[0].key: Invalid value: "!"`},
		{"taint value", "spec: {taints: [{key: a, value: '!', effect: NoSchedule}]}", `metadata.taints[0].value: Invalid value: "!"`},
		{"taint without effect", "spec: {taints: [{key: a}]}", "metadata.taints[0].effect: Required value"},
		{"taint effect", "spec: {taints: [{key: a, effect: X}]}", `metadata.taints[0].effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`},
		{"taint twice", "spec: {taints: [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoSchedule}]}", `metadata.taints[1]: Duplicate value: {"key":"a","value":"b","effect":"NoSchedule"}: taints must be unique by key and effect pair`},
		{"range", "spec: {podCIDRs: [x]}", `spec.podCIDRs[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		{"ranges of a family", "spec: {podCIDRs: [10.0.0.0/24, 10.0.1.0/24]}", "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family"},
		{"capacity", "status: {capacity: {cpu: -1}}", `status.capacity[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
		{"allocatable", "status: {allocatable: {example.com/gpu: 1.5}}", `status.allocatable[example.com/gpu]: Invalid value: "1500m": must be an integer`},
	})
	testChanges(t, "{apiVersion: v1, kind: Node, metadata: {name: x}, spec: {podCIDR: 10.0.0.0/24, providerID: a}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}", []changeRow{
		{"nothing", "", "", ""},
		{"cordon", "spec: {", "spec: {unschedulable: true, ", ""},
		{"range", "10.0.0.0/24", "10.0.1.0/24", `spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`},
		{"provider", "providerID: a", "providerID: b", `spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`},
		{"external name", "spec: {", "spec: {externalID: a, ", "spec.externalID: Forbidden: may not be updated"},
		{"configuration", "spec: {", "spec: {configSource: {}, ", "spec.configSource: Forbidden"},
		{"address twice", "{type: InternalIP, address: 10.0.0.1}", "{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 10.0.0.1}", "status.addresses[1]: Duplicate value"},
	})
	testChanges(t, "{apiVersion: v1, kind: Node, metadata: {name: x}}", []changeRow{
		{"first range", "metadata", "spec: {podCIDR: 10.0.0.0/24, providerID: a}, metadata", ""},
	})
}

func TestNamespaces(t *testing.T) {
	testTexts(t, "Namespace", []podRow{
		{"valid", "spec: {finalizers: [kubernetes, a.b/c]}", ""},
		{"unknown finalizer", "spec: {finalizers: [x]}", `spec.finalizers[0]: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified`},
		{"finalizer", "spec: {finalizers: ['!/a']}", `spec.finalizers[0]: Invalid value: "!/a"`},
	})
	active := decode(t, "{apiVersion: v1, kind: Namespace, metadata: {name: x}}").(*corev1.Namespace)
	compare(t, UpdateStatus(active, active), "")
	ended := active.DeepCopy()
	ended.Status.Phase = corev1.NamespaceTerminating
	compare(t, UpdateStatus(ended, active), "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty")
	leaving := active.DeepCopy()
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	compare(t, UpdateStatus(leaving, active), "status.phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty")
}

func TestConfigMaps(t *testing.T) {
	testTexts(t, "ConfigMap", []podRow{
		{"valid", "data: {a.b_c-d: e}, binaryData: {f: ''}", ""},
		{"key", "data: {a/b: c}", `data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.'`},
		{"parent", "data: {..: c}", `data[..]: Invalid value: ".."`},
		{"binary key", "binaryData: {a/b: ''}", `binaryData[a/b]: Invalid value: "a/b"`},
		{"key twice", "data: {a: c}, binaryData: {a: ''}", `data[a]: Invalid value: "a": duplicate of key present in binaryData`},
		{"size", "data: {a: " + strings.Repeat("x", 1<<20+1) + "}", "Too long: may not be more than 1048576 bytes"},
	})
	testChanges(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: d}, immutable: true, data: {a: b}, binaryData: {c: ''}}", []changeRow{
		{"nothing", "", "", ""},
		{"labels", "name: x,", "name: x, labels: {a: b},", ""},
		{"data", "a: b}", "a: c}", "data: Forbidden: field is immutable when `immutable` is set"},
		{"binary data", "c: ''", "d: ''", "binaryData: Forbidden: field is immutable when `immutable` is set"},
		{"thaw", "immutable: true", "immutable: false", "immutable: Forbidden: field is immutable when `immutable` is set"},
	})
	testChanges(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: d}, data: {a: b}}", []changeRow{{"freeze", "data", "immutable: true, data", ""}})
}

func TestSecrets(t *testing.T) {
	testTexts(t, "Secret", []podRow{
		{"valid", "data: {a: YQ==}", ""},
		{"key", "data: {a/b: YQ==}", `data[a/b]: Invalid value: "a/b": a valid config key must consist of`},
		{"size", "data: {a: " + strings.Repeat("YWFh", 1<<20/3+1) + "}", "data: Too long: may not be more than 1048576 bytes"},
		{"account", "type: kubernetes.io/service-account-token", "metadata.annotations[kubernetes.io/service-account.name]: Required value"},
		{"docker", "type: kubernetes.io/dockercfg", "data[.dockercfg]: Required value"},
		{"docker text", "type: kubernetes.io/dockercfg, data: {.dockercfg: YQ==}", `data[.dockercfg]: Invalid value: "<secret contents redacted>": invalid character 'a' looking for beginning of value`},
		{"docker config", "type: kubernetes.io/dockerconfigjson", "data[.dockerconfigjson]: Required value"},
		{"docker config text", "type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: ''}", `data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`},
		{"basic", "type: kubernetes.io/basic-auth", "data[username]: Required value"},
		{"basic with password", "type: kubernetes.io/basic-auth, data: {password: YQ==}", ""},
		{"ssh", "type: kubernetes.io/ssh-auth", "data[ssh-privatekey]: Required value"},
		{"tls", "type: kubernetes.io/tls, data: {tls.crt: ''}", "data[tls.key]: Required value"},
	})
	testChanges(t, "{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: d}, type: t, immutable: true, data: {a: YQ==}}", []changeRow{
		{"nothing", "", "", ""},
		{"type", "type: t", "type: u", `type: Invalid value: "u": field is immutable`},
		{"data", "YQ==", "Yg==", "data: Forbidden: field is immutable when `immutable` is set"},
		{"thaw", "immutable: true, ", "", "immutable: Forbidden: field is immutable when `immutable` is set"},
	})
}

func TestLimitRanges(t *testing.T) {
	const at = "spec.limits[0]."
	item := func(fields string) string { return "spec: {limits: [{type: Container, " + fields + "}]}" }
	testTexts(t, "LimitRange", []podRow{
		{"valid", item("min: {cpu: 1}, defaultRequest: {cpu: 2}, default: {cpu: 3}, max: {cpu: 4}, maxLimitRequestRatio: {cpu: 4}"), ""},
		{"type", "spec: {limits: [{type: X}]}", at + `type: Invalid value: "X": must be a standard limit type or fully qualified`},
		{"no type", "spec: {limits: [{}]}", at + `type: Invalid value: ""`},
		{"type twice", "spec: {limits: [{type: Pod}, {type: Pod}]}", `spec.limits[1].type: Duplicate value: "Pod"`},
		{"resource", item("max: {pods: 1}"), at + `max[pods]: Invalid value: "pods": must be a standard resource for containers`},
		{"resource of requests", item("defaultRequest: {disk: 1}"), at + `defaultRequest[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`},
		{"default of a pod", "spec: {limits: [{type: Pod, default: {cpu: 1}}]}", at + "default: Forbidden: may not be specified when `type` is 'Pod'"},
		{"request of a pod", "spec: {limits: [{type: Pod, defaultRequest: {cpu: 1}}]}", at + "defaultRequest: Forbidden: may not be specified when `type` is 'Pod'"},
		{"claims", "spec: {limits: [{type: PersistentVolumeClaim}]}", at + "limits: Required value: either minimum or maximum storage value is required, but neither was provided"},
		{"min over max", item("min: {cpu: 2}, max: {cpu: 1}"), at + `min[cpu]: Invalid value: "2": min value 2 is greater than max value 1`},
		{"min over request", item("min: {cpu: 2}, defaultRequest: {cpu: 1}"), at + `defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1`},
		{"request over max", item("defaultRequest: {cpu: 2}, max: {cpu: 1}"), at + `defaultRequest[cpu]: Invalid value: "2": default request value 2 is greater than max value 1`},
		{"request over limit", item("defaultRequest: {cpu: 2}, default: {cpu: 1}"), at + `defaultRequest[cpu]: Invalid value: "2": default request value 2 is greater than default limit value 1`},
		{"min over limit", item("min: {cpu: 2}, default: {cpu: 1}, defaultRequest: {cpu: 1}"), at + `default[cpu]: Invalid value: "2": min value 2 is greater than default value 1`},
		{"limit over max", item("default: {cpu: 2}, max: {cpu: 1}"), at + `default[cpu]: Invalid value: "1": default value 2 is greater than max value 1`},
		{"ratio", item("maxLimitRequestRatio: {cpu: 500m}"), at + `maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1`},
		{"ratio over span", item("min: {cpu: 1}, max: {cpu: 2}, maxLimitRequestRatio: {cpu: 3}"), at + `maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000`},
		{"device", item("default: {example.com/gpu: 2}, defaultRequest: {example.com/gpu: 1}"), at + `defaultRequest[example.com/gpu]: Invalid value: "1": default value 2 must equal to defaultRequest value 1 in example.com/gpu`},
	})
}

func TestQuotas(t *testing.T) {
	const at = "spec.scopeSelector.matchExpressions"
	selector := func(e string) string {
		return "spec: {hard: {pods: 1}, scopeSelector: {matchExpressions: [{" + e + "}]}}"
	}
	testTexts(t, "ResourceQuota", []podRow{
		{"valid", "spec: {hard: {pods: 1, requests.cpu: 1, count/deployments.apps: 1, requests.example.com/gpu: 1, a.storageclass.storage.k8s.io/requests.storage: 1Gi, hugepages-2Mi: 2Mi}}", ""},
		{"resource", "spec: {hard: {disk: 1}}", `spec.hard[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`},
		{"storage", "spec: {hard: {storage: 1}}", `spec.hard[storage]: Invalid value: "storage": must be a standard resource for quotas`},
		{"part of a pod", "spec: {hard: {pods: 1.5}}", `spec.hard[pods]: Invalid value: "1500m": must be an integer`},
		{"negative", "spec: {hard: {cpu: -1}}", `spec.hard[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
		{"scope", "spec: {scopes: [X]}", `spec.scopes: Invalid value: ["X"]: unsupported scope`},
		{"scope of resource", "spec: {hard: {secrets: 1}, scopes: [Terminating]}", `spec.scopes: Invalid value: ["Terminating"]: unsupported scope applied to resource`},
		{"best effort with cpu", "spec: {hard: {cpu: 1}, scopes: [BestEffort]}", "unsupported scope applied to resource"},
		{"attributes of pods", "spec: {hard: {pods: 1}, scopeSelector: {matchExpressions: [{scopeName: VolumeAttributesClass, operator: Exists}]}}", "unsupported scope applied to resource"},
		{"conflict", "spec: {hard: {pods: 1}, scopes: [BestEffort, NotBestEffort]}", `spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes`},
		{"selector", selector("scopeName: PriorityClass, operator: In, values: [a]"), ""},
		{"selector scope", selector("scopeName: X, operator: Exists"), at + `.scopeName: Invalid value: "X": unsupported scope`},
		{"selector operator", selector("scopeName: PriorityClass, operator: X"), at + `.operator: Invalid value: "X": not a valid selector operator`},
		{"selector of best effort", selector("scopeName: BestEffort, operator: In, values: [a]"), at + ".operator: Invalid value: \"In\": must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"},
		{"selector in nothing", selector("scopeName: PriorityClass, operator: In"), at + ".values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"},
		{"selector exists with values", selector("scopeName: PriorityClass, operator: Exists, values: [a]"), at + ".values: Invalid value: [\"a\"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"},
		{"selector conflict", "spec: {hard: {pods: 1}, scopeSelector: {matchExpressions: [{scopeName: Terminating, operator: Exists}, {scopeName: NotTerminating, operator: Exists}]}}", "conflicting scopes"},
	})
	base := "{apiVersion: v1, kind: ResourceQuota, metadata: {name: x, namespace: d}, spec: {hard: {pods: 1}, scopes: [BestEffort], scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: Exists}]}}}"
	testChanges(t, base, []changeRow{
		{"amount", "pods: 1", "pods: 2", ""},
		{"scopes", "[BestEffort]", "[NotBestEffort]", `spec.scopes: Invalid value: ["NotBestEffort"]: field is immutable`},
		{"selector", "operator: Exists", "operator: DoesNotExist", "spec.scopeSelector: Invalid value"},
	})
	status := strings.TrimSuffix(base, "}") + ", status: {hard: {pods: 1}, used: {pods: -1}}}"
	compare(t, UpdateStatus(decode(t, status), decode(t, base)), `status.used[pods]: Invalid value: "-1": must be greater than or equal to 0`)
}

func TestEvents(t *testing.T) {
	const modern = "eventTime: '2020-01-01T00:00:00.000000Z', involvedObject: {namespace: d}, "
	const whole = modern + "reportingComponent: a.b/c, reportingInstance: i, action: a, reason: r"
	long := strings.Repeat("x", 129)
	testTexts(t, "Event", []podRow{
		{"old", "involvedObject: {namespace: d}", ""},
		{"old of elsewhere", "involvedObject: {namespace: e}", `involvedObject.namespace: Invalid value: "e": does not match event.namespace`},
		{"old of the cluster", "involvedObject: {}", `involvedObject.namespace: Invalid value: "": does not match event.namespace`},
		{"new", whole, ""},
		{"controller", modern + "reportingInstance: i, action: a, reason: r", "reportingController: Required value"},
		{"controller's form", strings.Replace(whole, "a.b/c", "'!'", 1), `reportingController: Invalid value: "!"`},
		{"instance", strings.Replace(whole, "reportingInstance: i", "reportingInstance: ''", 1), "reportingInstance: Required value"},
		{"instance's length", strings.Replace(whole, "reportingInstance: i", "reportingInstance: "+long, 1), "reportingInstance: Invalid value: \"\": can have at most 128 characters"},
		{"action", strings.Replace(whole, "action: a, ", "", 1), "action: Required value"},
		{"action's length", strings.Replace(whole, "action: a", "action: "+long, 1), "action: Invalid value: \"\": can have at most 128 characters"},
		{"reason", strings.Replace(whole, "reason: r", "reason: ''", 1), "reason: Required value"},
		{"message", whole + ", message: " + strings.Repeat("x", 1025), "message: Invalid value: \"\": can have at most 1024 characters"},
		{"new of elsewhere", strings.Replace(whole, "namespace: d", "namespace: e", 1), "does not match event.namespace"},
	})
}

func TestReplicationControllers(t *testing.T) {
	const base = `{apiVersion: v1, kind: ReplicationController, metadata: {name: x, namespace: d}, spec: {selector: {a: b}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: c}]}}}}`
	testCreate(t, base, []edit{
		{"replicas", "spec: {selector", "spec: {replicas: -1, selector", "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		{"ready seconds", "spec: {selector", "spec: {minReadySeconds: -1, selector", "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"},
		{"selector", "{a: b}, template", "{a: c}, template", "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"},
		{"restart policy", "containers", "restartPolicy: Never, containers", `spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
		{"container", "image: c", "image: ''", "spec.template.spec.containers[0].image: Required value"},
	})
	compare(t, Create(&corev1.ReplicationController{}), "spec.selector: Required value")
	compare(t, Create(&corev1.ReplicationController{}), "spec.template: Required value")
	was := decode(t, base).(*corev1.ReplicationController)
	now := was.DeepCopy()
	now.Status.ReadyReplicas = 1
	compare(t, UpdateStatus(now, was), "status.readyReplicas: Invalid value: 1: cannot be greater than status.replicas")
}
