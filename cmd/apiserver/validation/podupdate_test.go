package validation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// changeRow is a change of an object's text, and what is said of it.
type changeRow struct{ name, from, to, want string }

func testChanges(t *testing.T, base string, rows []changeRow) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			compare(t, Update(decode(t, edit{from: r.from, to: r.to}.apply(t, base)), decode(t, base)), r.want)
		})
	}
}

const aChangingPod = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: d, annotations: {a: b}}, spec: {serviceAccount: sa, activeDeadlineSeconds: 10,
  tolerations: [{key: k, operator: Exists, effect: NoExecute, tolerationSeconds: 5}], terminationGracePeriodSeconds: -1,
  initContainers: [{name: i, image: i}], containers: [{name: c, image: img}]}}`

func TestPodUpdates(t *testing.T) {
	const others = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
		"`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
	testChanges(t, aChangingPod, []changeRow{
		{"nothing", "", "", ""},
		{"image", "image: img", "image: other", ""},
		{"init image", "image: i}", "image: j}", ""},
		{"no image", "image: img", "image: ''", "spec.containers[0].image: Required value"},
		{"image with spaces", "image: img", "image: 'img '", `spec.containers[0].image: Invalid value: "img ": must not have leading or trailing whitespace`},
		{"container", "containers: [{name: c", "containers: [{name: d, image: d}, {name: c", "spec.containers: Forbidden: pod updates may not add or remove containers"},
		{"init container", "[{name: i, image: i}]", "[]", "spec.initContainers: Forbidden: pod updates may not add or remove containers"},
		{"earlier deadline", "activeDeadlineSeconds: 10", "activeDeadlineSeconds: 5", ""},
		{"later deadline", "activeDeadlineSeconds: 10", "activeDeadlineSeconds: 11", "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"},
		{"no deadline", "activeDeadlineSeconds: 10,", "", "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"},
		{"negative deadline", "activeDeadlineSeconds: 10", "activeDeadlineSeconds: -1", "spec.activeDeadlineSeconds: Invalid value: -1: must be between 0 and 2147483647, inclusive"},
		{"another toleration", "tolerations: [", "tolerations: [{operator: Exists}, ", ""},
		{"longer toleration", "tolerationSeconds: 5", "tolerationSeconds: 50", ""},
		{"changed toleration", "key: k", "key: l", "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"},
		{"gate", "spec: {", "spec: {schedulingGates: [{name: a/b}], ", "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a/b'"},
		{"grace of one", "terminationGracePeriodSeconds: -1", "terminationGracePeriodSeconds: 1", ""},
		{"grace of two", "terminationGracePeriodSeconds: -1", "terminationGracePeriodSeconds: 2", others},
		{"node", "spec: {", "spec: {nodeName: m, ", others},
		{"command", "image: img", "image: img, command: [sh]", others},
		{"resources", "image: img", "image: img, resources: {limits: {cpu: 1}}", others},
		{"ephemeral container", "spec: {", "spec: {ephemeralContainers: [{name: e, image: i}], ", others},
		{"labels", "name: p,", "name: p, labels: {a: b},", ""},
		{"mirror added", "a: b}", "a: b, kubernetes.io/config.mirror: x}", "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"},
		{"apparmor added", "a: b}", "a: b, container.apparmor.security.beta.kubernetes.io/c: unconfined}", "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: may not add AppArmor annotations"},
	})
	testChanges(t, strings.Replace(aChangingPod, "a: b}}, spec: {", "a: b, container.apparmor.security.beta.kubernetes.io/c: unconfined, kubernetes.io/config.mirror: x}}, spec: {nodeName: m, ", 1), []changeRow{
		{"apparmor removed", "container.apparmor.security.beta.kubernetes.io/c: unconfined, ", "", "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: may not remove or update AppArmor annotations"},
		{"mirror changed", "config.mirror: x", "config.mirror: z", "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not remove or update mirror pod annotation"},
	})
}

const aGatedPod = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: d}, spec: {serviceAccount: sa, schedulingGates: [{name: a}, {name: b}], nodeSelector: {k: v},
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}},
  containers: [{name: c, image: img}]}}`

func TestGatedPodUpdates(t *testing.T) {
	const terms = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
	testChanges(t, aGatedPod, []changeRow{
		{"gate removed", "[{name: a}, {name: b}]", "[{name: b}]", ""},
		{"gate replaced", "{name: b}]", "{name: x}]", "only deletion is allowed, but found new scheduling gate 'x'"},
		{"selector added", "{k: v}", "{k: v, l: w}", ""},
		{"selector changed", "{k: v}", "{k: w}", "spec.nodeSelector: Invalid value: {\"k\":\"w\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"},
		{"demand added", "{key: a, operator: Exists}]", "{key: a, operator: Exists}, {key: b, operator: Exists}]", ""},
		{"demand changed", "{key: a, operator: Exists}]", "{key: b, operator: Exists}]", terms + "[0]: Invalid value"},
		{"term added", "{matchExpressions", "{matchFields: [{key: metadata.name, operator: In, values: [m]}]}, {matchExpressions", "no additions/deletions to non-empty NodeSelectorTerms list are allowed"},
		{"preference added", "{nodeAffinity: {", "{nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: z, operator: Exists}]}}], ", ""},
		{"pod affinity", "affinity: {", "affinity: {podAffinity: {}, ", "pod updates may not change fields other than"},
	})
	bare := strings.Replace(aGatedPod, aGatedPod[strings.Index(aGatedPod, "affinity"):strings.Index(aGatedPod, "containers")], "", 1)
	testChanges(t, bare, []changeRow{
		{"first affinity", "spec: {", "spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}, ", ""},
		{"first pod affinity", "spec: {", "spec: {affinity: {podAffinity: {}}, ", "pod updates may not change fields other than"},
	})
	testChanges(t, strings.Replace(aGatedPod, "schedulingGates: [{name: a}, {name: b}], ", "", 1), []changeRow{
		{"selector once free", "{k: v}", "{k: v, l: w}", "pod updates may not change fields other than"},
	})
}

func TestEphemeralContainers(t *testing.T) {
	base := podOf("ephemeralContainers: [{name: e, image: i}]")
	for _, r := range []changeRow{
		{"nothing", "", "", ""},
		{"added", "ephemeralContainers: [", "ephemeralContainers: [{name: f, image: i, targetContainerName: c}, ", ""},
		{"removed", "{name: e, image: i}", "", `spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be removed`},
		{"changed", "{name: e, image: i}", "{name: e, image: j}", `spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be changed`},
		{"target", "ephemeralContainers: [", "ephemeralContainers: [{name: f, image: i, targetContainerName: x}, ", `spec.ephemeralContainers[0].targetContainerName: Not found: "x"`},
		{"image", "ephemeralContainers: [", "ephemeralContainers: [{name: f}, ", "spec.ephemeralContainers[0].image: Required value"},
	} {
		t.Run(r.name, func(t *testing.T) {
			now, was := decode(t, edit{from: r.from, to: r.to}.apply(t, base)).(*corev1.Pod), decode(t, base).(*corev1.Pod)
			compare(t, EphemeralContainers(now, was), r.want)
		})
	}
	static := decode(t, base).(*corev1.Pod)
	static.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	compare(t, EphemeralContainers(static, static), "Forbidden: static pods do not support ephemeral containers")
}

func TestPodStatus(t *testing.T) {
	status := func(spec, status string) string {
		return strings.TrimSuffix(podOf(spec), "}") + ", status: {qosClass: BestEffort, " + status + "}}"
	}
	ended := "containerStatuses: [{name: c, image: '', imageID: '', ready: false, restartCount: 0, state: {terminated: {exitCode: X}}}]"
	again := strings.Replace(ended, "terminated: {exitCode: X}", "running: {}", 1)
	ok, failed := strings.Replace(ended, "X", "0", 1), strings.Replace(ended, "X", "3", 1)
	asInit := func(s string) string {
		return "initC" + strings.Replace(strings.TrimPrefix(s, "c"), "name: c", "name: i", 1)
	}
	const restarted = "Statuses[0].state: Forbidden: may not be transitioned to non-terminated state"
	for _, r := range []struct{ name, spec, was, now, want string }{
		{"phase", "", "", "phase: Running", ""},
		{"condition", "", "", "conditions: [{type: Ready, status: 'True'}, {type: '!', status: 'True'}]", `status.conditions[1].Type: Invalid value: "!"`},
		{"nominated node", "", "", "nominatedNodeName: A", `status.nominatedNodeName: Invalid value: "A"`},
		{"always restarts", "", ok, again, ""},
		{"never restarts", "restartPolicy: Never", failed, again, "status.container" + restarted},
		{"restarts on failure", "restartPolicy: OnFailure", failed, again, ""},
		{"restarts on failure only", "restartPolicy: OnFailure", ok, again, "status.container" + restarted},
		{"restarts by its own policy", "c{restartPolicy: Always}c, restartPolicy: Never", ok, again, ""},
		{"restarts by a rule", "c{restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [3]}}]}c, restartPolicy: Never", failed, again, ""},
		{"no rule says so", "c{restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: NotIn, values: [3]}}]}c, restartPolicy: Never", failed, again, "status.container" + restarted},
		{"restarts with all", "initContainers: [{name: s, image: i, restartPolicy: Never, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [1]}}]}], restartPolicy: Never", ok, again, ""},
		{"init restarts", "initContainers: [{name: i, image: i}], restartPolicy: Never", asInit(ok), asInit(again), "status.initContainer" + restarted},
		{"sidecar restarts", "initContainers: [{name: i, image: i, restartPolicy: Always}], restartPolicy: Never", asInit(ok), asInit(again), ""},
		{"ephemeral restarts", "", "ephemeralC" + ok[1:], "ephemeralC" + again[1:], "status.ephemeralContainer" + restarted},
		{"pod addresses", "", "", "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]", ""},
		{"pod address", "", "", "podIPs: [{ip: x}]", `status.podIPs[0]: Invalid value: "x"`},
		{"pod addresses of a family", "", "", "podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]", "may specify no more than one IP for each IP family"},
		{"host address", "", "", "hostIP: 10.0.0.1, hostIPs: [{ip: 10.0.0.2}]", "status.hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`"},
		{"claim of nobody", "", "", "resourceClaimStatuses: [{name: a}]", "status.resourceClaimStatuses[0].name: Invalid value: \"a\": must match the name of an entry in `spec.resourceClaims`"},
		{"claim twice", "resourceClaims: [{name: a, resourceClaimName: x}]", "", "resourceClaimStatuses: [{name: a}, {name: a}]", `status.resourceClaimStatuses[1].name: Duplicate value: "a"`},
		{"claim name", "resourceClaims: [{name: a, resourceClaimName: x}]", "", "resourceClaimStatuses: [{name: a, resourceClaimName: A}]", `status.resourceClaimStatuses[0].name: Invalid value: "A"`},
		{"user", "", "", strings.Replace(again, "name: c", "name: c, user: {linux: {uid: -1, gid: 0}}", 1), "status.containerStatuses[0].user.linux.uid: Invalid value: -1"},
		{"groups", "", "", strings.Replace(again, "name: c", "name: c, user: {linux: {uid: 0, gid: 0, supplementalGroups: [-1]}}", 1), "status.containerStatuses[0].user.linux.supplementalGroups[0]: Invalid value: -1"},
		{"device twice", "", "", strings.Replace(again, "name: c", "name: c, allocatedResourcesStatus: [{name: a, resources: [{resourceID: x}, {resourceID: x}]}]", 1), `status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: "x"`},
	} {
		t.Run(r.name, func(t *testing.T) {
			compare(t, UpdateStatus(decode(t, status(r.spec, r.now)), decode(t, status(r.spec, r.was))), r.want)
		})
	}
	was := decode(t, podOf("")).(*corev1.Pod)
	now := was.DeepCopy()
	now.Spec.NodeName = "m"
	compare(t, UpdateStatus(now, was), "status.nodeName: Forbidden: may not be changed directly")
	now = was.DeepCopy()
	now.Status.QOSClass = corev1.PodQOSGuaranteed
	compare(t, UpdateStatus(now, was), `status.qosClass: Invalid value: "Guaranteed": field is immutable`)
}
