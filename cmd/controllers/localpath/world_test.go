package localpath

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// world is one claim after another, two nodes with disks, a binder, and kubelets that fail and lie away: as little of
// a cluster as the plan depends on.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	now     time.Time
	claims  map[string]*corev1.PersistentVolumeClaim // by volume name
	volumes map[string]*corev1.PersistentVolume
	pods    map[string]*corev1.Pod
	nodes   map[string]*corev1.Node
	away    map[string]bool
	dirs    map[string]bool // node/volume
	made    int
}

func (w *world) state(name string) state {
	s := state{name: name, claim: w.claims[name], class: testClass(), volume: w.volumes[name], nodes: w.nodes, now: w.now}
	for _, p := range w.pods {
		if p.Labels[volumeLabel] == name {
			s.helpers = append(s.helpers, p)
		}
	}
	return s
}

// sync carries out the plan for one volume, and is cut off after some actions at times.
func (w *world) sync(name string, mayCrash bool) {
	s := w.state(name)
	for _, a := range plan(s) {
		if mayCrash && w.rnd.IntN(4) == 0 {
			return
		}
		switch a.do {
		case makeHelper:
			if a.pod.Labels[actLabel] == actRemove {
				if v := w.volumes[name]; v == nil || v.DeletionTimestamp == nil || w.claims[name] != nil {
					w.t.Fatalf("%s is to be removed, but it is alive", name)
				}
			}
			if w.pods[a.pod.Name] == nil {
				a.pod.CreationTimestamp = metav1.NewTime(w.now)
				a.pod.Status.Phase = corev1.PodPending
				w.pods[a.pod.Name] = a.pod
			}
		case dropHelper:
			if p := w.pods[a.pod.Name]; p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				delete(w.pods, p.Name)
			} else { // its kubelet ends it first
				p.DeletionTimestamp = ptr.To(metav1.NewTime(w.now))
			}
		case forceHelper:
			delete(w.pods, a.pod.Name)
		case makeVolume:
			if w.volumes[name] == nil {
				w.volumes[name] = a.volume
			}
		case deleteVolume:
			w.volumes[name].DeletionTimestamp = ptr.To(metav1.NewTime(w.now))
		case releaseVolume:
			delete(w.volumes, name)
		case unselect:
			delete(w.claims[name].Annotations, selectedNode)
		}
	}
}

// kubelets do something with one pod, or not.
func (w *world) kubelets(faults bool) {
	for _, name := range slices.Sorted(keys(w.pods)) {
		p := w.pods[name]
		if w.away[p.Spec.NodeName] || w.nodes[p.Spec.NodeName] == nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		dir := p.Spec.NodeName + "/" + p.Labels[volumeLabel]
		fate := 2
		if faults {
			fate = w.rnd.IntN(4)
		}
		if fate > 0 { // it did its work, if only in part
			if p.Labels[actLabel] == actMake {
				w.dirs[dir] = true
			} else if fate == 2 {
				w.remove(dir, p.Labels[volumeLabel])
			}
		}
		switch {
		case p.DeletionTimestamp != nil:
			delete(w.pods, name)
		case fate == 2:
			p.Status.Phase = corev1.PodSucceeded
		case fate == 3:
			p.Status.Phase = corev1.PodFailed
		}
	}
}

func (w *world) remove(dir, volume string) {
	if v := w.volumes[volume]; v != nil && v.DeletionTimestamp == nil {
		w.t.Fatalf("%s was removed while its volume lives", dir)
	}
	delete(w.dirs, dir)
}

// binder binds and releases, and the scheduler chooses a node for who has none.
func (w *world) binder() {
	for name, v := range w.volumes {
		switch {
		case w.claims[name] == nil:
			v.Status.Phase = corev1.VolumeReleased
		case v.DeletionTimestamp == nil:
			v.Status.Phase, w.claims[name].Spec.VolumeName = corev1.VolumeBound, name
		}
	}
	for _, c := range w.claims {
		if there := slices.Sorted(keys(w.nodes)); c.Annotations[selectedNode] == "" && len(there) > 0 {
			c.Annotations[selectedNode] = there[w.rnd.IntN(len(there))]
		}
	}
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// people make and delete claims, and take nodes away and bring them back.
func (w *world) people() {
	switch node := []string{"a", "b"}[w.rnd.IntN(2)]; w.rnd.IntN(8) {
	case 0:
		w.made++
		c := testClaim(fmt.Sprint("u", w.made), node)
		w.claims[volumeName(c)] = c
	case 1:
		for name := range w.claims {
			delete(w.claims, name)
			break
		}
	case 2:
		w.away[node] = !w.away[node]
	}
}

func (w *world) names() (all []string) {
	for i := range w.made {
		all = append(all, fmt.Sprint("pvc-u", i+1))
	}
	return all
}

// From any history of claims, faults, crashes and nodes away it ends with a directory for each claim, and no other.
func TestConverges(t *testing.T) {
	for seed := range uint64(150) {
		w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: epoch, claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{},
			pods: map[string]*corev1.Pod{}, nodes: map[string]*corev1.Node{"a": testNode("a"), "b": testNode("b")}, away: map[string]bool{}, dirs: map[string]bool{}}
		for range 120 {
			w.people()
			w.kubelets(true)
			w.binder()
			for _, name := range w.names() {
				if w.rnd.IntN(2) == 0 {
					w.sync(name, true)
				}
			}
			w.now = w.now.Add(time.Duration(w.rnd.IntN(20)) * time.Second)
		}
		clear(w.away)
		for range 20 {
			w.kubelets(false)
			w.binder()
			for _, name := range w.names() {
				w.sync(name, false)
			}
			w.now = w.now.Add(time.Hour)
		}
		want := map[string]bool{}
		for name, c := range w.claims {
			if v := w.volumes[name]; v == nil || c.Spec.VolumeName != name {
				t.Fatalf("seed %d: claim %s has no volume: %v", seed, c.UID, plan(w.state(name)))
			} else {
				want[v.Annotations[nodeAnnotation]+"/"+name] = true
			}
		}
		if len(w.dirs) != len(want) || len(w.volumes) != len(want) || len(w.pods) != 0 {
			t.Fatalf("seed %d: directories %v, wanted %v; %d volumes, %d helpers", seed, w.dirs, want, len(w.volumes), len(w.pods))
		}
		for dir := range want {
			if !w.dirs[dir] {
				t.Fatalf("seed %d: %s is not there", seed, dir)
			}
		}
	}
}
