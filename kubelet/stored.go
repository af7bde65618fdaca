package kubelet

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/orlop-io/orlop/kubelet/criconfig"
	"github.com/orlop-io/orlop/kubelet/eviction"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/measure"
	"github.com/orlop-io/orlop/kubelet/server"
)

const (
	// countedFor is how long a count of what a pod has stored holds.
	countedFor = time.Minute
	// countWithin is how long one who asks waits for pods to be counted that never were.
	countWithin = 300 * time.Millisecond
	// countShare is the part of the time that counting may take: one in so many.
	countShare = 20
)

// count is what a pod has on the node's own disk, counted file by file.
type count struct {
	at            time.Time
	volumes, logs map[string]eviction.VolumeUse
}

// countStored counts it now.
func (w *worker) countStored(ctx context.Context) (*count, error) {
	s := &w.shown.Load().state
	c := &count{at: time.Now()}
	var err error
	if c.volumes, err = measure.Volumes(ctx, filepath.Join(w.k.cfg.RootDir, "pods", string(w.uid))); err != nil {
		return nil, fmt.Errorf("measure pod: %w", err)
	}
	if c.logs, err = measure.Logs(ctx, criconfig.LogDir(w.k.cfg.PodLogsDir, s.Pod.Namespace, s.Pod.Name, s.Pod.UID)); err != nil {
		return nil, fmt.Errorf("measure pod: %w", err)
	}
	w.counted.Store(c)
	return c, nil
}

// storage tells of all pods what they have stored. Counts that are old are told nevertheless, and made anew for the next
// who asks: nothing is counted while nobody does.
func (k *Kubelet) storage(ctx context.Context) map[types.UID]server.Storage {
	patience, cancel := context.WithTimeout(ctx, countWithin)
	defer cancel()
	out := map[types.UID]server.Storage{}
	old := false
	for _, w := range k.all() {
		v := w.shown.Load()
		if v.state.Stage >= lifecycle.Finished {
			continue
		}
		c := w.counted.Load()
		if c == nil && patience.Err() == nil {
			c, _ = w.countStored(patience) // else later
		}
		old = old || c == nil || time.Since(c.at) > countedFor
		s := server.Storage{Volumes: w.volumeStats(c), Logs: map[string]server.Amount{}}
		if c != nil {
			s.At = c.at
			for _, u := range c.volumes {
				s.Local.Bytes, s.Local.Inodes = s.Local.Bytes+uint64(u.Bytes), s.Local.Inodes+uint64(u.Inodes)
			}
			for name, u := range c.logs {
				s.Logs[name] = server.Amount{Bytes: uint64(u.Bytes), Inodes: uint64(u.Inodes)}
			}
		}
		out[w.uid] = s
	}
	if old && k.counting.CompareAndSwap(false, true) {
		k.group.Go(func() {
			defer k.counting.Store(false)
			k.countOld(k.ctx)
		})
	}
	return out
}

// countOld counts anew what was counted too long ago, one pod after the other and with rests between.
func (k *Kubelet) countOld(ctx context.Context) {
	for _, w := range k.all() {
		if c := w.counted.Load(); c != nil && time.Since(c.at) <= countedFor || w.shown.Load().state.Stage >= lifecycle.Finished {
			continue
		}
		begun := time.Now()
		if _, err := w.countStored(ctx); err != nil && ctx.Err() == nil {
			w.log.Debug("count what the pod has stored", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After((countShare - 1) * time.Since(begun)):
		}
	}
}

// volumeStats tells of the pod's volumes. Those with a file system of their own, and claims, are asked by statfs; of the
// others it is told what was counted.
func (w *worker) volumeStats(c *count) []stats.VolumeStats {
	mounts := w.mounts.Load()
	if mounts == nil {
		return nil
	}
	var out []stats.VolumeStats
	pod := w.shown.Load().state.Pod
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		m, ok := (*mounts)[vol.Name]
		if !ok || vol.HostPath != nil || vol.Image != nil { // the node's own, and the image's, are not the pod's use
			continue
		}
		fs, err := server.OfFileSystem(m.HostPath, time.Now())
		if err != nil {
			w.log.Debug("measure volume", "volume", vol.Name, "err", err)
			continue
		}
		v := stats.VolumeStats{Name: vol.Name, FsStats: *fs}
		claim := claimOf(pod, vol)
		if claim != "" {
			v.PVCRef = &stats.PVCReference{Name: claim, Namespace: pod.Namespace}
		}
		if claim == "" && sameDisk(m.HostPath, w.k.cfg.RootDir) {
			v.UsedBytes, v.InodesUsed = nil, nil
			if c != nil {
				u := c.volumes[vol.Name]
				bytes, inodes := uint64(u.Bytes), uint64(u.Inodes)
				v.UsedBytes, v.InodesUsed = &bytes, &inodes
			}
		}
		out = append(out, v)
	}
	return out
}

// claimOf is the claim that a volume is of; empty for all other kinds.
func claimOf(pod *v1.Pod, vol *v1.Volume) string {
	switch {
	case vol.PersistentVolumeClaim != nil:
		return vol.PersistentVolumeClaim.ClaimName
	case vol.Ephemeral != nil:
		return pod.Name + "-" + vol.Name
	}
	return ""
}

// sameDisk says whether two paths are on one file system.
func sameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}

// volumeMetrics tells of claims' volumes, by statfs when somebody asks.
type volumeMetrics struct {
	k    *Kubelet
	desc []*prometheus.Desc
	of   []func(*stats.FsStats) *uint64
}

func newVolumeMetrics(k *Kubelet) *volumeMetrics {
	m := &volumeMetrics{k: k}
	for _, d := range []struct {
		name, help string
		of         func(*stats.FsStats) *uint64
	}{
		{"capacity_bytes", "Capacity in bytes of the volume", func(f *stats.FsStats) *uint64 { return f.CapacityBytes }},
		{"available_bytes", "Number of available bytes in the volume", func(f *stats.FsStats) *uint64 { return f.AvailableBytes }},
		{"used_bytes", "Number of used bytes in the volume", func(f *stats.FsStats) *uint64 { return f.UsedBytes }},
		{"inodes", "Maximum number of inodes in the volume", func(f *stats.FsStats) *uint64 { return f.Inodes }},
		{"inodes_free", "Number of free inodes in the volume", func(f *stats.FsStats) *uint64 { return f.InodesFree }},
		{"inodes_used", "Number of used inodes in the volume", func(f *stats.FsStats) *uint64 { return f.InodesUsed }},
	} {
		m.desc = append(m.desc, prometheus.NewDesc("kubelet_volume_stats_"+d.name, d.help, []string{"namespace", "persistentvolumeclaim"}, nil))
		m.of = append(m.of, d.of)
	}
	return m
}

// Describe names the metrics.
func (m *volumeMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range m.desc {
		out <- d
	}
}

// Collect measures each claim that a pod here uses, once.
func (m *volumeMetrics) Collect(out chan<- prometheus.Metric) {
	seen := map[stats.PVCReference]bool{}
	for _, w := range m.k.all() {
		for _, v := range w.claimStats() {
			if seen[*v.PVCRef] {
				continue
			}
			seen[*v.PVCRef] = true
			for i, d := range m.desc {
				if n := m.of[i](&v.FsStats); n != nil {
					out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(*n), v.PVCRef.Namespace, v.PVCRef.Name)
				}
			}
		}
	}
}

// claimStats are the stats of the pod's claims alone.
func (w *worker) claimStats() []stats.VolumeStats {
	pod := w.shown.Load().state.Pod
	for i := range pod.Spec.Volumes {
		if claimOf(pod, &pod.Spec.Volumes[i]) == "" {
			continue
		}
		var out []stats.VolumeStats
		for _, v := range w.volumeStats(nil) {
			if v.PVCRef != nil {
				out = append(out, v)
			}
		}
		return out
	}
	return nil
}
