package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// ruling is what a podFailurePolicy says of a failed pod.
type ruling struct {
	action batchv1.PodFailurePolicyAction // Count where no rule matches
	why    string                         // for FailJob
}

func (r ruling) counts() bool { return r.action != batchv1.PodFailurePolicyActionIgnore }

// judge applies the first rule of policy that matches pod.
func judge(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) ruling {
	if policy == nil {
		return ruling{action: batchv1.PodFailurePolicyActionCount}
	}
	for i, rule := range policy.Rules {
		if rule.OnExitCodes != nil {
			if c := exited(rule.OnExitCodes, pod); c != nil {
				return ruling{rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, rule.Action, i)}
			}
			continue
		}
		for _, want := range rule.OnPodConditions {
			status := want.Status
			if status == "" {
				status = corev1.ConditionTrue
			}
			if has := podset.Condition(pod, want.Type); has != nil && has.Status == status {
				return ruling{rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d",
					pod.Namespace, pod.Name, want.Type, rule.Action, i)}
			}
		}
	}
	return ruling{action: batchv1.PodFailurePolicyActionCount}
}

// exited returns the container of pod whose exit code the requirement names, nil where there is none.
func exited(req *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.Pod) *corev1.ContainerStatus {
	all := append(slices.Clone(pod.Status.ContainerStatuses), pod.Status.InitContainerStatuses...)
	for i := range all {
		end := all[i].State.Terminated
		if end == nil || end.ExitCode == 0 || req.ContainerName != nil && *req.ContainerName != all[i].Name {
			continue
		}
		in := slices.Contains(req.Values, end.ExitCode)
		if in == (req.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return &all[i]
		}
	}
	return nil
}

// enough returns the position of the first rule of policy that the succeeded indexes meet, and whether there is one.
func enough(policy *batchv1.SuccessPolicy, succeeded indexes, end int) (int, bool) {
	if policy == nil {
		return 0, false
	}
	for i, rule := range policy.Rules {
		have, want := succeeded.total(), 0
		if rule.SucceededIndexes != nil {
			listed := parseIndexes(*rule.SucceededIndexes, end)
			have, want = succeeded.overlap(listed), listed.total()
		}
		if rule.SucceededCount != nil {
			want = int(*rule.SucceededCount)
		}
		if want > 0 && have >= want {
			return i, true
		}
	}
	return 0, false
}
