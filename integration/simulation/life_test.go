package simulation

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// lifePlot is of owners and what they own, and of the end of both: Deployments that are deleted in each of the three ways, and
// made again; ConfigMaps of one owner, of two, of one that never was, and two that own each other; and, at times, the end of
// the whole namespace.
type lifePlot struct {
	// fate is what must become of a ConfigMap: it stays, or goes, or either.
	fate map[string]fate
	// ending tells that the namespace is being deleted.
	ending bool
}

type fate string

const (
	stays  fate = "stays"
	goes   fate = "goes"
	either fate = "either"
)

func (p *lifePlot) parts() []string {
	return []string{"deployment", "replicaset", "garbagecollector", "namespace"}
}

func (p *lifePlot) discoverable() []string {
	return []string{"configmaps", "pods", "deployments", "replicasets"}
}

func (p *lifePlot) ownerless() {}

func (p *lifePlot) begin(s *story) {
	edit(s.world, "namespaces", namespace, func(ns *corev1.Namespace) { ns.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes} })
	p.fate = map[string]fate{"of-a": stays, "of-both": stays, "free": stays, "dangling": goes, "circle-1": stays, "circle-2": stays}
	p.deploy(s, "a")
	p.deploy(s, "b")
	p.note(s, "free")
	p.note(s, "of-a", "deployments/a")
	p.note(s, "of-both", "deployments/a", "deployments/b")
	p.note(s, "dangling", "deployments/never")
	p.note(s, "circle-1")
	p.note(s, "circle-2", "configmaps/circle-1")
	edit(s.world, "configmaps", "circle-1", func(m *corev1.ConfigMap) {
		m.OwnerReferences = []metav1.OwnerReference{p.owner(s, "configmaps", "circle-2")}
	})
}

// deploy makes a Deployment of that name.
func (p *lifePlot) deploy(s *story, name string) {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	d.Spec = appsv1.DeploymentSpec{Replicas: ptr.To(1 + s.rand.Int32N(2)), RevisionHistoryLimit: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(name, "v0"),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}}
	s.put("deployments", d)
	s.note("user: Deployment %s of %d", name, *d.Spec.Replicas)
}

func (p *lifePlot) owner(s *story, resource, name string) metav1.OwnerReference {
	ref := metav1.OwnerReference{APIVersion: served[resource].group, Kind: served[resource].kind, Name: name, UID: "never", BlockOwnerDeletion: ptr.To(s.rand.IntN(2) == 0)}
	if obj := s.table(resource).objects[name]; obj != nil {
		ref.UID = obj.GetUID()
	}
	return ref
}

// note makes a ConfigMap that belongs to owners, each a resource and a name.
func (p *lifePlot) note(s *story, name string, owners ...string) {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	for _, of := range owners {
		i := slices.Index([]byte(of), '/')
		m.OwnerReferences = append(m.OwnerReferences, p.owner(s, of[:i], of[i+1:]))
	}
	s.put("configmaps", m)
}

func (p *lifePlot) user(s *story) {
	if p.ending {
		return
	}
	switch n := s.rand.IntN(12); {
	case n == 0:
		p.endAll(s)
	case n < 5:
		name := pick(s, []string{"a", "b"})
		if d := find[*appsv1.Deployment](s.world, "deployments", name); d == nil {
			p.deploy(s, name)
		} else if d.DeletionTimestamp == nil {
			p.undeploy(s, name)
		}
	case n < 7:
		name := pick(s, []string{"a", "b"})
		if d := find[*appsv1.Deployment](s.world, "deployments", name); d != nil && d.DeletionTimestamp == nil {
			edit(s.world, "deployments", name, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = pick(s, []string{"v0", "v1"}) })
			s.note("user: Deployment %s anew", name)
		}
	case n == 7:
		p.breakCircle(s)
	}
}

// undeploy deletes a Deployment in one of the three ways.
func (p *lifePlot) undeploy(s *story, name string) {
	way := pick(s, []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan})
	uid := s.table("deployments").objects[name].GetUID()
	for _, m := range all[*corev1.ConfigMap](s.world, "configmaps") {
		refs := m.OwnerReferences
		if !slices.ContainsFunc(refs, func(r metav1.OwnerReference) bool { return r.UID == uid }) {
			continue
		}
		others := slices.ContainsFunc(refs, func(r metav1.OwnerReference) bool {
			other := s.byUID(r.UID)
			return r.UID != uid && other != nil && other.GetDeletionTimestamp() == nil
		})
		switch {
		case way == metav1.DeletePropagationOrphan && len(refs) == 1:
			p.fate[m.Name] = stays
		case way == metav1.DeletePropagationOrphan, len(refs) > 1 && !others: // it depends on who is looked at first
			p.fate[m.Name] = either
		case !others:
			p.fate[m.Name] = goes
		}
	}
	s.note("user: delete Deployment %s, %s", name, way)
	s.end("deployments", name, metav1.DeleteOptions{PropagationPolicy: &way})
}

// breakCircle deletes one of two that own each other; the other goes with it, or is let go.
func (p *lifePlot) breakCircle(s *story) {
	m := find[*corev1.ConfigMap](s.world, "configmaps", "circle-1")
	if m == nil || m.DeletionTimestamp != nil {
		return
	}
	way := pick(s, []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan})
	p.fate["circle-1"], p.fate["circle-2"] = goes, goes
	if way == metav1.DeletePropagationOrphan {
		p.fate["circle-2"] = stays
	}
	s.note("user: delete one of a circle, %s", way)
	s.end("configmaps", m.Name, metav1.DeleteOptions{PropagationPolicy: &way})
}

// endAll deletes the namespace.
func (p *lifePlot) endAll(s *story) {
	p.ending = true
	s.note("user: delete the namespace")
	edit(s.world, "namespaces", namespace, func(ns *corev1.Namespace) { ns.Status.Phase = corev1.NamespaceTerminating })
	s.remove("namespaces", namespace)
}

func (p *lifePlot) accident(s *story) {
	if pods := all[*corev1.Pod](s.world, "pods"); len(pods) > 0 {
		pod := pick(s, pods)
		s.note("user: delete pod %s", pod.Name)
		s.remove("pods", pod.Name)
	}
}

func (p *lifePlot) calm(s *story) {
	if !p.ending && s.rand.IntN(3) == 0 {
		p.endAll(s)
	}
}

// state is what an owner is to what it owns.
func (p *lifePlot) state(s *story, uid types.UID) string {
	obj := s.byUID(uid)
	switch {
	case obj == nil:
		return "gone"
	case obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return "waits"
	case obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return "lets go"
	}
	return "there"
}

func (p *lifePlot) check(s *story, e effect) {
	switch e.verb {
	case "collect":
		for _, ref := range e.before.GetOwnerReferences() {
			if state := p.state(s, ref.UID); state == "there" || state == "lets go" {
				s.fail("collected %s, whose owner %s %s %s", e.name, ref.Kind, ref.Name, state)
			}
		}
		if len(e.before.GetOwnerReferences()) == 0 {
			s.fail("collected %s, which has no owner", e.name)
		}
	case "mark":
		for _, ref := range e.before.GetOwnerReferences() {
			lost := !slices.ContainsFunc(e.out.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == ref.UID })
			if lost && p.state(s, ref.UID) == "there" {
				s.fail("took %s from its owner %s %s", e.name, ref.Kind, ref.Name)
			}
		}
	case "clear":
		if left := len(s.table("pods").objects); e.resource != "pods" && left > 0 {
			s.fail("took the %s from under %d pods", e.resource, left)
		}
	case "finalize":
		for _, kind := range s.kinds {
			if left := len(s.table(kind).objects); left > 0 {
				s.fail("let the namespace go with %d %s", left, kind)
			}
		}
	}
}

func (p *lifePlot) end(s *story) {
	if p.ending {
		if s.table("namespaces").objects[namespace] != nil {
			s.fail("calm, and the namespace is still there")
		}
		return
	}
	for _, kind := range s.kinds {
		for _, obj := range all[object](s.world, kind) {
			refs := obj.GetOwnerReferences()
			owned := len(refs) == 0
			for _, ref := range refs {
				owned = owned || p.state(s, ref.UID) == "there"
			}
			if !owned || obj.GetDeletionTimestamp() != nil {
				s.fail("calm, and %s %s is there, of %v, with %v", kind, obj.GetName(), refs, obj.GetFinalizers())
			}
		}
	}
	for name, fate := range p.fate {
		if there := s.table("configmaps").objects[name] != nil; there && fate == goes || !there && fate == stays {
			s.fail("calm, and ConfigMap %s, which %s, is there: %t", name, fate, there)
		}
	}
	for _, d := range all[*appsv1.Deployment](s.world, "deployments") {
		if d.Status.ReadyReplicas != *d.Spec.Replicas {
			s.fail("calm, and Deployment %s of %d: %+v", d.Name, *d.Spec.Replicas, d.Status)
		}
	}
	if !s.everybodyKnows() {
		s.fail("calm, and somebody does not know")
	}
}
