package validation

import (
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const aScaler = `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: x, namespace: d}, spec: {minReplicas: 1, maxReplicas: 3,
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: x}, behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 15}]}},
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}},
    {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: m}, target: {type: Value, value: 10}}},
    {type: External, external: {metric: {name: e}, target: {type: AverageValue, averageValue: 30}}},
    {type: Pods, pods: {metric: {name: p}, target: {type: AverageValue, averageValue: 20}}},
    {type: ContainerResource, containerResource: {name: memory, container: c, target: {type: AverageValue, averageValue: 40}}}]}}`

func TestAutoscaler(t *testing.T) {
	m, up := "spec.metrics", "spec.behavior.scaleUp."
	testCreate(t, aScaler, []edit{
		{"none", "minReplicas: 1", "minReplicas: 0", "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"},
		{"no maximum", "maxReplicas: 3", "maxReplicas: 0", "spec.maxReplicas: Required value"},
		{"negative maximum", "maxReplicas: 3", "maxReplicas: -1", "spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1"},
		{"maximum under minimum", "minReplicas: 1", "minReplicas: 4", "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"},
		{"target's kind", "kind: Deployment, name: x", "name: x", "spec.scaleTargetRef.kind: Required value"},
		{"target's kind's shape", "kind: Deployment", "kind: a/b", `spec.scaleTargetRef.kind: Invalid value: "a/b": may not contain '/'`},
		{"target's name", "kind: Deployment, name: x", "kind: Deployment", "spec.scaleTargetRef.name: Required value"},
		{"target's name's shape", "kind: Deployment, name: x", "kind: Deployment, name: ..", `spec.scaleTargetRef.name: Invalid value: "..": may not be '..'`},
		{"target's version", "apps/v1", "a/b/c", `spec.scaleTargetRef.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c`},
		{"no type", "{type: Resource, ", "{", m + "[0].type: Required value: must specify a metric source type"},
		{"type", "{type: Resource, ", "{type: Weather, ", m + `[0].type: Unsupported value: "Weather": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`},
		{"other type", "{type: Resource, ", "{type: Pods, ", m + "[0].pods: Required value: must populate information for the given metric source\n" + m + "[0].resource: Forbidden: must populate the given metric source only"},
		{"resource's name", "resource: {name: cpu, ", "resource: {", m + "[0].resource.name: Required value: must specify a resource name"},
		{"resource's target", "type: Utilization, averageUtilization: 80", "type: Utilization", m + "[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization"},
		{"resource's targets", "averageUtilization: 80", "averageUtilization: 80, averageValue: 1", m + "[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization"},
		{"no utilization", "averageUtilization: 80", "averageUtilization: 0", m + "[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"},
		{"no target type", "type: Utilization, ", "", m + "[0].resource.target.type: Required value: must specify a metric target type"},
		{"target type", "type: Utilization, ", "type: Guess, ", m + `[0].resource.target.type: Invalid value: "Guess": must be either Utilization, Value, or AverageValue`},
		{"object's kind", "kind: Service, ", "", m + "[1].object.describedObject.kind: Required value"},
		{"object's metric", "metric: {name: m}", "metric: {}", m + "[1].object.metric.name: Required value: must specify a metric name"},
		{"object's metric's name", "metric: {name: m}", "metric: {name: a/b}", m + `[1].object.metric.name: Invalid value: "a/b": may not contain '/'`},
		{"object's target", "type: Value, value: 10", "type: Value", m + "[1].object.target.averageValue: Required value: must set either a target value or averageValue"},
		{"object's value", "value: 10", "value: -10", m + `[1].object.target.value: Invalid value: "-10": must be positive`},
		{"external target", "averageValue: 30", "averageUtilization: 1", m + "[2].external.target.averageValue: Required value: must set either a target value for metric or a per-pod target"},
		{"external targets", "averageValue: 30", "averageValue: 30, value: 1", m + "[2].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target"},
		{"pods' target", "averageValue: 20", "averageUtilization: 1", m + "[3].pods.target.averageValue: Required value: must specify a positive target averageValue"},
		{"container", "container: c, ", "", m + "[4].containerResource.container: Required value: must specify a container"},
		{"window", "scaleUp: {", "scaleUp: {stabilizationWindowSeconds: -1, ", up + "stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero"},
		{"long window", "scaleUp: {", "scaleUp: {stabilizationWindowSeconds: 3601, ", up + "stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600"},
		{"select", "scaleUp: {", "scaleUp: {selectPolicy: Any, ", up + `selectPolicy: Unsupported value: "Any": supported values: "Disabled", "Max", "Min"`},
		{"no policies", "policies: [{type: Pods, value: 1, periodSeconds: 15}]", "policies: []", up + "policies: Required value: must specify at least one Policy"},
		{"policy's type", "policies: [{type: Pods", "policies: [{type: Nodes", up + `policies[0].type: Unsupported value: "Nodes": supported values: "Percent", "Pods"`},
		{"policy's value", "value: 1,", "value: 0,", up + "policies[0].value: Invalid value: 0: must be greater than zero"},
		{"policy's period", "periodSeconds: 15", "periodSeconds: 0", up + "policies[0].periodSeconds: Invalid value: 0: must be greater than zero"},
		{"policy's long period", "periodSeconds: 15", "periodSeconds: 1801", up + "policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"},
		{"tolerance", "scaleUp: {", "scaleUp: {tolerance: '-1', ", up + `tolerance: Invalid value: "-1": must be greater than or equal to 0`},
	})
	h := &autoscalingv2.HorizontalPodAutoscaler{}
	now := h.DeepCopy()
	now.Status.CurrentReplicas, now.Status.DesiredReplicas = -1, -2
	compare(t, UpdateStatus(now, h), "status.currentReplicas: Invalid value: -1: must be greater than or equal to 0\nstatus.desiredReplicas: Invalid value: -2: must be greater than or equal to 0")
}

func TestDisruptionBudget(t *testing.T) {
	const budget = `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: x, namespace: d}, spec: {minAvailable: 1, selector: {}}}`
	testCreate(t, budget, []edit{
		{"both", "minAvailable: 1", "minAvailable: 1, maxUnavailable: 1", "minAvailable and maxUnavailable cannot be both set"},
		{"negative", "minAvailable: 1", "minAvailable: -1", "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"},
		{"over all", "minAvailable: 1", "minAvailable: 101%", `spec.minAvailable: Invalid value: "101%": must not be greater than 100%`},
		{"not a percentage", "minAvailable: 1", "maxUnavailable: a", `spec.maxUnavailable: Invalid value: "a": a valid percent string`},
		{"selector", "selector: {}", "selector: {matchLabels: {'-': a}}", `spec.selector.matchLabels: Invalid value: "-"`},
		{"unhealthy", "selector: {}", "unhealthyPodEvictionPolicy: Never", `spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"`},
	})
	b := &policyv1.PodDisruptionBudget{}
	now := b.DeepCopy()
	now.Status.ExpectedPods, now.Status.Conditions = -1, []metav1.Condition{{Type: "A", Status: "True", Reason: "B"}}
	compare(t, UpdateStatus(now, b), "status.conditions[0].lastTransitionTime: Required value")
	compare(t, UpdateStatus(now, b), "status.expectedPods: Invalid value: -1: must be greater than or equal to 0")
}
