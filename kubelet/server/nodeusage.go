package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// nodeUsage reads what the node uses as a whole, and keeps the last reading to tell the rate since.
type nodeUsage struct {
	mu    sync.Mutex
	at    time.Time
	total uint64
	rate  *uint64
}

// rateOver is the shortest time a rate is told over; what is asked for more often gets the last rate again.
const rateOver = 5 * time.Second

func (n *nodeUsage) read(now time.Time) (stats.NodeStats, error) {
	total, err := cpuTotal()
	if err != nil {
		return stats.NodeStats{}, err
	}
	memory, err := memoryNow(now)
	if err != nil {
		return stats.NodeStats{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if passed := now.Sub(n.at); n.at.IsZero() || passed >= rateOver {
		if !n.at.IsZero() && total >= n.total {
			rate := uint64(float64(total-n.total) / passed.Seconds())
			n.rate = &rate
		}
		n.at, n.total = now, total
	}
	return stats.NodeStats{
		StartTime: bootTime(),
		CPU:       &stats.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &total, UsageNanoCores: n.rate},
		Memory:    memory,
	}, nil
}

// cpuTotal is the CPU time used since boot, in nanoseconds: by the cgroup tree's root as this process sees it, which on
// a machine shared by several nodes is this node's.
func cpuTotal() (uint64, error) {
	if raw, err := os.ReadFile("/sys/fs/cgroup/cpuacct/cpuacct.usage"); err == nil {
		return strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	}
	values, err := keyed("/sys/fs/cgroup/cpu.stat")
	if errors.Is(err, fs.ErrNotExist) {
		return cpuFromProc()
	}
	return values["usage_usec"] * 1000, err
}

// cpuFromProc adds up /proc/stat's first line, which counts in hundredths of a second: all but idle and iowait.
func cpuFromProc() (uint64, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := bytes.Cut(raw, []byte{'\n'})
	var ticks uint64
	for i, field := range strings.Fields(string(first)) {
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		ticks += n
	}
	return ticks * uint64(10*time.Millisecond), nil
}

// memoryNow reads the node's memory. The working set is what could not be given back at once, which is what the node
// runs out of.
func memoryNow(now time.Time) (*stats.MemoryStats, error) {
	info, err := keyed("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	const kib = 1024
	usage := (info["MemTotal"] - info["MemFree"]) * kib
	inactive := info["Inactive(file)"] * kib
	working := usage - min(usage, inactive)
	available := info["MemTotal"]*kib - working
	rss := info["AnonPages"] * kib
	return &stats.MemoryStats{
		Time: metav1.NewTime(now), UsageBytes: &usage, WorkingSetBytes: &working, AvailableBytes: &available, RSSBytes: &rss,
	}, nil
}

// keyed reads a file of lines with a name and a number.
func keyed(path string) (map[string]uint64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for scan := bufio.NewScanner(bytes.NewReader(raw)); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			out[strings.TrimSuffix(fields[0], ":")] = n
		}
	}
	return out, nil
}

func bootTime() metav1.Time {
	values, err := keyed("/proc/stat")
	if err != nil {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Unix(int64(values["btime"]), 0))
}
