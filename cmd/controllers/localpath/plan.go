package localpath

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// patience is how long a helper may take before the claim or the volume is told that it is waited for.
const patience = time.Minute

// state is what is known of one volume and of all that belongs to it.
type state struct {
	name   string // the volume's, whether it exists or not
	claim  *corev1.PersistentVolumeClaim
	class  *storagev1.StorageClass // the claim's
	volume *corev1.PersistentVolume
	// helpers are all pods of this volume.
	helpers []*corev1.Pod
	// nodes tells of each node that claim, volume or helpers name whether it exists; its hostname label, if so.
	nodes map[string]*corev1.Node
	now   time.Time
}

type verb string

const (
	tell          verb = "tell"          // an event about object
	makeHelper    verb = "make helper"   // pod
	dropHelper    verb = "drop helper"   // pod
	forceHelper   verb = "force helper"  // pod, whose node is gone
	makeVolume    verb = "make volume"   // volume
	deleteVolume  verb = "delete volume" // begin to: the finalizer keeps it
	releaseVolume verb = "release volume"
	unselect      verb = "unselect" // take the claim's node back
	again         verb = "again"    // look again after a while
)

// action is one effect. Those of a plan are carried out in order, and the first that fails ends it.
type action struct {
	do            verb
	pod           *corev1.Pod
	volume        *corev1.PersistentVolume
	warn          bool
	reason, text  string
	aboutTheClaim bool
	after         time.Duration
}

func (a action) String() string {
	switch {
	case a.do == tell && a.warn:
		return "warn " + a.reason + ": " + a.text
	case a.do == tell:
		return "tell " + a.reason + ": " + a.text
	case a.pod != nil:
		return string(a.do) + " " + a.pod.Name + " on " + a.pod.Spec.NodeName
	case a.do == again:
		return "again after " + a.after.String()
	}
	return string(a.do)
}

// plan lists what brings one volume on its way. Whatever was cut off, the next plan goes on from what is there: a
// directory exists only where a helper or a volume says that it may.
func plan(s state) []action {
	makers, removers := s.split()
	if s.volume != nil {
		if !ours(s.volume) {
			return nil
		}
		return append(drop(makers), s.reclaim(makers, removers)...)
	}
	if len(makers) > 0 {
		return append(drop(removers), s.finish(makers)...)
	}
	return append(drop(removers), s.begin()...)
}

// split sorts the helpers by what they do and by attempt.
func (s state) split() (makers, removers []*corev1.Pod) {
	for _, p := range s.helpers {
		if p.Labels[actLabel] == actMake {
			makers = append(makers, p)
		} else {
			removers = append(removers, p)
		}
	}
	byAttempt := func(a, b *corev1.Pod) int { return cmp.Compare(attempt(a), attempt(b)) }
	slices.SortFunc(makers, byAttempt)
	slices.SortFunc(removers, byAttempt)
	return makers, removers
}

func drop(pods []*corev1.Pod) (actions []action) {
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			actions = append(actions, action{do: dropHelper, pod: p})
		}
	}
	return actions
}

func (s state) failed(format string, args ...any) action {
	text := fmt.Sprintf("failed to provision volume with StorageClass %q: ", className(s.claim)) + fmt.Sprintf(format, args...)
	return action{do: tell, warn: true, reason: "ProvisioningFailed", text: text, aboutTheClaim: true}
}

// begin orders a directory for a claim that waits for one.
func (s state) begin() []action {
	if !s.wanted() {
		return nil
	}
	if why := refuse(s.claim, s.class); why != "" {
		return []action{s.failed("%s", why)}
	}
	name := s.claim.Annotations[selectedNode]
	node := s.nodes[name]
	if node == nil {
		return []action{s.failed("node %q not found", name), {do: unselect}}
	}
	if node.Labels[corev1.LabelHostname] == "" {
		return []action{s.failed("node %q has no label %s", name, corev1.LabelHostname)}
	}
	pod, err := maker(volumeFor(s.claim, s.class, node), node.Name, 0)
	if err != nil {
		return []action{s.failed("%v", err)}
	}
	return []action{
		{do: tell, reason: "Provisioning", aboutTheClaim: true,
			text: fmt.Sprintf("External provisioner is provisioning volume for claim %q", s.claim.Namespace+"/"+s.claim.Name)},
		{do: makeHelper, pod: pod},
	}
}

// wanted tells whether the claim still waits for a volume of ours.
func (s state) wanted() bool {
	return s.claim != nil && s.claim.DeletionTimestamp == nil && s.claim.Spec.VolumeName == "" && s.class != nil &&
		s.class.Provisioner == Provisioner && s.claim.Annotations[provisionerAnnotation] == Provisioner
}

// refuse says why no directory can be what claim asks for, "" if one can.
func refuse(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Sprintf("access mode %s: a directory of a node has only ReadWriteOnce and ReadWriteOncePod", mode)
		}
	}
	switch {
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "volume mode Block is not supported"
	case claim.Spec.Selector != nil:
		return "claim.Spec.Selector is not supported"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "data sources are not supported"
	case len(class.Parameters) > 0:
		return "the class has parameters, and there are none"
	case len(class.MountOptions) > 0:
		return "mount options are not supported"
	case claim.Annotations[selectedNode] == "":
		return "no node was selected: the class needs volumeBindingMode WaitForFirstConsumer"
	}
	return ""
}

// finish follows the helper that makes a directory until there is a volume. The volume comes even if the claim has
// gone meanwhile: it is then released and removed like any other, and its directory with it.
func (s state) finish(makers []*corev1.Pod) []action {
	newest := makers[len(makers)-1]
	actions := drop(makers[:len(makers)-1])
	if s.nodes[newest.Spec.NodeName] == nil {
		return append(actions, action{do: forceHelper, pod: newest})
	}
	volume, err := volumeOf(newest)
	if err != nil || volume.Name != s.name {
		return append(actions, action{do: dropHelper, pod: newest})
	}
	switch newest.Status.Phase {
	case corev1.PodSucceeded:
		return append(actions, action{do: makeVolume, volume: volume})
	case corev1.PodFailed:
		if !s.wanted() {
			return append(actions, action{do: makeVolume, volume: volume})
		}
		actions = append(actions, s.failed("%s", complaint(newest)))
		next, err := maker(volume, newest.Spec.NodeName, attempt(newest)+1)
		return append(actions, s.retry(newest, next, err))
	}
	why := complaint(newest)
	if !s.wanted() && why != "" {
		return append(actions, action{do: makeVolume, volume: volume})
	}
	if s.wanted() && why != "" {
		actions = append(actions, s.failed("%s", why))
	}
	if wait := patience - s.now.Sub(newest.CreationTimestamp.Time); wait > 0 {
		actions = append(actions, action{do: again, after: wait})
	} else if s.wanted() && why == "" {
		actions = append(actions, s.failed("node %q has not run pod %s/%s yet", newest.Spec.NodeName, newest.Namespace, newest.Name))
	}
	return actions
}

// retry makes the next helper once the failed one is old enough; the failed one goes only when the next is there, so
// that it is never forgotten that there may be a directory.
func (s state) retry(failed, next *corev1.Pod, err error) action {
	wait := min(5*time.Second<<min(attempt(failed), 10), 5*time.Minute)
	if left := wait - s.now.Sub(failed.CreationTimestamp.Time); left > 0 || err != nil {
		return action{do: again, after: max(left, time.Second)}
	}
	return action{do: makeHelper, pod: next}
}

// reclaim does with a volume of ours that is no longer claimed what its policy says.
func (s state) reclaim(makers, removers []*corev1.Pod) []action {
	v := s.volume
	going := v.DeletionTimestamp != nil
	claimed := v.Status.Phase == corev1.VolumeBound || s.claim != nil && v.Spec.ClaimRef != nil && s.claim.UID == v.Spec.ClaimRef.UID
	switch {
	case claimed || !going && v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed:
		return drop(removers)
	case v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		if going && slices.Contains(v.Finalizers, finalizer) {
			return append(drop(removers), action{do: releaseVolume})
		}
		return drop(removers)
	}
	complain := func(format string, args ...any) action {
		return action{do: tell, warn: true, reason: "VolumeFailedDelete", text: fmt.Sprintf(format, args...)}
	}
	node := v.Annotations[nodeAnnotation]
	switch {
	case s.nodes[node] == nil && !going:
		// It may come back under its name, with the data: who knows better deletes the volume.
		return []action{complain("node %q is not there to remove %s: delete the volume to give the directory up", node, v.Spec.Local.Path)}
	case s.nodes[node] == nil:
		return append(drop(removers), complain("node %q is gone, and %s with it", node, v.Spec.Local.Path), action{do: releaseVolume})
	case !going:
		return []action{{do: deleteVolume}}
	case len(makers) > 0: // its end is waited for, or it could make again what is removed
		return nil
	case len(removers) == 0:
		return []action{{do: makeHelper, pod: remover(v, 0)}}
	}
	newest := removers[len(removers)-1]
	actions := drop(removers[:len(removers)-1])
	why := complaint(newest)
	switch newest.Status.Phase {
	case corev1.PodSucceeded:
		return append(actions, action{do: releaseVolume})
	case corev1.PodFailed:
		return append(actions, complain("%s", why), s.retry(newest, remover(v, attempt(newest)+1), nil))
	}
	if why != "" {
		actions = append(actions, complain("%s", why))
	}
	return actions
}

// complaint is what pod says of why it has not done its work, "" while it may do it yet.
func complaint(pod *corev1.Pod) string {
	for _, c := range pod.Status.ContainerStatuses {
		for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			if t := state.Terminated; t != nil && t.ExitCode != 0 {
				return cmp.Or(strings.TrimSpace(t.Message), fmt.Sprintf("pod %s/%s ended with code %d", pod.Namespace, pod.Name, t.ExitCode))
			}
		}
		if w := c.State.Waiting; w != nil && w.Message != "" {
			return w.Reason + ": " + w.Message
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return fmt.Sprintf("pod %s/%s failed: %s", pod.Namespace, pod.Name, cmp.Or(pod.Status.Message, pod.Status.Reason))
	}
	return ""
}
