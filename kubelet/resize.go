package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/criconfig"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// cgroupFacts is what of the node bears on containers' limits.
func (k *Kubelet) cgroupFacts() criconfig.Node {
	return criconfig.Node{Memory: k.facts.Memory, CPUPeriod: k.cfg.CPUPeriod.Microseconds(), CPUQuota: k.cfg.CPUQuota, KillTogether: k.facts.CgroupV2 && !k.cfg.KillSingly}
}

// allocate decides whether the node gives a pod the resources it is to have, and notes it before anybody acts on it.
func (w *worker) allocate(s lifecycle.State, a lifecycle.Allocate) {
	answer := lifecycle.Allocated{Resources: a.Resources}
	wanted := lifecycle.WithResources(s.Pod, a.Resources)
	room := w.takeRoom()
	before, reason, message := w.grant(wanted)
	if reason == v1.PodReasonInfeasible {
		w.k.metrics.resizesInfeasible.WithLabelValues("insufficient_node_allocatable").Inc()
	}
	answer.Reason, answer.Message = reason, message
	if reason == "" {
		if err := w.k.noteAllocation(wanted); err != nil {
			w.revoke(before)
			answer.Reason, answer.Message = v1.PodReasonDeferred, err.Error()
			w.log.Warn("allocate", "err", err)
		} else {
			if s.Resize.Reason == v1.PodReasonDeferred {
				w.k.metrics.resizesDeferred.WithLabelValues(room).Inc()
			}
			w.k.roomMade("pod_resized") // one part of it may have become less
		}
	}
	w.post(answer)
}

// grant takes what the pod wants from the node, unless that has not so much.
func (w *worker) grant(wanted *v1.Pod) (before *v1.Pod, reason, message string) {
	k := w.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := k.sync.node.Load(); n != nil {
		if reason, message = affordable(wanted, k.othersLocked(w.uid), n.Allocatable()); reason != "" {
			return nil, reason, message
		}
	}
	before, w.granted = w.granted, wanted
	return before, "", ""
}

func (w *worker) revoke(before *v1.Pod) {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	w.granted = before
}

// takeRoom gives why the pod's resources are asked for now, in upstream's words.
func (w *worker) takeRoom() string {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	room := w.room
	w.room = ""
	if room == "" {
		return "pod_updated"
	}
	return room
}

// roomMade lets the resizes that were deferred be looked at again, the most important pods first. Why is upstream's word
// for what made room.
func (k *Kubelet) roomMade(why string) {
	k.group.Go(func() {
		var deferred []*worker
		for _, w := range k.all() {
			if w.shown.Load().state.Resize.Reason == v1.PodReasonDeferred {
				deferred = append(deferred, w)
			}
		}
		slices.SortStableFunc(deferred, func(a, b *worker) int { return int(priority(b) - priority(a)) })
		for _, w := range deferred {
			k.mu.Lock()
			w.room = why
			k.mu.Unlock()
			w.post(lifecycle.RoomMade{})
		}
	})
}

func priority(w *worker) int64 {
	if p := w.shown.Load().state.Pod.Spec.Priority; p != nil {
		return int64(*p)
	}
	return 0
}

// allocationFile is where the resources of a pod that was resized are noted. It lives and dies with the pod's directory.
func (k *Kubelet) allocationFile(uid types.UID) string {
	return filepath.Join(k.cfg.RootDir, "pods", string(uid), "allocated.json")
}

func (k *Kubelet) noteAllocation(pod *v1.Pod) error {
	noted := lifecycle.Resources{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			noted[list[i].Name] = list[i].Resources
		}
	}
	text, err := json.Marshal(noted)
	if err != nil {
		return fmt.Errorf("note what is allocated: %w", err)
	}
	path := k.allocationFile(pod.UID)
	if err := writeDurably(path, text); err != nil {
		return fmt.Errorf("note what is allocated: %w", err)
	}
	return nil
}

// writeDurably makes the file's content text, or leaves it as it was.
func writeDurably(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (k *Kubelet) notedAllocation(uid types.UID) (lifecycle.Resources, error) {
	text, err := os.ReadFile(k.allocationFile(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var noted lifecycle.Resources
	if err == nil {
		err = json.Unmarshal(text, &noted)
	}
	return noted, err
}

// resizeContainers applies the pod's resources to running containers. The pod's own cgroup is made wide enough before,
// and as narrow as it may be after.
func (w *worker) resizeContainers(ctx context.Context, pod *v1.Pod, a lifecycle.ResizeContainers) {
	done := lifecycle.Resized{Applied: lifecycle.Resources{}}
	begun := time.Now()
	err := w.k.groups.EnsurePod(a.Cover)
	if err == nil {
		var errs []error
		for name, id := range a.IDs {
			spec := lifecycle.Spec(pod, name)
			if err := w.resizeContainer(ctx, pod, spec, id); err != nil {
				errs = append(errs, fmt.Errorf("resize container %s: %w", name, err))
				continue
			}
			done.Applied[name] = *spec.Resources.DeepCopy()
		}
		if err = errors.Join(errs...); err == nil {
			err = w.k.groups.EnsurePod(pod)
		}
	}
	w.k.metrics.resizeTook.WithLabelValues(strconv.FormatBool(err == nil)).Observe(float64(time.Since(begun).Milliseconds()))
	done.Err = err
	w.post(done)
}

func (w *worker) resizeContainer(ctx context.Context, pod *v1.Pod, spec *v1.Container, id string) error {
	k := w.k
	if limit := spec.Resources.Limits.Memory().Value(); limit > 0 { // the kernel would kill at once
		used, err := k.memoryUsed(ctx, id)
		if err != nil {
			return err
		}
		if used > limit {
			return fmt.Errorf("cannot decrease memory limits: attempting to set container memory limit (%d) below current usage (%d)", limit, used)
		}
	}
	return k.rt.UpdateContainer(ctx, id, criconfig.Resources(pod, spec, w.qos, k.cgroupFacts()))
}

// memoryUsed is what a container holds of memory that cannot be had back easily, in bytes.
func (k *Kubelet) memoryUsed(ctx context.Context, id string) (int64, error) {
	st, err := k.rt.StatsOf(ctx, id)
	if err != nil {
		return 0, err
	}
	return int64(st.GetMemory().GetWorkingSetBytes().GetValue()), nil
}
