package kubelet

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/volumes"
)

// storing is a pod with a claim, a directory of its own and one of the node's.
func storing(t *testing.T, k *Kubelet, name string) *worker {
	t.Helper()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	claim := v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}
	pod.Spec.Volumes = []v1.Volume{{Name: "claimed", VolumeSource: claim}, {Name: "own", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "node", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/"}}}, {Name: "later", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	own := filepath.Join(k.cfg.RootDir, "pods", string(pod.UID), "volumes", "kubernetes.io~empty-dir", "own")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "file"), make([]byte, 20000), 0o600); err != nil {
		t.Fatal(err)
	}
	w := k.newWorker(pod, false, lifecycle.New(pod, time.Now()))
	w.mounts.Store(&map[string]volumes.Mount{"claimed": {HostPath: t.TempDir()}, "own": {HostPath: own}, "node": {HostPath: "/"}})
	k.workers[pod.UID] = w
	return w
}

// Claims are asked by statfs, directories of the pod are counted, and nothing is told of the node's own or of what is not there.
func TestVolumeStats(t *testing.T) {
	k := measured(t)
	k.cfg.RootDir, k.cfg.PodLogsDir = t.TempDir(), t.TempDir()
	w := storing(t, k, "p")
	got := k.storage(t.Context())[w.uid]
	if len(got.Volumes) != 2 || got.Volumes[0].Name != "claimed" || got.Volumes[1].Name != "own" {
		t.Fatalf("volumes %+v", got.Volumes)
	}
	c, own := got.Volumes[0], got.Volumes[1]
	if c.PVCRef == nil || c.PVCRef.Name != "claim" || c.CapacityBytes == nil || *c.CapacityBytes == 0 || c.UsedBytes == nil {
		t.Errorf("claim %+v", c)
	}
	if own.PVCRef != nil || *own.UsedBytes < 20000 || *own.UsedBytes > 200000 || *own.InodesUsed != 2 || *own.CapacityBytes == 0 {
		t.Errorf("own directory: %d bytes, %d inodes", *own.UsedBytes, *own.InodesUsed)
	}
	if got.At.IsZero() || got.Local.Bytes != *own.UsedBytes {
		t.Errorf("the pod has %+v", got)
	}
	m := only(scrape(t, k), "volume_stats")
	for _, name := range []string{"capacity_bytes", "available_bytes", "used_bytes", "inodes", "inodes_free", "inodes_used"} {
		if m[`volume_stats_`+name+`{namespace="ns",persistentvolumeclaim="claim"}`] == 0 {
			t.Errorf("no %s of the claim among %v", name, m)
		}
	}
}

// Nothing is counted while nobody asks, and for those who do not more often than once a minute.
func TestStorageIsCountedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := measured(t)
		k.cfg.RootDir, k.cfg.PodLogsDir = t.TempDir(), t.TempDir()
		w := storing(t, k, "p")
		k.storage(t.Context())
		first := w.counted.Load()
		for range 5 {
			time.Sleep(countedFor / 6)
			k.storage(t.Context())
			k.group.Wait()
		}
		if w.counted.Load() != first {
			t.Error("it was counted again within the minute")
		}
		time.Sleep(time.Hour)
		if w.counted.Load() != first {
			t.Error("it was counted though nobody asked")
		}
		if at := k.storage(t.Context())[w.uid].At; !at.Equal(first.at) {
			t.Error("who asks waits for it to be counted again")
		}
		k.group.Wait()
		if w.counted.Load() == first {
			t.Error("it was not counted again for the next")
		}
	})
}
