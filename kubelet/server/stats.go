package server

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	sum, err := s.gather(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if only, err := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory")); (err != nil || !only) && s.cfg.Storage != nil {
		addStorage(sum, s.cfg.Storage(r.Context()))
	}
	if only, err := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory")); err == nil && only {
		sum.Node.Fs, sum.Node.Runtime, sum.Node.Network = nil, nil, nil
		for i := range sum.Pods {
			p := &sum.Pods[i]
			p.Network, p.EphemeralStorage, p.VolumeStats = nil, nil, nil
			for j := range p.Containers {
				p.Containers[j].Rootfs, p.Containers[j].Logs = nil, nil
			}
		}
	}
	s.json(w, sum)
}

// gather asks the runtime, and the kernel for the node as a whole.
func (s *Server) gather(ctx context.Context) (*stats.Summary, error) {
	sandboxes, err := s.cfg.Runtime.SandboxStats(ctx)
	if err != nil {
		return nil, err
	}
	node, err := s.usage.read(time.Now())
	if err != nil {
		return nil, err
	}
	node.NodeName = s.cfg.NodeName
	if node.Fs, err = fsStats(s.cfg.RootDir, time.Now()); err != nil {
		return nil, err
	}
	node.Runtime = &stats.RuntimeStats{}
	if images, err := s.cfg.Runtime.ImageFs(ctx); err == nil && len(images) > 0 {
		if at := images[0].GetFsId().GetMountpoint(); at != "" {
			if fs, err := fsStats(at, time.Now()); err == nil {
				fs.UsedBytes = number(images[0].UsedBytes)
				node.Runtime.ImageFs = fs
			}
		}
	}
	return &stats.Summary{Node: node, Pods: summarize(sandboxes, s.cfg.Pods())}, nil
}

// summarize joins what the runtime measured with what the kubelet knows. Of a pod with several sandboxes only the
// newest counts: the others are being removed, and readers take each pod to come once.
func summarize(sandboxes []*runtimeapi.PodSandboxStats, pods []*v1.Pod) []stats.PodStats {
	known := map[string]*v1.Pod{}
	for _, p := range pods {
		known[p.Namespace+"/"+p.Name] = p
	}
	newest := map[string]*runtimeapi.PodSandboxStats{}
	for _, b := range sandboxes {
		if m := b.GetAttributes().GetMetadata(); m != nil {
			name := m.Namespace + "/" + m.Name
			if have := newest[name]; have == nil || have.Attributes.Metadata.Attempt < m.Attempt {
				newest[name] = b
			}
		}
	}
	out := make([]stats.PodStats, 0, len(newest))
	for _, name := range slices.Sorted(maps.Keys(newest)) {
		ps := podStats(newest[name])
		if p := known[name]; p != nil {
			addStarts(&ps, p)
		}
		out = append(out, ps)
	}
	return out
}

func addStarts(ps *stats.PodStats, p *v1.Pod) {
	if p.Status.StartTime != nil {
		ps.StartTime = *p.Status.StartTime
	}
	for i := range ps.Containers {
		c := &ps.Containers[i]
		if st := containerStatus(p, c.Name); st != nil && st.State.Running != nil {
			c.StartTime = st.State.Running.StartedAt
		}
	}
}

func podStats(b *runtimeapi.PodSandboxStats) stats.PodStats {
	m := b.Attributes.Metadata
	out := stats.PodStats{
		PodRef:     stats.PodReference{Name: m.Name, Namespace: m.Namespace, UID: m.Uid},
		Containers: []stats.ContainerStats{},
	}
	linux := b.GetLinux()
	out.CPU, out.Memory = cpuStats(linux.GetCpu()), memoryStats(linux.GetMemory())
	if n := linux.GetNetwork(); n != nil {
		out.Network = &stats.NetworkStats{Time: stamp(n.Timestamp)}
		if d := n.DefaultInterface; d != nil {
			out.Network.InterfaceStats = interfaceStats(d)
		}
		for _, i := range n.Interfaces {
			out.Network.Interfaces = append(out.Network.Interfaces, interfaceStats(i))
		}
	}
	if p := linux.GetProcess(); p != nil {
		out.ProcessStats = &stats.ProcessStats{ProcessCount: number(p.ProcessCount)}
	}
	var written uint64
	for _, c := range linux.GetContainers() {
		cs := stats.ContainerStats{
			Name:   c.GetAttributes().GetMetadata().GetName(),
			CPU:    cpuStats(c.GetCpu()),
			Memory: memoryStats(c.GetMemory()),
		}
		if l := c.GetWritableLayer(); l != nil {
			cs.Rootfs = &stats.FsStats{Time: stamp(l.Timestamp), UsedBytes: number(l.UsedBytes), InodesUsed: number(l.InodesUsed)}
			written += l.GetUsedBytes().GetValue()
		}
		out.Containers = append(out.Containers, cs)
	}
	out.EphemeralStorage = &stats.FsStats{Time: metav1.Now(), UsedBytes: &written}
	return out
}

func stamp(nanos int64) metav1.Time { return metav1.NewTime(time.Unix(0, nanos)) }

func number(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

func cpuStats(c *runtimeapi.CpuUsage) *stats.CPUStats {
	if c == nil {
		return nil
	}
	return &stats.CPUStats{Time: stamp(c.Timestamp), UsageNanoCores: number(c.UsageNanoCores), UsageCoreNanoSeconds: number(c.UsageCoreNanoSeconds)}
}

func memoryStats(m *runtimeapi.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time: stamp(m.Timestamp), WorkingSetBytes: number(m.WorkingSetBytes), AvailableBytes: number(m.AvailableBytes),
		UsageBytes: number(m.UsageBytes), RSSBytes: number(m.RssBytes), PageFaults: number(m.PageFaults), MajorPageFaults: number(m.MajorPageFaults),
	}
}

func interfaceStats(i *runtimeapi.NetworkInterfaceUsage) stats.InterfaceStats {
	return stats.InterfaceStats{
		Name: i.Name, RxBytes: number(i.RxBytes), RxErrors: number(i.RxErrors), TxBytes: number(i.TxBytes), TxErrors: number(i.TxErrors),
	}
}

// fsStats asks the file system that holds path; nothing is walked through.
func fsStats(path string, now time.Time) (*stats.FsStats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, err
	}
	unit := uint64(st.Bsize)
	available, capacity, used := st.Bavail*unit, st.Blocks*unit, (st.Blocks-st.Bfree)*unit
	inodes, inodesFree, inodesUsed := st.Files, st.Ffree, st.Files-st.Ffree
	return &stats.FsStats{
		Time: metav1.NewTime(now), AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &inodesFree, InodesUsed: &inodesUsed,
	}, nil
}
