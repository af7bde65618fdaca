package validation

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

func TestDeploymentRules(t *testing.T) {
	rolling := func(s string) string { return "spec: {strategy: {rollingUpdate: {" + s + "}}, selector" }
	testCreate(t, aDeployment, []edit{
		{"empty selector", "selector: {matchLabels: {a: b}}", "selector: {}", "spec.selector: Invalid value: {}: empty selector is invalid for deployment"},
		{"selector", "selector: {matchLabels: {a: b}}", "selector: {matchLabels: {'-': b}}", `spec.selector.matchLabels: Invalid value: "-"`},
		{"ready time", "spec: {selector", "spec: {minReadySeconds: -1, selector", "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"},
		{"history", "spec: {selector", "spec: {revisionHistoryLimit: -1, selector", "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0"},
		{"no history", "spec: {selector", "spec: {revisionHistoryLimit: 0, selector", ""},
		{"deadline", "spec: {selector", "spec: {progressDeadlineSeconds: -1, selector", "spec.progressDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0\nspec.progressDeadlineSeconds: Invalid value: -1: must be greater than minReadySeconds"},
		{"deadline before ready", "spec: {selector", "spec: {minReadySeconds: 600, selector", "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"},
		{"strategy", "spec: {selector", "spec: {strategy: {type: Slow}, selector", `spec.strategy.type: Unsupported value: "Slow": supported values: "Recreate", "RollingUpdate"`},
		{"not a percentage", "spec: {selector", rolling("maxSurge: a"), `spec.strategy.rollingUpdate.maxSurge: Invalid value: "a": a valid percent string must be a numeric string followed by an ending '%'`},
		{"negative", "spec: {selector", rolling("maxUnavailable: -1"), "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"},
		{"over all", "spec: {selector", rolling("maxUnavailable: 101%"), `spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`},
		{"surge over all", "spec: {selector", rolling("maxSurge: 101%"), ""},
		{"no percent of both", "spec: {selector", rolling("maxSurge: 0%, maxUnavailable: 0"), "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"},
		{"pod's deadline", "containers: [", "activeDeadlineSeconds: 3, containers: [", "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"},
		{"shared disk", "spec: {selector", "spec: {replicas: 2, selector", ""},
	})
	disk := strings.Replace(aDeployment, "containers: [", "volumes: [{name: v, gcePersistentDisk: {pdName: x}}], containers: [", 1)
	testCreate(t, disk, []edit{
		{"several pods", "spec: {selector", "spec: {replicas: 2, selector", "spec.template.spec.volumes[0].gcePersistentDisk.readOnly: Invalid value: false: must be read-only for replicated pods > 1; GCE PD can only be mounted on multiple machines if it is read-only"},
	})
}

func TestWorkloadStatus(t *testing.T) {
	two, one := int32(2), int32(1)
	d := &appsv1.Deployment{Status: appsv1.DeploymentStatus{CollisionCount: &two}}
	for _, tt := range []struct {
		now  appsv1.DeploymentStatus
		want string
	}{
		{appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2, CollisionCount: &two}, ""},
		{appsv1.DeploymentStatus{CollisionCount: &one}, "status.collisionCount: Invalid value: 1: cannot be decremented"},
		{appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 2, CollisionCount: &two}, "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas"},
		{appsv1.DeploymentStatus{Replicas: 1, ReadyReplicas: 2, CollisionCount: &two}, "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"},
		{appsv1.DeploymentStatus{Replicas: 3, ReadyReplicas: 1, AvailableReplicas: 2, CollisionCount: &two}, "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"},
		{appsv1.DeploymentStatus{UnavailableReplicas: -1, CollisionCount: &two}, "status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0"},
		{appsv1.DeploymentStatus{ObservedGeneration: -1, CollisionCount: &two}, "status.observedGeneration: Invalid value: -1: must be greater than or equal to 0"},
	} {
		compare(t, UpdateStatus(&appsv1.Deployment{Status: tt.now}, d), tt.want)
	}
	compare(t, UpdateStatus(&appsv1.ReplicaSet{Status: appsv1.ReplicaSetStatus{Replicas: 1, FullyLabeledReplicas: 2}}, &appsv1.ReplicaSet{}), "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas")
	compare(t, UpdateStatus(&appsv1.StatefulSet{Status: appsv1.StatefulSetStatus{Replicas: 1, CurrentReplicas: 2}}, &appsv1.StatefulSet{}), "status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas")
	compare(t, UpdateStatus(&appsv1.StatefulSet{Status: appsv1.StatefulSetStatus{Replicas: 1, AvailableReplicas: 1}}, &appsv1.StatefulSet{}), "status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas")
	compare(t, UpdateStatus(&appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{NumberMisscheduled: -1}}, &appsv1.DaemonSet{}), "status.numberMisscheduled: Invalid value: -1: must be greater than or equal to 0")
	compare(t, UpdateStatus(&appsv1.DaemonSet{}, &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{CollisionCount: &one}}), "status.collisionCount: Invalid value: 0: cannot be decremented")
}

func TestStatefulSetRules(t *testing.T) {
	testCreate(t, aStatefulSet, []edit{
		{"management", "serviceName: s,", "podManagementPolicy: Random, serviceName: s,", `spec.podManagementPolicy: Invalid value: "Random": must be 'OrderedReady' or 'Parallel'`},
		{"strategy", "serviceName: s,", "updateStrategy: {type: Slow}, serviceName: s,", "must be 'RollingUpdate' or 'OnDelete'"},
		{"rolling on delete", "serviceName: s,", "updateStrategy: {type: OnDelete, rollingUpdate: {}}, serviceName: s,", "spec.updateStrategy.rollingUpdate: Invalid value: {}: only allowed for updateStrategy 'RollingUpdate'"},
		{"partition", "serviceName: s,", "updateStrategy: {rollingUpdate: {partition: -1}}, serviceName: s,", "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0"},
		{"nobody away", "serviceName: s,", "updateStrategy: {rollingUpdate: {maxUnavailable: 0}}, serviceName: s,", "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"},
		{"all away", "serviceName: s,", "updateStrategy: {rollingUpdate: {maxUnavailable: 200%}}, serviceName: s,", `spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "200%": must not be greater than 100%`},
		{"retention", "serviceName: s,", "persistentVolumeClaimRetentionPolicy: {whenDeleted: Keep, whenScaled: Hide}, serviceName: s,", `spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: "Keep": supported values: "Retain", "Delete"` + "\n" + `spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Hide"`},
		{"replicas", "serviceName: s,", "replicas: -1, serviceName: s,", "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		{"ordinals", "serviceName: s,", "ordinals: {start: -1}, serviceName: s,", "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"},
		{"service", "serviceName: s,", "serviceName: S,", `spec.serviceName: Invalid value: "S"`},
		{"empty selector", "selector: {matchLabels: {a: b}}", "selector: {}", "spec.selector: Invalid value: {}: empty selector is invalid for statefulset"},
		{"pod's deadline", "containers: [", "activeDeadlineSeconds: 3, containers: [", "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported"},
		{"no claim for a mount", "metadata: {name: data}", "metadata: {name: other}", `spec.template.spec.containers[0].volumeMounts[0].name: Not found: "data"`},
	})
	const refused = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
	testUpdate(t, aStatefulSet, []edit{
		{"image", "image: c", "image: d", ""},
		{"history", "serviceName: s,", "serviceName: s, revisionHistoryLimit: 3,", ""},
		{"ordinals", "serviceName: s,", "serviceName: s, ordinals: {start: 3},", ""},
		{"retention", "serviceName: s,", "serviceName: s, persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete},", ""},
		{"management", "serviceName: s,", "serviceName: s, podManagementPolicy: Parallel,", refused},
		{"claims", "storage: 1Gi", "storage: 2Gi", refused},
		{"selector", "selector: {matchLabels: {a: b}}", "selector: {matchExpressions: [{key: a, operator: Exists}]}", refused},
	})
}

const aDaemonSet = `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x, namespace: d}, spec: {selector: {matchLabels: {a: b}},
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: c}]}}}}`

func TestDaemonSetRules(t *testing.T) {
	strategy := func(s string) string { return "spec: {updateStrategy: {" + s + "}, selector" }
	testCreate(t, aDaemonSet, []edit{
		{"strategy", "spec: {selector", strategy("type: Slow"), `spec.updateStrategy.type: Unsupported value: "Slow": supported values: "RollingUpdate", "OnDelete"`},
		{"both", "spec: {selector", strategy("rollingUpdate: {maxSurge: 1, maxUnavailable: 1}"), "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"},
		{"neither", "spec: {selector", strategy("rollingUpdate: {maxSurge: 0, maxUnavailable: 0}"), "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"},
		{"surge over all", "spec: {selector", strategy("rollingUpdate: {maxSurge: 101%, maxUnavailable: 0}"), `spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "101%": must not be greater than 100%`},
		{"ready time", "spec: {selector", "spec: {minReadySeconds: -1, selector", "spec.minReadySeconds: Invalid value: -1"},
		{"history", "spec: {selector", "spec: {revisionHistoryLimit: -1, selector", "spec.revisionHistoryLimit: Invalid value: -1"},
		{"selector misses", "labels: {a: b}}, spec", "labels: {a: c}}, spec", "`selector` does not match template `labels`"},
		{"empty selector", "selector: {matchLabels: {a: b}}", "selector: {}", "spec.selector: Invalid value: {}: empty selector is invalid for daemonset"},
		{"restart policy", "containers: [", "restartPolicy: Never, containers: [", `spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
		{"pod's deadline", "containers: [", "activeDeadlineSeconds: 3, containers: [", "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported"},
	})
	testUpdate(t, aDaemonSet, []edit{{"selector", "selector: {matchLabels: {a: b}}", "selector: {matchExpressions: [{key: a, operator: Exists}]}", "field is immutable"}})
}

func TestControllerRevision(t *testing.T) {
	const revision = `{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: x, namespace: d}, revision: 1, data: {a: b}}`
	testCreate(t, revision, []edit{
		{"negative", "revision: 1", "revision: -1", "revision: Invalid value: -1: must be greater than or equal to 0"},
		{"no data", ", data: {a: b}", "", "data: Required value: data is mandatory"},
	})
	testUpdate(t, revision, []edit{
		{"number", "revision: 1", "revision: 2", ""},
		{"data", "a: b", "a: c", "field is immutable"},
	})
}
