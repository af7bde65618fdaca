package server

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Amount is a part of a file system.
type Amount struct{ Bytes, Inodes uint64 }

// Storage is what one pod has stored on the node. What was not measured yet is absent.
type Storage struct {
	// Volumes are its volumes, with the file systems that they lie on.
	Volumes []stats.VolumeStats
	// At is when it was counted what the pod has on the node's own disk; zero is never. Local counts its volumes there,
	// and Logs what its containers wrote, by their names.
	At    time.Time
	Local Amount
	Logs  map[string]Amount
}

// addStorage tells of every pod what it stores. Disk is the node's own.
func addStorage(sum *stats.Summary, stored map[types.UID]Storage) {
	for i := range sum.Pods {
		p := &sum.Pods[i]
		s, ok := stored[types.UID(p.PodRef.UID)]
		if !ok {
			continue
		}
		p.VolumeStats = s.Volumes
		if s.At.IsZero() {
			continue
		}
		whole := on(sum.Node.Fs, s.At)
		used, inodes := s.Local.Bytes, s.Local.Inodes
		for j := range p.Containers {
			c := &p.Containers[j]
			if l, ok := s.Logs[c.Name]; ok {
				c.Logs = on(sum.Node.Fs, s.At)
				c.Logs.UsedBytes, c.Logs.InodesUsed = &l.Bytes, &l.Inodes
				used, inodes = used+l.Bytes, inodes+l.Inodes
			}
			if c.Rootfs != nil {
				used, inodes = used+value(c.Rootfs.UsedBytes), inodes+value(c.Rootfs.InodesUsed)
			}
		}
		whole.UsedBytes, whole.InodesUsed = &used, &inodes
		p.EphemeralStorage = whole
	}
}

// on is a part of a file system, of which the use is still to be told.
func on(fs *stats.FsStats, at time.Time) *stats.FsStats {
	if fs == nil {
		return &stats.FsStats{Time: metav1.NewTime(at)}
	}
	return &stats.FsStats{Time: metav1.NewTime(at), AvailableBytes: fs.AvailableBytes, CapacityBytes: fs.CapacityBytes, Inodes: fs.Inodes, InodesFree: fs.InodesFree}
}

func value(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

// OfFileSystem asks the file system that holds path; nothing is walked through.
func OfFileSystem(path string, now time.Time) (*stats.FsStats, error) { return fsStats(path, now) }
