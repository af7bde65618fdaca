package validation

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const anIndexedJob = `{apiVersion: batch/v1, kind: Job, metadata: {name: x, namespace: d, uid: u}, spec: {completionMode: Indexed, completions: 4, parallelism: 2,
  backoffLimitPerIndex: 1, maxFailedIndexes: 2, manualSelector: true, selector: {matchLabels: {a: b}}, podReplacementPolicy: Failed,
  podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, containerName: c, values: [1, 2]}}, {action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]},
  successPolicy: {rules: [{succeededIndexes: "0,2-3", succeededCount: 2}]},
  template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}`

func TestJobRules(t *testing.T) {
	rule, success := "spec.podFailurePolicy.rules[0].", "spec.successPolicy.rules[0]."
	testCreate(t, anIndexedJob, []edit{
		{"parallelism", "parallelism: 2", "parallelism: -1", "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"},
		{"completions", "completions: 4", "completions: -1", "spec.completions: Invalid value: -1: must be greater than or equal to 0"},
		{"deadline", "spec: {", "spec: {activeDeadlineSeconds: -1, ", "spec.activeDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0"},
		{"back-off", "spec: {", "spec: {backoffLimit: -1, ", "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"},
		{"time to live", "spec: {", "spec: {ttlSecondsAfterFinished: -1, ", "spec.ttlSecondsAfterFinished: Invalid value: -1: must be greater than or equal to 0"},
		{"back-off of an index", "backoffLimitPerIndex: 1", "backoffLimitPerIndex: -1", "spec.backoffLimitPerIndex: Invalid value: -1: must be greater than or equal to 0"},
		{"failed indexes", "maxFailedIndexes: 2", "maxFailedIndexes: -1", "spec.maxFailedIndexes: Invalid value: -1: must be greater than or equal to 0"},
		{"more failed indexes than completions", "maxFailedIndexes: 2", "maxFailedIndexes: 5", "spec.maxFailedIndexes: Invalid value: 5: must be less than or equal to completions"},
		{"failed indexes alone", "backoffLimitPerIndex: 1, ", "", "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"},
		{"no completions", "completions: 4, ", "", "spec.completions: Required value: when completion mode is Indexed"},
		{"wide", "parallelism: 2", "parallelism: 100001", "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed"},
		{"many, without limit", "completions: 4, parallelism: 2,\n  backoffLimitPerIndex: 1, maxFailedIndexes: 2", "completions: 100001, parallelism: 2,\n  backoffLimitPerIndex: 1", "spec.maxFailedIndexes: Required value: must be specified when completions are above 100000"},
		{"many, wide", "completions: 4, parallelism: 2", "completions: 100001, parallelism: 10001", "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index"},
		{"many, failing", "completions: 4, parallelism: 2,\n  backoffLimitPerIndex: 1, maxFailedIndexes: 2", "completions: 100001, parallelism: 2,\n  backoffLimitPerIndex: 1, maxFailedIndexes: 10001", "spec.maxFailedIndexes: Invalid value: 10001: must be less than or equal to 10000 when"},
		{"mode", "completionMode: Indexed", "completionMode: Sorted", `spec.completionMode: Unsupported value: "Sorted": supported values: "NonIndexed", "Indexed"`},
		{"not indexed", "completionMode: Indexed", "completionMode: NonIndexed", "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode\nspec.maxFailedIndexes: Invalid value: 2: requires indexed completion mode"},
		{"success of a job without indexes", "completionMode: Indexed", "completionMode: NonIndexed", "requires indexed completion mode"},
		{"managed by", "spec: {", "spec: {managedBy: nobody, ", `spec.managedBy: Invalid value: "nobody": must be a domain-prefixed path (such as "acme.io/foo")`},
		{"managed by long", "spec: {", "spec: {managedBy: a.io/" + strings.Repeat("a", 60) + ", ", "spec.managedBy: Too long: may not be more than 63 bytes"},
		{"replacement with failure policy", "podReplacementPolicy: Failed", "podReplacementPolicy: TerminatingOrFailed", `spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"`},
		{"replacement", "podReplacementPolicy: Failed", "podReplacementPolicy: Never", `spec.podReplacementPolicy: Unsupported value: "Never"`},
		{"failure policy with restarts", "restartPolicy: Never", "restartPolicy: OnFailure", `spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified`},
		{"always", "restartPolicy: Never", "restartPolicy: Always", `spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`},
		{"action missing", "{action: FailIndex, ", "{", rule + `action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`},
		{"action", "{action: FailIndex, ", "{action: Cry, ", rule + `action: Unsupported value: "Cry": supported values: "Count", "FailIndex", "FailJob", "Ignore"`},
		{"action without back-off", "backoffLimitPerIndex: 1, maxFailedIndexes: 2,", "", rule + `action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set`},
		{"operator missing", "{operator: In, ", "{", rule + `onExitCodes.operator: Required value: valid values: ["In" "NotIn"]`},
		{"operator", "{operator: In, ", "{operator: Near, ", rule + `onExitCodes.operator: Unsupported value: "Near": supported values: "In", "NotIn"`},
		{"container", "containerName: c", "containerName: e", rule + `onExitCodes.containerName: Invalid value: "e": must be one of the container or initContainer names in the pod template`},
		{"no codes", "values: [1, 2]", "values: []", rule + "onExitCodes.values: Invalid value: []: at least one value is required"},
		{"success is no failure", "values: [1, 2]", "values: [0, 2]", rule + "onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"},
		{"code twice", "values: [1, 2]", "values: [1, 1]", rule + "onExitCodes.values[1]: Duplicate value: 1"},
		{"order of codes", "values: [1, 2]", "values: [2, 1]", rule + "onExitCodes.values: Invalid value: [2,1]: must be ordered"},
		{"both", "values: [1, 2]}", "values: [1, 2]}, onPodConditions: [{type: A}]", "spec.podFailurePolicy.rules[0]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported"},
		{"neither", "onPodConditions: [{type: DisruptionTarget}]", "onPodConditions: []", "spec.podFailurePolicy.rules[1]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"},
		{"condition's type", "type: DisruptionTarget", "type: 'a b'", `spec.podFailurePolicy.rules[1].onPodConditions[0].type: Invalid value: "a b"`},
		{"condition's status", "type: DisruptionTarget", "type: A, status: Maybe", `spec.podFailurePolicy.rules[1].onPodConditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"`},
		{"too many rules", "podFailurePolicy: {rules: [", "podFailurePolicy: {rules: [" + strings.Repeat("{action: Ignore, onPodConditions: [{type: A}]},", 20), "spec.podFailurePolicy.rules: Too many: 22: must have at most 20 items"},
		{"no success rules", `rules: [{succeededIndexes: "0,2-3", succeededCount: 2}]`, "rules: []", "spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified"},
		{"empty success rule", `{succeededIndexes: "0,2-3", succeededCount: 2}`, "{}", "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified"},
		{"indexes beyond", `"0,2-3"`, `"0,2-4"`, success + `succeededIndexes: Invalid value: "0,2-4": error parsing succeededIndexes: too large index: "4"`},
		{"indexes out of order", `"0,2-3"`, `"2,1"`, success + `succeededIndexes: Invalid value: "2,1": error parsing succeededIndexes: non-increasing order, previous: 2, current: 1`},
		{"indexes not numbers", `"0,2-3"`, `"a"`, success + `succeededIndexes: Invalid value: "a": error parsing succeededIndexes: cannot convert string to integer for index: "a"`},
		{"more than completions", "succeededCount: 2", "succeededCount: 5", success + "succeededCount: Invalid value: 5: must be less than or equal to 4 (the number of specified completions)"},
		{"more than indexes", "succeededCount: 2", "succeededCount: 4", success + "succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)"},
		{"name too long", "name: x,", "name: " + strings.Repeat("x", 62) + ",", "metadata.name: Invalid value: \"" + strings.Repeat("x", 62) + "\": will not able to create pod with invalid DNS label: " + strings.Repeat("x", 62) + "-3"},
		{"own selector", "manualSelector: true, ", "", "spec.template.metadata.labels[controller-uid]: Required value: must be 'u'"},
		{"own selector's selector", "manualSelector: true, ", "", "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` not auto-generated"},
		{"selector misses", "metadata: {labels: {a: b}}", "metadata: {labels: {a: c}}", "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"},
		{"scheduling", "spec: {", "spec: {scheduling: {}, ", "spec.scheduling: Forbidden"},
	})
	testUpdate(t, anIndexedJob, []edit{
		{"parallelism", "parallelism: 2", "parallelism: 3", ""},
		{"grow", "completions: 4, parallelism: 2", "completions: 5, parallelism: 5", ""},
		{"grow half", "completions: 4, parallelism: 2", "completions: 5, parallelism: 2", "spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"},
		{"selector", "matchLabels: {a: b}", "matchExpressions: [{key: a, operator: Exists}]", "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Exists\"}]}: field is immutable"},
		{"mode", "completionMode: Indexed", "completionMode: NonIndexed", `spec.completionMode: Invalid value: "NonIndexed": field is immutable`},
		{"failure policy", "values: [1, 2]", "values: [1, 3]", "spec.podFailurePolicy: Invalid value"},
		{"success policy", "succeededCount: 2", "succeededCount: 1", "spec.successPolicy: Invalid value"},
		{"back-off of an index", "backoffLimitPerIndex: 1", "backoffLimitPerIndex: 2", "spec.backoffLimitPerIndex: Invalid value: 2: field is immutable"},
		{"managed by", "spec: {", "spec: {managedBy: a.io/b, ", `spec.managedBy: Invalid value: "a.io/b": field is immutable`},
		{"image", "image: c", "image: d", "spec.template: Invalid value"},
		{"node selector of a running job", "restartPolicy: Never", "nodeSelector: {a: b}, restartPolicy: Never", "spec.template: Invalid value"},
	})
	suspended := strings.Replace(anIndexedJob, "spec: {", "spec: {suspend: true, ", 1)
	testUpdate(t, suspended, []edit{
		{"node selector", "restartPolicy: Never", "nodeSelector: {a: b}, restartPolicy: Never", ""},
		{"tolerations", "restartPolicy: Never", "tolerations: [{operator: Exists}], restartPolicy: Never", ""},
		{"gates", "restartPolicy: Never", "schedulingGates: [{name: a/b}], restartPolicy: Never", ""},
		{"node affinity", "restartPolicy: Never", "affinity: {nodeAffinity: {}}, restartPolicy: Never", ""},
		{"pod affinity", "restartPolicy: Never", "affinity: {podAffinity: {}}, restartPolicy: Never", "spec.template: Invalid value"},
		{"annotations", "metadata: {labels: {a: b}}", "metadata: {annotations: {c: d}, labels: {a: b}}", ""},
		{"resources", "image: c", "image: c, resources: {requests: {cpu: 1}}", ""},
		{"image", "image: c", "image: d", "spec.template: Invalid value"},
		{"resume and move", "suspend: true, ", "", ""},
	})
}

func TestMutableOnceStopped(t *testing.T) {
	old := decode(t, strings.Replace(anIndexedJob, "spec: {", "spec: {suspend: true, ", 1)).(*batchv1.Job)
	old.Status.StartTime = &metav1.Time{Time: time.Unix(1, 0)}
	moved := old.DeepCopy()
	moved.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
	compare(t, Update(moved, old), "spec.template: Invalid value")
	old.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}}
	compare(t, Update(moved, old), "")
	old.Status.Active = 1
	compare(t, Update(moved, old), "spec.template: Invalid value")
}

func TestJobStatus(t *testing.T) {
	at := func(seconds int64) *metav1.Time { return &metav1.Time{Time: time.Unix(seconds, 0)} }
	conditions := func(names ...batchv1.JobConditionType) []batchv1.JobCondition {
		var out []batchv1.JobCondition
		for _, t := range names {
			out = append(out, batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue})
		}
		return out
	}
	one, text := int32(1), "0,2"
	complete := batchv1.JobStatus{StartTime: at(1), CompletionTime: at(2), Conditions: conditions(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)}
	with := func(s batchv1.JobStatus, change func(*batchv1.JobStatus)) batchv1.JobStatus {
		out := *s.DeepCopy()
		change(&out)
		return out
	}
	running := batchv1.JobStatus{StartTime: at(1), Succeeded: 1, Failed: 2}
	for _, tt := range []struct {
		name     string
		was, now batchv1.JobStatus
		want     string
	}{
		{"done", running, with(complete, func(s *batchv1.JobStatus) { s.Succeeded, s.Failed = 2, 2 }), ""},
		{"negative", running, batchv1.JobStatus{Active: -1}, "status.active: Invalid value: -1: must be greater than or equal to 0"},
		{"fewer failed", running, with(running, func(s *batchv1.JobStatus) { s.Failed = 1 }), "status.failed: Invalid value: 1: cannot decrease the failed counter"},
		{"more ready than active", running, with(running, func(s *batchv1.JobStatus) { s.Ready = &one }), "status.ready: Invalid value: 1: cannot set more ready pods than active"},
		{"start lost", running, with(running, func(s *batchv1.JobStatus) { s.StartTime = nil }), "status.startTime: Required value: startTime cannot be removed for unsuspended job"},
		{"start moved", running, with(running, func(s *batchv1.JobStatus) { s.StartTime = at(3) }), "status.startTime: Required value: startTime cannot be modified for unsuspended job"},
		{"two ends", running, with(complete, func(s *batchv1.JobStatus) { s.Conditions = append(s.Conditions, conditions(batchv1.JobFailed)...) }), "status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions"},
		{"two announcements", running, with(running, func(s *batchv1.JobStatus) {
			s.Conditions = conditions(batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet)
		}), "cannot set FailureTarget=True and SuccessCriteriaMet=true conditions"},
		{"unannounced failure", running, with(running, func(s *batchv1.JobStatus) { s.Conditions = conditions(batchv1.JobFailed) }), "cannot set Failed=True condition without the FailureTarget=true condition"},
		{"unannounced success", running, with(complete, func(s *batchv1.JobStatus) { s.Conditions = conditions(batchv1.JobComplete) }), "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"},
		{"back from the end", complete, with(complete, func(s *batchv1.JobStatus) { s.Conditions = nil }), "cannot disable the terminal Complete=True condition"},
		{"back from the announcement", with(running, func(s *batchv1.JobStatus) { s.Conditions = conditions(batchv1.JobFailureTarget) }), running, "cannot disable the FailureTarget=True condition"},
		{"pods at the end", running, with(complete, func(s *batchv1.JobStatus) { s.Active = 1 }), "status.active: Invalid value: 1: active>0 is invalid for finished job"},
		{"ending pods at the end", running, with(complete, func(s *batchv1.JobStatus) { s.Terminating = &one }), "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job"},
		{"an end without a beginning", batchv1.JobStatus{}, with(complete, func(s *batchv1.JobStatus) { s.StartTime = nil }), "status.startTime: Required value: startTime is required for finished job"},
		{"uncounted at the end", running, with(complete, func(s *batchv1.JobStatus) {
			s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"a"}}
		}), "uncountedTerminatedPods needs to be empty for finished job"},
		{"no completion time", running, with(complete, func(s *batchv1.JobStatus) { s.CompletionTime = nil }), "status.completionTime: Required value: completionTime is required for Complete jobs"},
		{"completion time of none", running, with(running, func(s *batchv1.JobStatus) { s.CompletionTime = at(2) }), "cannot set completionTime when there is no Complete=True condition"},
		{"completion first", running, with(complete, func(s *batchv1.JobStatus) { s.CompletionTime = at(0) }), "completionTime cannot be set before startTime"},
		{"another completion time", complete, with(complete, func(s *batchv1.JobStatus) { s.CompletionTime = at(5) }), "completionTime cannot be mutated"},
		{"indexes", running, with(running, func(s *batchv1.JobStatus) { s.CompletedIndexes = "0-9" }), `status.completedIndexes: Invalid value: "0-9": error parsing completedIndexes: too large index: "9"`},
		{"indexes in both", running, with(running, func(s *batchv1.JobStatus) { s.CompletedIndexes, s.FailedIndexes = "1-3", &text }), "failedIndexes and completedIndexes overlap at index: 2"},
		{"uncounted twice", running, with(running, func(s *batchv1.JobStatus) {
			s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"a"}, Succeeded: []types.UID{"a"}}
		}), `status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old := decode(t, anIndexedJob).(*batchv1.Job)
			now := old.DeepCopy()
			old.Status, now.Status = tt.was, tt.now
			compare(t, UpdateStatus(now, old), tt.want)
		})
	}
}

const aCronJob = `{apiVersion: batch/v1, kind: CronJob, metadata: {name: x, namespace: d}, spec: {schedule: "*/5 0-3 * jan,6 mon", timeZone: Europe/Zurich,
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}}}`

func TestCronJob(t *testing.T) {
	at := `spec.schedule: Invalid value: `
	testCreate(t, aCronJob, []edit{
		{"name", "name: x,", "name: " + strings.Repeat("x", 53) + ",", "metadata.name: Invalid value: \"" + strings.Repeat("x", 53) + "\": must be no more than 52 characters"},
		{"no schedule", `schedule: "*/5 0-3 * jan,6 mon", `, "", "spec.schedule: Required value"},
		{"fields", "*/5 0-3 * jan,6 mon", "* *", at + `"* *": expected exactly 5 fields, found 2: [* *]`},
		{"above", "*/5 0-3 * jan,6 mon", "60 * * * *", at + `"60 * * * *": end of range (60) above maximum (59): 60`},
		{"below", "*/5 0-3 * jan,6 mon", "* * 0 * *", at + `"* * 0 * *": beginning of range (0) below minimum (1): 0`},
		{"backwards", "*/5 0-3 * jan,6 mon", "* 5-3 * * *", at + `"* 5-3 * * *": beginning of range (5) beyond end of range (3): 5-3`},
		{"not a number", "*/5 0-3 * jan,6 mon", "x * * * *", at + `"x * * * *": failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax`},
		{"no step", "*/5 0-3 * jan,6 mon", "*/0 * * * *", at + `"*/0 * * * *": step of range should be a positive number: */0`},
		{"negative step", "*/5 0-3 * jan,6 mon", "*/-1 * * * *", at + `"*/-1 * * * *": negative number (-1) not allowed: -1`},
		{"hyphens", "*/5 0-3 * jan,6 mon", "1-2-3 * * * *", at + `"1-2-3 * * * *": too many hyphens: 1-2-3`},
		{"slashes", "*/5 0-3 * jan,6 mon", "*/2/3 * * * *", at + `"*/2/3 * * * *": too many slashes: */2/3`},
		{"descriptor", "*/5 0-3 * jan,6 mon", "@sometimes", at + `"@sometimes": unrecognized descriptor: @sometimes`},
		{"every", "*/5 0-3 * jan,6 mon", "@every 5m", ""},
		{"every what", "*/5 0-3 * jan,6 mon", "@every x", at + `"@every x": failed to parse duration @every x: time: invalid duration "x"`},
		{"sunday is 0", "*/5 0-3 * jan,6 mon", "* * * * 7", at + `"* * * * 7": end of range (7) above maximum (6): 7`},
		{"zone in schedule", "*/5 0-3 * jan,6 mon", "TZ=UTC * * * * *", at + `"TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`},
		{"empty zone", "timeZone: Europe/Zurich", "timeZone: ''", `spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string`},
		{"unknown zone", "timeZone: Europe/Zurich", "timeZone: Europe/Nowhere", `spec.timeZone: Invalid value: "Europe/Nowhere": unknown time zone Europe/Nowhere`},
		{"zone out of the folder", "timeZone: Europe/Zurich", "timeZone: ../Zurich", `spec.timeZone: Invalid value: "../Zurich": unknown time zone ../Zurich`},
		{"local zone", "timeZone: Europe/Zurich", "timeZone: local", `spec.timeZone: Invalid value: "local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones`},
		{"deadline", "spec: {schedule", "spec: {startingDeadlineSeconds: -1, schedule", "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0"},
		{"concurrency", "spec: {schedule", "spec: {concurrencyPolicy: Sometimes, schedule", `spec.concurrencyPolicy: Unsupported value: "Sometimes": supported values: "Allow", "Forbid", "Replace"`},
		{"histories", "spec: {schedule", "spec: {successfulJobsHistoryLimit: -1, failedJobsHistoryLimit: -2, schedule", "spec.successfulJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0\nspec.failedJobsHistoryLimit: Invalid value: -2: must be greater than or equal to 0"},
		{"selector", "jobTemplate: {spec: {", "jobTemplate: {spec: {selector: {matchLabels: {a: b}}, ", "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated"},
		{"manual selector", "jobTemplate: {spec: {", "jobTemplate: {spec: {manualSelector: true, ", `spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"`},
		{"the job's rules", "restartPolicy: Never", "restartPolicy: Always", `spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`},
	})
	const old = `{apiVersion: batch/v1, kind: CronJob, metadata: {name: x, namespace: d}, spec: {schedule: "TZ=UTC * * * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}}}`
	testUpdate(t, old, []edit{
		{"zone twice", "spec: {schedule", "spec: {timeZone: UTC, schedule", "cannot use both timeZone field and TZ or CRON_TZ in schedule"},
		{"zone moved out", `schedule: "TZ=UTC * * * * *"`, `timeZone: UTC, schedule: "* * * * *"`, ""},
	})
}
