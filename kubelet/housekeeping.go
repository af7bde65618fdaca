package kubelet

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// leftoversAfter is how long after the start the remains of pods on disk are looked for.
const leftoversAfter = 5 * time.Second

// housekeeping does what time alone makes due: growing logs, full disks, ageing tokens, remains of
// pods on disk.
func (k *Kubelet) housekeeping(ctx context.Context) error {
	if err := k.groups.EnsureRoot(k.allocatable()); err != nil {
		k.log.Warn("make cgroups of pods", "err", err)
	}
	// A kubelet that died may have left something half removed; by then the sources have been read.
	leftovers := time.NewTimer(leftoversAfter)
	defer leftovers.Stop()
	logs, refresh, gc := time.NewTicker(10*time.Second), time.NewTicker(time.Minute), time.NewTicker(5*time.Minute)
	defer logs.Stop()
	defer refresh.Stop()
	defer gc.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-leftovers.C:
			k.dropLeftovers(ctx)
		case <-logs.C:
			k.rotateLogs(ctx)
		case <-refresh.C:
			for _, w := range k.all() {
				w.refresh()
			}
			k.dropLeftovers(ctx)
		case <-gc.C:
			if err := k.collectImages(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn("image garbage collection", "err", err)
				k.events.Node(true, "ImageGCFailed", err.Error())
			}
		}
	}
}

// allocatable is what the node has for pods; before it is registered, all that the machine has.
func (k *Kubelet) allocatable() v1.ResourceList {
	if n := k.sync.node.Load(); n != nil {
		return n.Allocatable()
	}
	return v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(k.facts.CPUs), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(k.facts.Memory, resource.BinarySI),
	}
}

// refresh brings the contents of the pod's volumes up to date; again, if that is being done already.
func (w *worker) refresh() {
	v := w.shown.Load()
	if v.state.Stage != lifecycle.Active || v.state.Volumes != lifecycle.Done {
		return
	}
	if w.refreshes.Add(1) > 1 {
		return
	}
	w.k.group.Go(func() {
		for seen := int32(0); !w.refreshes.CompareAndSwap(seen, 0); {
			seen = w.refreshes.Load()
			w.refreshOnce()
		}
	})
}

func (w *worker) refreshOnce() {
	ctx, cancel := context.WithTimeout(w.k.ctx, time.Minute)
	defer cancel()
	if v := w.shown.Load(); v.state.Stage == lifecycle.Active {
		w.warn("refresh volumes", w.k.vols.Refresh(ctx, v.state.Pod, w.k.volumeInputs()))
	}
}

// dropLeftovers gives back volumes and cgroups of pods that are nowhere any more.
func (k *Kubelet) dropLeftovers(ctx context.Context) {
	if k.cfg.Connect != nil && !k.sync.listed.Load() {
		return // a pod that is to come may own them
	}
	onDisk, err := k.vols.PodUIDs()
	inGroups, groupErr := k.groups.Pods()
	if err = errors.Join(err, groupErr); err != nil {
		k.log.Warn("look for remains of pods", "err", err)
	}
	for _, uid := range append(onDisk, inGroups...) {
		if k.knows(uid) {
			continue
		}
		if err := errors.Join(k.vols.Teardown(ctx, uid), k.groups.RemovePod(ctx, uid)); err != nil {
			k.log.Warn("remove remains of pod", "uid", uid, "err", err)
		}
	}
	k.dropLogs()
}

// knows says whether a pod is, or may yet be, one of this node's.
func (k *Kubelet) knows(uid types.UID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid] != nil || k.found[uid] != nil || k.wantedLocked(uid)
}

// dropLogs removes logs of pods that are nowhere any more.
func (k *Kubelet) dropLogs() {
	entries, err := os.ReadDir(k.cfg.PodLogsDir)
	if err != nil {
		k.log.Warn("look for remains of logs", "err", err)
	}
	for _, e := range entries { // namespace_name_uid
		if part := strings.Split(e.Name(), "_"); len(part) != 3 || k.knows(types.UID(part[2])) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(k.cfg.PodLogsDir, e.Name())); err != nil {
			k.log.Warn("remove logs of pod", "err", err)
		}
	}
	k.pruneLogLinks()
}

// linkLog makes the name by which log collectors find a container's log.
func (k *Kubelet) linkLog(pod *v1.Pod, container, id, logPath string) {
	name := fmt.Sprintf("%s_%s_%s-%s.log", pod.Name, pod.Namespace, container, id)
	link := filepath.Join(k.cfg.ContainerLogsDir, name)
	if err := os.Symlink(logPath, link); err != nil && !errors.Is(err, os.ErrExist) {
		k.log.Warn("link container log", "err", err)
	}
}

// pruneLogLinks removes links to logs that are gone.
func (k *Kubelet) pruneLogLinks() {
	entries, err := os.ReadDir(k.cfg.ContainerLogsDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		link := filepath.Join(k.cfg.ContainerLogsDir, e.Name())
		if _, err := os.Stat(link); errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(link) // another may have been faster
		}
	}
}

// rotateLogs moves away the logs of running containers that have grown too large.
func (k *Kubelet) rotateLogs(ctx context.Context) {
	for _, w := range k.all() {
		s := &w.shown.Load().state
		for i := range s.Containers {
			c := &s.Containers[i]
			if c.Phase != lifecycle.Running || c.Facts.LogPath == "" {
				continue
			}
			st, err := os.Stat(c.Facts.LogPath)
			if err != nil || st.Size() <= k.cfg.LogMaxSize {
				continue
			}
			if err := k.rotate(ctx, c.Facts.ID, c.Facts.LogPath); err != nil {
				w.log.Warn("rotate log", "container", c.Name, "err", err)
			}
		}
	}
}

func (k *Kubelet) rotate(ctx context.Context, id, path string) error {
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old) // names are times
	for _, f := range old[:max(0, len(old)-(k.cfg.LogMaxFiles-2))] {
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("remove old log: %w", err)
		}
	}
	for _, f := range old[max(0, len(old)-(k.cfg.LogMaxFiles-2)):] {
		if filepath.Ext(f) != ".gz" {
			if err := compress(f); err != nil {
				return err
			}
		}
	}
	aside := path + "." + time.Now().Format("20060102-150405")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("move log aside: %w", err)
	}
	if err := k.rt.ReopenLog(ctx, id); err != nil {
		return errors.Join(err, os.Rename(aside, path)) // better too large than lost
	}
	return nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return fmt.Errorf("compress log %s: %w", path, err)
	}
	if err = os.Rename(tmp, path+".gz"); err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	return os.Remove(path)
}

// nodeImages lists at most 50 images, the largest first.
func (k *Kubelet) nodeImages(ctx context.Context) []v1.ContainerImage {
	list, err := k.rt.Images(ctx)
	if err != nil {
		return nil
	}
	var out []v1.ContainerImage
	for _, i := range list {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) > 0 {
			out = append(out, v1.ContainerImage{Names: names[:min(5, len(names))], SizeBytes: int64(i.Size)})
		}
	}
	slices.SortFunc(out, func(a, b v1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Names[0], b.Names[0]))
	})
	return out[:min(50, len(out))]
}

// collectImages removes images that no container uses while their file system is too full.
func (k *Kubelet) collectImages(ctx context.Context) error {
	fs, err := k.rt.ImageFs(ctx)
	if err != nil || len(fs) == 0 {
		return err
	}
	dir := fs[0].GetFsId().GetMountpoint()
	if used(dir) < k.cfg.ImageGCHigh {
		return nil
	}
	list, err := k.rt.Images(ctx)
	if err != nil {
		return err
	}
	containers, err := k.rt.Containers(ctx)
	if err != nil {
		return err
	}
	inUse := map[string]bool{}
	for _, c := range containers {
		inUse[c.ImageRef], inUse[c.GetImage().GetImage()], inUse[c.ImageId] = true, true, true
	}
	slices.SortFunc(list, func(a, b *runtimeapi.Image) int { return cmp.Compare(b.Size, a.Size) })
	for _, i := range list {
		if used(dir) <= k.cfg.ImageGCLow {
			return nil
		}
		// An image of ours has no registry to come back from.
		if i.Pinned || inUse[i.Id] || slices.ContainsFunc(append(slices.Clone(i.RepoTags), i.RepoDigests...), func(n string) bool { return inUse[n] || local(n) }) {
			continue
		}
		if err := k.rt.RemoveImage(ctx, i.Id); err != nil {
			return err
		}
		k.metrics.imagesCollected.WithLabelValues("space").Inc()
	}
	if u := used(dir); u > k.cfg.ImageGCHigh {
		return fmt.Errorf("failed to garbage collect required amount of images: file system of %s is still %d%% full", dir, u)
	}
	return nil
}

func local(image string) bool { return len(image) > 10 && image[:10] == "localhost/" }

// used is how full a file system is in percent; 0 when it cannot be told.
func used(dir string) int {
	var fs syscall.Statfs_t
	if syscall.Statfs(dir, &fs) != nil || fs.Blocks == 0 {
		return 0
	}
	return int(100 - fs.Bavail*100/fs.Blocks)
}
