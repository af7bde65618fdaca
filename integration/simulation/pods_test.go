package simulation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// template is of a pod of app that runs image.
func template(app, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{
		SchedulerName: corev1.DefaultSchedulerName, RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: image,
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("400m")}}}}}}
}

// kubelet lets one pod take one step.
func (s *story) kubelet() bool {
	var can []*corev1.Pod
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		leaves := p.DeletionTimestamp != nil && *p.DeletionGracePeriodSeconds > 0
		oneShot := p.Spec.RestartPolicy == corev1.RestartPolicyNever
		if p.Spec.NodeName != "" && !s.silent[p.Spec.NodeName] && (leaves || p.Status.Phase == corev1.PodPending || p.Status.Phase == corev1.PodRunning && (oneShot || !ready(p))) {
			can = append(can, p)
		}
	}
	if len(can) == 0 {
		return false
	}
	p := pick(s, can)
	if p.DeletionTimestamp != nil {
		s.note("kubelet: pod %s is gone", p.Name)
		edit(s.world, "pods", p.Name, func(p *corev1.Pod) {
			if !ended(p) {
				p.Status.Phase = corev1.PodFailed
			}
			*p.DeletionGracePeriodSeconds = 0
		})
		return true
	}
	edit(s.world, "pods", p.Name, func(p *corev1.Pod) {
		switch {
		case p.Status.Phase == corev1.PodPending:
			p.Status.Phase, p.Status.PodIP = corev1.PodRunning, address(p)
			p.Status.StartTime = ptr.To(now())
			p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		case p.Spec.RestartPolicy == corev1.RestartPolicyNever && s.rand.IntN(3) > 0:
			p.Status.Phase = corev1.PodSucceeded
		case p.Spec.RestartPolicy == corev1.RestartPolicyNever:
			p.Status.Phase = corev1.PodFailed
		default:
			setReady(p, corev1.ConditionTrue)
		}
		s.note("kubelet: pod %s is %s, ready %t", p.Name, p.Status.Phase, ready(p))
	})
	return true
}

// address is a pod's own.
func address(p *corev1.Pod) string {
	n, err := strconv.Atoi(strings.TrimPrefix(string(p.UID), "u"))
	if err != nil {
		panic(fmt.Sprintf("the UID of pod %s: %v", p.Name, err)) // the world gave it
	}
	return fmt.Sprintf("10.0.%d.%d", n/250, n%250+1)
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func setReady(p *corev1.Pod, to corev1.ConditionStatus) {
	p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: to, LastTransitionTime: now()})
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
}

func live(p *corev1.Pod) bool { return p.DeletionTimestamp == nil && !ended(p) }

func available(p *corev1.Pod) bool { return p != nil && live(p) && ready(p) }

// image is what a pod runs.
func image(p *corev1.Pod) string { return p.Spec.Containers[0].Image }

// mishap makes a running pod sick, or ends it.
func (s *story) mishap() {
	pods := slices.DeleteFunc(all[*corev1.Pod](s.world, "pods"), func(p *corev1.Pod) bool {
		return p.Spec.NodeName == "" || p.Status.Phase != corev1.PodRunning
	})
	if len(pods) == 0 {
		return
	}
	p := pick(s, pods)
	edit(s.world, "pods", p.Name, func(p *corev1.Pod) {
		if setReady(p, corev1.ConditionFalse); s.rand.IntN(2) == 0 {
			p.Status.Phase = corev1.PodFailed
		}
		s.note("accident: pod %s is %s and not ready", p.Name, p.Status.Phase)
	})
}

// nodeLeaves takes a node away, or brings one back.
func (s *story) nodeLeaves() {
	name := nodeName(s.rand.IntN(3))
	if s.table("nodes").objects[name] == nil {
		s.addNode(name)
		return
	}
	s.note("node %s leaves with its pods", name)
	s.drop("nodes", name)
	s.sweep()
}

// check looks at what must hold in every story, and then at what its plot promises.
func (s *story) check(e effect) {
	if _, ok := s.plot.(interface{ ownerless() }); !ok {
		s.checkOwners()
	}
	s.checkNodes()
	s.plot.check(s, e)
}

// checkOwners looks for orphans.
func (s *story) checkOwners() {
	owners := map[string]string{"ReplicaSet": "replicasets", "Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets", "Job": "jobs", "CronJob": "cronjobs", "ReplicationController": "replicationcontrollers"}
	for _, resource := range []string{"pods", "replicasets", "controllerrevisions"} {
		for _, obj := range all[object](s.world, resource) {
			ref := metav1.GetControllerOfNoCopy(obj)
			if ref == nil {
				s.fail("%s of %s has no owner", obj.GetName(), resource)
				continue
			}
			owner := s.table(owners[ref.Kind]).objects[ref.Name]
			pod, isPod := obj.(*corev1.Pod)
			going := obj.GetDeletionTimestamp() != nil || isPod && ended(pod)
			if !going && (owner == nil || owner.GetUID() != ref.UID) {
				s.fail("%s is of %s %s, which is no more", obj.GetName(), ref.Kind, ref.Name)
			}
		}
	}
}

// checkNodes tells whether a node has taken more than it has.
func (s *story) checkNodes() {
	used := map[string]int64{}
	for _, p := range all[*corev1.Pod](s.world, "pods") {
		if p.Spec.NodeName != "" && !ended(p) {
			used[p.Spec.NodeName] += p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		}
	}
	for _, n := range all[*corev1.Node](s.world, "nodes") {
		if have := n.Status.Allocatable.Cpu().MilliValue(); used[n.Name] > have {
			s.fail("node %s has %dm and pods of %dm", n.Name, have, used[n.Name])
		}
	}
}
