package validation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// podRow is a pod's spec besides its one container c, and what is said of it, "" for nothing. A container is written as c{...}:
// its fields besides name and image.
type podRow struct{ name, spec, want string }

// podOf completes the text of a podRow.
func podOf(spec string) string {
	const c = "{name: c, image: i"
	if fields, ok := strings.CutPrefix(spec, "c{"); ok {
		fields, rest, _ := strings.Cut(fields, "}c")
		spec = "containers: [" + c + ", " + fields + "}]" + rest
	} else if !strings.Contains(spec, " containers: [") && !strings.HasPrefix(spec, "containers: [") {
		spec = strings.TrimSuffix("containers: ["+c+"}], "+spec, ", ")
	}
	if !strings.Contains(spec, "serviceAccount:") {
		spec = "serviceAccount: sa, " + spec
	}
	return "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: d}, spec: {" + spec + "}}"
}

func testPods(t *testing.T, rows []podRow) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { compare(t, Create(decode(t, podOf(r.spec))), r.want) })
	}
}

func TestPodSpec(t *testing.T) {
	long := strings.Repeat("a", 65)
	testPods(t, []podRow{
		{"minimal", "", ""},
		{"restart policy", "restartPolicy: Sometimes", `spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"`},
		{"deadline", "activeDeadlineSeconds: 0", "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"},
		{"dns policy", "dnsPolicy: Some", `spec.dnsPolicy: Unsupported value: "Some": supported values: "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"`},
		{"dns none", "dnsPolicy: None", "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"},
		{"dns none without server", "dnsPolicy: None, dnsConfig: {}", "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"},
		{"dns servers", "dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}", `must not have more than 3 nameservers`},
		{"dns server", "dnsConfig: {nameservers: [x]}", `spec.dnsConfig.nameservers[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{"dns searches", "dnsConfig: {searches: [" + strings.Repeat("a,", 33) + "]}", "must not have more than 32 search paths"},
		{"dns search length", "dnsConfig: {searches: [" + strings.Repeat(strings.Repeat("a", 63)+"."+strings.Repeat("b", 63)+",", 17) + "]}", "must not have more than 2048 characters (including spaces) in the search list"},
		{"dns search", "dnsConfig: {searches: [., a.b., _x.y, A]}", `spec.dnsConfig.searches[3]: Invalid value: "A"`},
		{"dns option", "dnsConfig: {options: [{value: x}]}", "spec.dnsConfig.options[0]: Required value: must not be empty"},
		{"service account", "serviceAccount: A", `spec.serviceAccountName: Invalid value: "A"`},
		{"node name", "nodeName: A", `spec.nodeName: Invalid value: "A"`},
		{"hostname", "hostname: a.b", `spec.hostname: Invalid value: "a.b"`},
		{"subdomain", "subdomain: a.b", `spec.subdomain: Invalid value: "a.b"`},
		{"priority class", "priorityClassName: A", `spec.priorityClassName: Invalid value: "A"`},
		{"runtime class", "runtimeClassName: A", `spec.runtimeClassName: Invalid value: "A"`},
		{"host alias", "hostAliases: [{ip: x, hostnames: [A]}]", `spec.hostAliases[0].ip: Invalid value: "x"`},
		{"host alias name", "hostAliases: [{ip: 1.1.1.1, hostnames: [A]}]", `spec.hostAliases[0].hostnames[0]: Invalid value: "A"`},
		{"hostname override", "hostnameOverride: a.b", ""},
		{"hostname override name", "hostnameOverride: A", `spec.hostnameOverride: Invalid value: "A"`},
		{"hostname override length", "hostnameOverride: " + long, "spec.hostnameOverride: Too long: may not be more than 64 bytes"},
		{"hostname override as FQDN", "hostnameOverride: a, setHostnameAsFQDN: true", "spec.hostnameOverride: Forbidden: may not be specified when `setHostnameAsFQDN` is true"},
		{"hostname override on host", "hostnameOverride: a, hostNetwork: true", "spec.hostnameOverride: Forbidden: may not be specified when `hostNetwork` is true"},
		{"readiness gate", "readinessGates: [{conditionType: '!'}]", `spec.readinessGates[0].conditionType: Invalid value: "!"`},
		{"scheduling gate", "schedulingGates: [{name: '!'}]", `spec.schedulingGates[0]: Invalid value: "!"`},
		{"scheduling gate twice", "schedulingGates: [{name: a}, {name: a}]", `spec.schedulingGates[1]: Duplicate value: "a"`},
		{"gated on a node", "schedulingGates: [{name: a}], nodeName: m", "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"},
		{"scheduling group", "schedulingGroup: {}", "spec.schedulingGroup: Required value: must specify one of: `podGroupName`"},
		{"scheduling group name", "schedulingGroup: {podGroupName: A}", `spec.schedulingGroup.podGroupName: Invalid value: "A"`},
		{"responders of a group", "schedulingGroup: {podGroupName: a}, evictionResponders: [{name: a.b/c, priority: 5000}]", "spec.evictionResponders: Forbidden: may not be specified when `schedulingGroup` is specified"},
		{"responder", "evictionResponders: [{name: a, priority: -1}]", "spec.evictionResponders[0].priority: Invalid value: -1: must be greater than or equal to 0"},
		{"claim", "resourceClaims: [{name: A, resourceClaimName: x}]", `spec.resourceClaims[0].name: Invalid value: "A"`},
		{"claim without name", "resourceClaims: [{resourceClaimName: x}]", "spec.resourceClaims[0].name: Required value"},
		{"claim twice", "resourceClaims: [{name: a, resourceClaimName: x}, {name: a, resourceClaimName: x}]", `spec.resourceClaims[1].name: Duplicate value: "a"`},
		{"claim of nothing", "resourceClaims: [{name: a}]", "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"},
		{"claim of both", "resourceClaims: [{name: a, resourceClaimName: x, resourceClaimTemplateName: z}]", "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"},
		{"claim name", "resourceClaims: [{name: a, resourceClaimName: A}]", `spec.resourceClaims[0].resourceClaimName: Invalid value: "A"`},
		{"claim template name", "resourceClaims: [{name: a, resourceClaimTemplateName: A}]", `spec.resourceClaims[0].resourceClaimTemplateName: Invalid value: "A"`},
		{"ephemeral container", "ephemeralContainers: [{name: e, image: i}]", "spec.ephemeralContainers: Forbidden: cannot be set on create"},
		{"preemption", "preemptionPolicy: Maybe", `spec.preemptionPolicy: Unsupported value: "Maybe": supported values: "PreemptLowerPriority", "Never"`},
		{"overhead", "overhead: {cpu: -1}", `spec.overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
	})
}

func TestPodAnnotations(t *testing.T) {
	base := strings.Replace(podOf(""), "name: p, ", "name: p, annotations: {X}, ", 1)
	for _, r := range []podRow{
		{"mirror without node", "kubernetes.io/config.mirror: x", `metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`},
		{"deletion cost", "controller.kubernetes.io/pod-deletion-cost: '+5'", `metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+5": must be a 32bit integer`},
		{"apparmor of nobody", "container.apparmor.security.beta.kubernetes.io/x: unconfined", `metadata.annotations[container.apparmor.security.beta.kubernetes.io/x]: Invalid value: "x": container not found`},
		{"apparmor profile", "container.apparmor.security.beta.kubernetes.io/c: x", `invalid AppArmor profile name: "x"`},
	} {
		t.Run(r.name, func(t *testing.T) { compare(t, Create(decode(t, strings.Replace(base, "X", r.spec, 1))), r.want) })
	}
	both := strings.Replace(podOf("c{securityContext: {appArmorProfile: {type: Localhost, localhostProfile: a}}"), "name: p, ", "name: p, annotations: {container.apparmor.security.beta.kubernetes.io/c: X}, ", 1)
	compare(t, Create(decode(t, strings.Replace(both, "X", "unconfined", 1))), "spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match")
	compare(t, Create(decode(t, strings.Replace(both, "X", "localhost/b", 1))), "localhostProfile: Forbidden: apparmor profile in annotation and field must match")
	compare(t, Create(decode(t, strings.Replace(both, "X", "localhost/a", 1))), "")
}

func TestPodScheduling(t *testing.T) {
	const node, pod = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [", "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: ["
	const terms = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"
	const first = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]"
	testPods(t, []podRow{
		{"node selector", "nodeSelector: {a: '!'}", `spec.nodeSelector: Invalid value: "!"`},
		{"toleration", "tolerations: [{operator: Exists}, {key: a, operator: Gt, value: '5'}]", ""},
		{"toleration key", "tolerations: [{key: '!', operator: Exists}]", `spec.tolerations[0].key: Invalid value: "!"`},
		{"toleration of everything", "tolerations: [{value: a}]", "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\""},
		{"toleration seconds", "tolerations: [{key: a, effect: NoSchedule, tolerationSeconds: 5}]", "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set"},
		{"toleration value", "tolerations: [{key: a, value: '!'}]", `spec.tolerations[0].operator: Invalid value: "!"`},
		{"toleration exists with value", "tolerations: [{key: a, operator: Exists, value: x}]", "value must be empty when `operator` is 'Exists'"},
		{"toleration comparison", "tolerations: [{key: a, operator: Lt, value: x}]", "spec.tolerations[0].value: Invalid value: \"x\": value must be a valid integer when operator is 'Lt'"},
		{"toleration operator", "tolerations: [{key: a, operator: X}]", `spec.tolerations[0].operator: Unsupported value: "X"`},
		{"toleration effect", "tolerations: [{key: a, effect: X}]", `spec.tolerations[0].effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`},
		{"spread", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule, minDomains: 2, labelSelector: {}, matchLabelKeys: [k]}]", ""},
		{"spread skew", "topologySpreadConstraints: [{topologyKey: a, whenUnsatisfiable: DoNotSchedule}]", "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"},
		{"spread key", "topologySpreadConstraints: [{maxSkew: 1, whenUnsatisfiable: DoNotSchedule}]", "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty"},
		{"spread action", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a}]", `spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "": supported values: "DoNotSchedule", "ScheduleAnyway"`},
		{"spread domains", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule, minDomains: 0}]", "spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero"},
		{"spread domains anyway", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, minDomains: 1}]", "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"},
		{"spread affinity policy", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, nodeAffinityPolicy: X}]", `spec.topologySpreadConstraints[0].nodeAffinityPolicy: Unsupported value: "X": supported values: "Honor", "Ignore"`},
		{"spread taints policy", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, nodeTaintsPolicy: X}]", `spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: "X"`},
		{"spread twice", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway}, {maxSkew: 2, topologyKey: a, whenUnsatisfiable: ScheduleAnyway}]", `spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: "{a, ScheduleAnyway}"`},
		{"spread selector", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {a: '!'}}}]", "spec.topologySpreadConstraints[0].labelSelector.matchLabels: Invalid value"},
		{"spread keys without selector", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, matchLabelKeys: [k]}]", "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"},
		{"spread keys in selector", "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, matchLabelKeys: [k], labelSelector: {matchLabels: {k: v}}}]", `spec.topologySpreadConstraints[0].matchLabelKeys[0]: Invalid value: "k": exists in both matchLabelKeys and labelSelector`},
		{"no terms", node + "]}}}", "nodeSelectorTerms: Required value: must have at least one node selector term"},
		{"in nothing", node + "{matchExpressions: [{key: a, operator: In}]}]}}}", terms + ".matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"},
		{"exists with values", node + "{matchExpressions: [{key: a, operator: Exists, values: [x]}]}]}}}", terms + ".matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"},
		{"greater than two", node + "{matchExpressions: [{key: a, operator: Gt, values: ['1', '2']}]}]}}}", terms + ".matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"},
		{"operator", node + "{matchExpressions: [{key: a, operator: X}]}]}}}", terms + `.matchExpressions[0].operator: Invalid value: "X": not a valid selector operator`},
		{"expression key", node + "{matchExpressions: [{key: '!', operator: Exists}]}]}}}", terms + `.matchExpressions[0].key: Invalid value: "!"`},
		{"expression value", node + "{matchExpressions: [{key: a, operator: In, values: ['!']}]}]}}}", terms + `.matchExpressions[0].values[0]: Invalid value: "!"`},
		{"field operator", node + "{matchFields: [{key: metadata.name, operator: Exists}]}]}}}", terms + `.matchFields[0].operator: Invalid value: "Exists": not a valid selector operator`},
		{"field values", node + "{matchFields: [{key: metadata.name, operator: In}]}]}}}", terms + ".matchFields[0].values: Required value: must be only one value when `operator` is 'In' or 'NotIn' for node field selector"},
		{"field", node + "{matchFields: [{key: spec.x, operator: In, values: [a]}]}]}}}", terms + `.matchFields[0].key: Invalid value: "spec.x": not a valid field selector key`},
		{"field value", node + "{matchFields: [{key: metadata.name, operator: In, values: [A]}]}]}}}", terms + `.matchFields[0].values[0]: Invalid value: "A"`},
		{"weight", "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, preference: {}}]}}", "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100"},
		{"pod weight", "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, podAffinityTerm: {topologyKey: a}}]}}", "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100"},
		{"pod topology", pod + "{}]}}", first + ".topologyKey: Required value: can not be empty"},
		{"pod namespaces", pod + "{topologyKey: a, namespaces: [A]}]}}", first + `.namespace: Invalid value: "A"`},
		{"pod namespace selector", pod + "{topologyKey: a, namespaceSelector: {matchLabels: {a: '!'}}}]}}", first + ".namespaceSelector.matchLabels: Invalid value"},
		{"pod selector", pod + "{topologyKey: a, labelSelector: {matchExpressions: [{key: a, operator: X}]}}]}}", first + `.labelSelector.matchExpressions[0].operator: Invalid value: "X": not a valid selector operator`},
		{"pod keys without selector", pod + "{topologyKey: a, matchLabelKeys: [k]}]}}", first + ".matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"},
		{"pod mismatch keys in selector", pod + "{topologyKey: a, mismatchLabelKeys: [k], labelSelector: {matchLabels: {k: v}}}]}}", first + `.mismatchLabelKeys[0]: Invalid value: "k": exists in both mismatchLabelKeys and labelSelector`},
		{"pod keys match and do not", pod + "{topologyKey: a, matchLabelKeys: [k], mismatchLabelKeys: [k], labelSelector: {}}]}}", first + `.mismatchLabelKeys[0]: Invalid value: "k": exists in both matchLabelKeys and mismatchLabelKeys`},
	})
}

func TestPodTemplates(t *testing.T) {
	for _, r := range []podRow{
		{"valid", "spec: {hostNetwork: true, containers: [{name: c, image: ' i ', ports: [{containerPort: 80}]}]}", ""}, // what pods may not, but templates may
		{"labels", "metadata: {labels: {a: '!'}}, spec: {containers: [{name: c, image: i}]}", "template.labels: Invalid value"},
		{"annotations", "metadata: {annotations: {'!': x}}, spec: {containers: [{name: c, image: i}]}", "template.annotations: Invalid value"},
		{"ephemeral", "spec: {containers: [{name: c, image: i}], ephemeralContainers: [{name: e, image: i}]}", "template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"},
		{"spec", "spec: {}", "template.spec.containers: Required value"},
	} {
		t.Run(r.name, func(t *testing.T) {
			compare(t, Create(decode(t, "{apiVersion: v1, kind: PodTemplate, metadata: {name: t, namespace: d}, template: {"+r.spec+"}}")), r.want)
		})
	}
}

func TestBinding(t *testing.T) {
	compare(t, Create(&corev1.Binding{}), "target.name: Required value")
	compare(t, Create(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Pod", Name: "n"}}), `target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"`)
	compare(t, Create(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "A"}}), `target.name: Invalid value: "A"`)
	compare(t, Create(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}), "")
}
