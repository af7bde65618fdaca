package validation

import (
	"strings"
	"testing"
)

func TestContainers(t *testing.T) {
	const two = "containers: [{name: c, image: i, X}, {name: d, image: i, X}]"
	ports := strings.ReplaceAll(two, "X", "ports: [{containerPort: 80, hostPort: 80}]")
	const at = "spec.containers[0]."
	testPods(t, []podRow{
		{"none", "initContainers: [{name: i, image: i}], containers: []", "spec.containers: Required value"},
		{"no name", "containers: [{image: i}]", at + "name: Required value"},
		{"name", "containers: [{name: A, image: i}]", at + `name: Invalid value: "A"`},
		{"name twice", "containers: [{name: c, image: i}, {name: c, image: i}]", `spec.containers[1].name: Duplicate value: "c"`},
		{"name of an init container", "initContainers: [{name: c, image: i}]", `spec.initContainers[0].name: Duplicate value: "c"`},
		{"no image", "containers: [{name: c}]", at + "image: Required value"},
		{"image", "containers: [{name: c, image: ' i'}]", at + `image: Invalid value: " i": must not have leading or trailing whitespace`},
		{"message policy", "c{terminationMessagePolicy: X}c", at + `terminationMessagePolicy: Unsupported value: "X": supported values: "FallbackToLogsOnError", "File"`},
		{"pull policy", "c{imagePullPolicy: X}c", at + `imagePullPolicy: Unsupported value: "X": supported values: "Always", "IfNotPresent", "Never"`},
		{"restart policy", "c{restartPolicy: X}c", at + `restartPolicy: Unsupported value: "X": supported values: "Always", "Never", "OnFailure"`},
		{"restart rules", "c{restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]}c", ""},
		{"restart rules without policy", "c{restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]}c", at + "restartPolicy: Required value: must specify restartPolicy when restart rules are used"},
		{"restart action", "c{restartPolicy: Never, restartPolicyRules: [{action: X, exitCodes: {operator: In}}]}c", at + `restartPolicyRules[0].action: Unsupported value: "X": supported values: "Restart", "RestartAllContainers"`},
		{"restart without codes", "c{restartPolicy: Never, restartPolicyRules: [{action: Restart}]}c", at + "restartPolicyRules[0].exitCodes: Required value: must be specified"},
		{"restart operator", "c{restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: Equals}}]}c", at + `restartPolicyRules[0].exitCodes.operator: Unsupported value: "Equals": supported values: "In", "NotIn"`},
		{"restart codes", "c{restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [" + strings.Repeat("1,", 256) + "]}}]}c", at + "restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 items"},
		{"restart rules' number", "c{restartPolicy: Never, restartPolicyRules: [" + strings.Repeat("{action: Restart, exitCodes: {operator: In}},", 21) + "]}c", at + "restartPolicyRules: Too many: 21: must have at most 20 items"},
		{"resize policy", "c{resizePolicy: [{resourceName: disk, restartPolicy: NotRequired}]}c", at + `resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory"`},
		{"resize policy empty", "c{resizePolicy: [{resourceName: cpu}]}c", at + "resizePolicy: Required value"},
		{"resize policy twice", "c{resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: cpu, restartPolicy: NotRequired}]}c", at + `resizePolicy[1]: Duplicate value: "cpu"`},
		{"resize policy never", "c{resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}c, restartPolicy: Never", at + "resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'"},
		{"port", "c{ports: [{containerPort: 0}]}c", at + "ports[0].containerPort: Required value"},
		{"port number", "c{ports: [{containerPort: 65536}]}c", at + "ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive"},
		{"port name", "c{ports: [{containerPort: 80, name: HTTP}]}c", at + `ports[0].name: Invalid value: "HTTP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`},
		{"port name twice", "c{ports: [{containerPort: 80, name: a}, {containerPort: 81, name: a}]}c", at + `ports[1].name: Duplicate value: "a"`},
		{"host port", "c{ports: [{containerPort: 80, hostPort: 65536}]}c", at + "ports[0].hostPort: Invalid value: 65536: must be between 1 and 65535, inclusive"},
		{"host port twice", ports, `spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//80"`},
		{"host port again when init is over", "initContainers: [{name: i, image: i, ports: [{containerPort: 80, hostPort: 80}]}], containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}]", ""},
		{"host address", "c{ports: [{containerPort: 80, hostIP: x}]}c", at + `ports[0].hostIP: Invalid value: "x"`},
		{"protocol", "c{ports: [{containerPort: 80, protocol: X}]}c", at + `ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`},
		{"host network", "c{ports: [{containerPort: 80, hostPort: 81}]}c, hostNetwork: true", at + "ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true"},
		{"sidecar", "initContainers: [{name: i, image: i, restartPolicy: Always, livenessProbe: {exec: {command: [x]}}, lifecycle: {preStop: {sleep: {seconds: 1}}}}]", ""},
		{"init probe", "initContainers: [{name: i, image: i, readinessProbe: {exec: {command: [x]}}}]", "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"},
		{"init liveness", "initContainers: [{name: i, image: i, livenessProbe: {exec: {command: [x]}}}]", "spec.initContainers[0].livenessProbe: Forbidden"},
		{"init startup", "initContainers: [{name: i, image: i, startupProbe: {exec: {command: [x]}}}]", "spec.initContainers[0].startupProbe: Forbidden"},
		{"init hook", "initContainers: [{name: i, image: i, lifecycle: {}}]", "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always"},
		{"init resize policy", "initContainers: [{name: i, image: i, resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]}]", "must not be set for init containers"},
	})
}

func TestEphemeralFields(t *testing.T) {
	const at = "spec.ephemeralContainers[0]."
	const refused = ": Forbidden: cannot be set for an Ephemeral Container"
	testPods(t, []podRow{
		{"ports", "ephemeralContainers: [{name: e, image: i, ports: [{containerPort: 80}]}]", at + "ports" + refused},
		{"resources", "ephemeralContainers: [{name: e, image: i, resources: {limits: {cpu: 1}}}]", at + "resources" + refused},
		{"probe", "ephemeralContainers: [{name: e, image: i, livenessProbe: {exec: {command: [x]}}}]", at + "livenessProbe" + refused},
		{"hook", "ephemeralContainers: [{name: e, image: i, lifecycle: {}}]", at + "lifecycle" + refused},
		{"restart", "ephemeralContainers: [{name: e, image: i, restartPolicy: Always}]", at + "restartPolicy" + refused},
		{"resize", "ephemeralContainers: [{name: e, image: i, resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]}]", at + "resizePolicy" + refused},
		{"sub path", "ephemeralContainers: [{name: e, image: i, volumeMounts: [{name: v, mountPath: /v, subPath: a}]}], volumes: [{name: v}]", at + "volumeMounts[0].subPath" + refused},
		{"sub path expression", "ephemeralContainers: [{name: e, image: i, volumeMounts: [{name: v, mountPath: /v, subPathExpr: a}]}], volumes: [{name: v}]", at + "volumeMounts[0].subPathExpr" + refused},
		{"target", "ephemeralContainers: [{name: e, image: i, targetContainerName: x}]", at + `targetContainerName: Not found: "x"`},
		{"name", "ephemeralContainers: [{name: c, image: i}]", at + `name: Duplicate value: "c"`},
	})
}

func TestEnv(t *testing.T) {
	from := func(source string) string { return "c{env: [{name: A, valueFrom: {" + source + "}}]}c" }
	const at = "spec.containers[0].env[0].valueFrom"
	const file = ", volumes: [{name: v, emptyDir: {}}, {name: w, hostPath: {path: /x}}]"
	testPods(t, []podRow{
		{"no name", "c{env: [{value: x}]}c", "spec.containers[0].env[0].name: Required value"},
		{"name", "c{env: [{name: a=b}]}c", `spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='`},
		{"nothing", from(""), at + ": Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"},
		{"two", from("fieldRef: {fieldPath: metadata.name}, configMapKeyRef: {name: a, key: b}"), at + `: Invalid value: "": may not have more than one field specified at a time`},
		{"value too", "c{env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}c", at + ": Invalid value: \"\": may not be specified when `value` is not empty"},
		{"field version", from("fieldRef: {apiVersion: v2, fieldPath: metadata.name}"), at + `.fieldRef.fieldPath: Invalid value: "metadata.name": error converting fieldPath: unsupported pod version: v2`},
		{"no field", from("fieldRef: {}"), at + ".fieldRef.fieldPath: Required value"},
		{"unknown field", from("fieldRef: {fieldPath: spec.x}"), at + `.fieldRef.fieldPath: Invalid value: "spec.x": error converting fieldPath: field label not supported: spec.x`},
		{"field", from("fieldRef: {fieldPath: status.phase}"), at + `.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`},
		{"label", from("fieldRef: {fieldPath: 'metadata.labels[''a'']'}"), ""},
		{"label name", from("fieldRef: {fieldPath: 'metadata.labels[''!'']'}"), at + `.fieldRef: Invalid value: "!"`},
		{"annotation name", from("fieldRef: {fieldPath: 'metadata.annotations[''!'']'}"), at + `.fieldRef: Invalid value: "!"`},
		{"subscript", from("fieldRef: {fieldPath: 'spec.x[''a'']'}"), "field label does not support subscript: spec.x['a']"},
		{"resource", from("resourceFieldRef: {resource: limits.disk}"), at + `.resourceFieldRef.resource: Unsupported value: "limits.disk": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`},
		{"no resource", from("resourceFieldRef: {}"), at + ".resourceFieldRef.resource: Required value"},
		{"huge pages", from("resourceFieldRef: {resource: limits.hugepages-2Mi, divisor: 1Mi}"), ""},
		{"cpu divisor", from("resourceFieldRef: {resource: limits.cpu, divisor: 2}"), at + `.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`},
		{"memory divisor", from("resourceFieldRef: {resource: limits.memory, divisor: 1m}"), "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"},
		{"storage divisor", from("resourceFieldRef: {resource: limits.ephemeral-storage, divisor: 1m}"), "are supported with the local ephemeral storage resource"},
		{"config map", from("configMapKeyRef: {key: b}"), at + ".configMapKeyRef.name: Required value"},
		{"config map key", from("configMapKeyRef: {name: a}"), at + ".configMapKeyRef.key: Required value"},
		{"config map key's form", from("configMapKeyRef: {name: a, key: '!'}"), at + `.configMapKeyRef.key: Invalid value: "!"`},
		{"secret", from("secretKeyRef: {key: b}"), at + ".secretKeyRef.name: Required value"},
		{"secret key", from("secretKeyRef: {name: a}"), at + ".secretKeyRef.key: Required value"},
		{"file", from("fileKeyRef: {volumeName: v, path: p, key: K}") + file, ""},
		{"file volume", from("fileKeyRef: {path: p, key: K}") + file, at + ".fileKeyRef.volumeName: Required value"},
		{"file volume's name", from("fileKeyRef: {volumeName: x, path: p, key: K}") + file, at + `.fileKeyRef.volumeName: Not found: "x"`},
		{"file volume's sort", from("fileKeyRef: {volumeName: w, path: p, key: K}") + file, at + ".fileKeyRef.volumeName: Invalid value: \"w\": referenced volume must be of type emptyDir"},
		{"file path", from("fileKeyRef: {volumeName: v, key: K}") + file, at + ".fileKeyRef.path: Required value"},
		{"file path climbs", from("fileKeyRef: {volumeName: v, path: ../p, key: K}") + file, at + `.fileKeyRef.path: Invalid value: "../p": must not contain '..'`},
		{"file key", from("fileKeyRef: {volumeName: v, path: p, key: a=b}") + file, at + `.fileKeyRef.key: Invalid value: "a=b"`},
		{"file key length", from("fileKeyRef: {volumeName: v, path: p, key: "+strings.Repeat("k", 129)+"}") + file, at + ".fileKeyRef.key: Too long: may not be more than 128 bytes"},
		{"from nothing", "c{envFrom: [{}]}c", "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"},
		{"from both", "c{envFrom: [{configMapRef: {name: a}, secretRef: {name: a}}]}c", "spec.containers[0].envFrom: Invalid value: \"\": may not have more than one field specified at a time"},
		{"from config map", "c{envFrom: [{configMapRef: {}}]}c", "spec.containers[0].envFrom[0].configMapRef.name: Required value"},
		{"from secret", "c{envFrom: [{secretRef: {}}]}c", "spec.containers[0].envFrom[0].secretRef.name: Required value"},
		{"prefix", "c{envFrom: [{prefix: a=, secretRef: {name: a}}]}c", `spec.containers[0].envFrom[0].prefix: Invalid value: "a="`},
	})
}

func TestProbes(t *testing.T) {
	live := func(probe string) string { return "c{livenessProbe: {" + probe + "}}c" }
	const at = "spec.containers[0].livenessProbe."
	testPods(t, []podRow{
		{"no handler", live("periodSeconds: 1"), "spec.containers[0].livenessProbe: Required value: must specify a handler type"},
		{"two handlers", live("httpGet: {port: 80}, tcpSocket: {port: 80}"), at + "tcpSocket: Forbidden: may not specify more than 1 handler type"},
		{"command", live("exec: {}"), at + "exec.command: Required value"},
		{"http port", live("httpGet: {}"), at + "httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"},
		{"http port name", live("httpGet: {port: a_b}"), at + `httpGet.port: Invalid value: "a_b"`},
		{"http scheme", live("httpGet: {port: 80, scheme: FTP}"), at + `httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"`},
		{"http header", live("httpGet: {port: 80, httpHeaders: [{name: 'a b'}]}"), at + `httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of`},
		{"http protocol", live("httpGet: {port: 80, protocol: HTTP3}"), at + `httpGet.protocol: Unsupported value: "HTTP3": supported values: "HTTP1", "HTTP2"`},
		{"tcp port", live("tcpSocket: {port: 0}"), at + "tcpSocket.port: Invalid value: 0"},
		{"grpc port", live("grpc: {}"), at + "grpc.port: Invalid value: 0"},
		{"grpc mode", live("grpc: {port: 80, mode: X}"), at + `grpc.mode: Unsupported value: "X": supported values: "Plaintext", "TLS"`},
		{"delay", live("exec: {command: [x]}, initialDelaySeconds: -1"), at + "initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0"},
		{"timeout", live("exec: {command: [x]}, timeoutSeconds: -1"), at + "timeoutSeconds: Invalid value: -1"},
		{"period", live("exec: {command: [x]}, periodSeconds: -1"), at + "periodSeconds: Invalid value: -1"},
		{"failures", live("exec: {command: [x]}, failureThreshold: -1"), at + "failureThreshold: Invalid value: -1"},
		{"successes", live("exec: {command: [x]}, successThreshold: 2"), at + "successThreshold: Invalid value: 2: must be 1"},
		{"startup successes", "c{startupProbe: {exec: {command: [x]}, successThreshold: 2}}c", "spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1"},
		{"ready successes", "c{readinessProbe: {exec: {command: [x]}, successThreshold: 2}}c", ""},
		{"grace", live("exec: {command: [x]}, terminationGracePeriodSeconds: 0"), at + "terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"},
		{"ready grace", "c{readinessProbe: {exec: {command: [x]}, terminationGracePeriodSeconds: 5}}c", "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes"},
		{"hook", "c{lifecycle: {postStart: {}}}c", "spec.containers[0].lifecycle.postStart: Required value: must specify a handler type"},
		{"sleep", "c{lifecycle: {preStop: {sleep: {seconds: 0}}}}c", ""},
		{"long sleep", "c{lifecycle: {preStop: {sleep: {seconds: 31}}}}c", "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"},
		{"stop signal", "c{lifecycle: {stopSignal: SIGRTMIN+15}}c, os: {name: linux}", ""},
		{"stop signal without system", "c{lifecycle: {stopSignal: SIGTERM}}c", "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"},
		{"stop signal of linux", "c{lifecycle: {stopSignal: SIGX}}c, os: {name: linux}", `spec.containers[0].lifecycle.stopSignal: Unsupported value: "SIGX": supported values: "SIGABRT", "SIGALRM"`},
		{"stop signal of windows", "c{lifecycle: {stopSignal: SIGHUP}}c, os: {name: windows}", `spec.containers[0].lifecycle.stopSignal: Unsupported value: "SIGHUP": supported values: "SIGKILL", "SIGTERM"`},
	})
}

func TestResources(t *testing.T) {
	with := func(r string) string { return "c{resources: {" + r + "}}c" }
	const at = "spec.containers[0].resources."
	testPods(t, []podRow{
		{"valid", with("limits: {cpu: 1, memory: 1Gi, hugepages-2Mi: 4Mi, example.com/gpu: 1}, requests: {cpu: 100m}"), ""},
		{"negative", with("limits: {cpu: -1}"), at + `limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
		{"request over limit", with("limits: {cpu: 1}, requests: {cpu: 2}"), at + `requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
		{"overcommitted device", with("limits: {example.com/gpu: 2}, requests: {example.com/gpu: 1}"), at + `requests: Invalid value: "1": must be equal to example.com/gpu limit of 2`},
		{"unlimited device", with("requests: {example.com/gpu: 1}"), at + "limits: Required value: Limit must be set for non overcommitable resources"},
		{"part of a device", with("limits: {example.com/gpu: 1.5}"), at + `limits[example.com/gpu]: Invalid value: "1500m": must be an integer`},
		{"unknown", with("limits: {disk: 1}"), at + `limits[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`},
		{"of quotas", with("limits: {pods: 1}"), at + `limits[pods]: Invalid value: "pods": must be a standard resource for containers`},
		{"reserved", with("limits: {requests.example.com/gpu: 1}"), at + `limits[requests.example.com/gpu]: Invalid value: "requests.example.com/gpu": doesn't follow extended resource name standard`},
		{"name", with("limits: {'!': 1}"), at + `limits[!]: Invalid value: "!"`},
		{"huge pages alone", with("limits: {hugepages-2Mi: 4Mi}"), "spec.containers[0].resources: Forbidden: HugePages require cpu or memory"},
		{"part of a huge page", with("limits: {cpu: 1, hugepages-2Mi: 3Mi}"), at + `limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`},
		{"claim", with("claims: [{name: a, request: r}]") + ", resourceClaims: [{name: a, resourceClaimName: x}]", ""},
		{"claim of nothing", with("claims: [{name: a}]"), at + `claims[0]: Not found: "a": must be one of the names in pod.spec.resourceClaims which is empty`},
		{"claim of another", with("claims: [{name: b}]") + ", resourceClaims: [{name: a, resourceClaimName: x}]", "must be one of the names in pod.spec.resourceClaims: a"},
		{"claim without name", with("claims: [{}]"), at + "claims[0]: Required value"},
		{"claim twice", with("claims: [{name: a}, {name: a}]") + ", resourceClaims: [{name: a, resourceClaimName: x}]", at + `claims[1]: Duplicate value: "a"`},
		{"pod", "resources: {limits: {cpu: 1, memory: 1Gi}}", ""},
		{"pod resource", "resources: {limits: {ephemeral-storage: 1Gi}}", `spec.resources.limits[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", "hugepages-", "memory"`},
		{"pod request over limit", "resources: {limits: {cpu: 1}, requests: {cpu: 2}}", `spec.resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
		{"pod claims", "resources: {claims: [{name: a}]}", "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level"},
		{"pod request under its containers'", with("requests: {cpu: 2}") + ", resources: {requests: {cpu: 1}}", `spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2`},
		{"pod's huge pages", with("limits: {cpu: 1, hugepages-2Mi: 4Mi}") + ", resources: {limits: {cpu: 1, hugepages-2Mi: 2Mi}}", `spec.resources.limits[hugepages-2Mi]: Invalid value: "2Mi": must be greater than or equal to aggregate container limits of 4Mi`},
		{"pod limit under a container's", with("requests: {cpu: 1}, limits: {cpu: 3}") + ", resources: {limits: {cpu: 2}}", `spec.resources.containers[0][cpu].limits: Invalid value: "3": must be less than or equal to pod limits of 2`},
	})
}
