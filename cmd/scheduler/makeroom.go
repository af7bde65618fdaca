package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// watchBudgets keeps the cluster's disruption budgets.
func (s *Scheduler) watchBudgets(shared informers.SharedInformerFactory) error {
	set := func(obj any) {
		b := obj.(*policyv1.PodDisruptionBudget)
		s.cluster.setBudget(b.Namespace+"/"+b.Name, budgetOf(b))
	}
	return s.watch(shared.Policy().V1().PodDisruptionBudgets().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: set, UpdateFunc: func(_, obj any) { set(obj) },
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				s.cluster.setBudget(key, nil)
			}
		},
	})
}

func budgetOf(b *policyv1.PodDisruptionBudget) *Budget {
	budget := &Budget{Namespace: b.Namespace, Selector: selectorOf(b.Spec.Selector), Allowed: b.Status.DisruptionsAllowed, Disrupted: map[string]bool{}}
	for name := range b.Status.DisruptedPods {
		budget.Disrupted[name] = true
	}
	return budget
}

// unplaced carries out what follows from there being no node for pod.
func (s *Scheduler) unplaced(ctx context.Context, pod *Pod, verdict Verdict, moved []*Pod) {
	if verdict.Preemption == nil {
		nominated := ""
		if verdict.KeepNomination {
			nominated = pod.Status.NominatedNodeName
		}
		s.failed(ctx, pod, verdict.Message, verdict.By, nominated)
		return
	}
	s.events[pod.Spec.SchedulerName].Eventf(pod.Pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", verdict.Message)
	s.async(ctx, func() {
		nominated := verdict.Preemption.Node
		if err := s.makeRoom(ctx, pod, verdict.Preemption); err != nil && ctx.Err() == nil {
			s.log.Warn("make room", "pod", pod.Namespace+"/"+pod.Name, "node", nominated, "err", err)
			s.cluster.denominate(pod.UID)
			nominated = ""
		}
		for _, lesser := range moved {
			s.clearNomination(ctx, lesser.Pod)
		}
		s.telling(ctx, pod.Pod, corev1.PodReasonUnschedulable, verdict.Message, nominated)()
		// Only now: a try before the victims are seen to leave would choose more of them.
		s.queue.fail(pod.UID, verdict.By|byVictims)
	})
}

// makeRoom asks the victims to leave, as their grace allows.
func (s *Scheduler) makeRoom(ctx context.Context, pod *Pod, p *Preemption) error {
	s.metrics.preempting.Inc()
	s.metrics.victims.Observe(float64(len(p.Victims)))
	var errs []error
	for _, v := range p.Victims {
		if v.DeletionTimestamp != nil {
			continue
		}
		if err := s.takeAway(ctx, v.Pod, pod.Spec.SchedulerName); err != nil {
			errs = append(errs, fmt.Errorf("preempt %s/%s: %w", v.Namespace, v.Name, err))
			continue
		}
		s.events[pod.Spec.SchedulerName].Eventf(v.Pod, pod.Pod, corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", pod.UID, p.Node)
		s.log.Info("preempted", "pod", v.Namespace+"/"+v.Name, "by", pod.Namespace+"/"+pod.Name, "node", p.Node)
	}
	return errors.Join(errs...)
}

func (s *Scheduler) takeAway(ctx context.Context, victim *corev1.Pod, scheduler string) error {
	pods := s.client.CoreV1().Pods(victim.Namespace)
	mark, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": victim.UID}, "status": map[string]any{
		"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message: scheduler + ": preempting to accommodate a higher priority pod", LastTransitionTime: metav1.NewTime(time.Now()),
			ObservedGeneration: victim.Generation,
		}},
	}})
	if err != nil {
		return err
	}
	_, err = pods.Patch(ctx, victim.Name, types.StrategicMergePatchType, mark, metav1.PatchOptions{}, "status")
	if err == nil {
		err = pods.Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it has left by itself
	}
	return err
}

// clearNomination tells a pod that the room that was made for it is somebody else's now.
func (s *Scheduler) clearNomination(ctx context.Context, pod *corev1.Pod) {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"nominatedNodeName":null}}`, pod.UID)
	_, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.log.Warn("clear nomination", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}
