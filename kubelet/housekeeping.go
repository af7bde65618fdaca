package kubelet

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// leftoversAfter is how long after the start the remains of pods on disk are looked for.
const leftoversAfter = 5 * time.Second

// imagesEvery is how often images are collected: more often where they may not become old, so that their age is kept.
func (k *Kubelet) imagesEvery() time.Duration {
	const most = 5 * time.Minute
	if age := k.cfg.ImageGC.MaxAge; age > 0 {
		return min(max(age/4, time.Second), most)
	}
	return most
}

// housekeeping does what time alone makes due: growing logs, full disks, ageing tokens, remains of
// pods on disk.
func (k *Kubelet) housekeeping(ctx context.Context) error {
	// A kubelet that died may have left something half removed; by then the sources have been read.
	leftovers := time.NewTimer(leftoversAfter)
	defer leftovers.Stop()
	logs, refresh, gc := time.NewTicker(k.cfg.LogEvery), time.NewTicker(time.Minute), time.NewTicker(k.imagesEvery())
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
			k.dropOldInstances()
		case <-gc.C:
			k.collect(ctx)
		}
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
	var group errgroup.Group
	group.SetLimit(max(k.cfg.LogWorkers, 1))
	for _, w := range k.all() {
		s := &w.shown.Load().state
		for i := range s.Containers {
			c := s.Containers[i]
			if c.Phase != lifecycle.Running || c.Facts.LogPath == "" {
				continue
			}
			st, err := os.Stat(c.Facts.LogPath)
			if err != nil || st.Size() <= k.cfg.LogMaxSize {
				continue
			}
			group.Go(func() error {
				if err := k.rotate(ctx, c.Facts.ID, c.Facts.LogPath); err != nil {
					w.log.Warn("rotate log", "container", c.Name, "err", err)
				}
				return nil
			})
		}
	}
	_ = group.Wait() // each failure is told above
}

// rotate moves a log aside, packs those moved before, and keeps as many as may be beside the one being written.
func (k *Kubelet) rotate(ctx context.Context, id, path string) error {
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	drop, pack := logsToDrop(old, k.cfg.LogMaxFiles-2)
	for _, f := range drop {
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("remove old log: %w", err)
		}
	}
	for _, f := range pack {
		if err := compress(f); err != nil {
			return err
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

// logsToDrop sorts the logs that were moved aside before, whose names end in times: those beyond the newest so many, and
// the halves that a kubelet has left that died while it packed one, go; of the others, those not yet packed are to be.
func logsToDrop(old []string, keep int) (drop, pack []string) {
	old = slices.Sorted(slices.Values(old))
	var whole []string
	for _, f := range old {
		if filepath.Ext(f) == ".tmp" || slices.Contains(old, f+".gz") { // the packed one is whole
			drop = append(drop, f)
		} else {
			whole = append(whole, f)
		}
	}
	surplus := max(0, len(whole)-keep)
	drop = append(drop, whole[:surplus]...)
	for _, f := range whole[surplus:] {
		if filepath.Ext(f) != ".gz" {
			pack = append(pack, f)
		}
	}
	return drop, pack
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
