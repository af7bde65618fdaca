// Package node keeps this node's object in the API: what it is, what it has to give, how it is,
// and its lease, by which others see that it lives.
package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/orlop-io/orlop/kubelet/measure"
)

// Machine is what the hardware and the system are.
type Machine struct {
	CPUs     int
	Memory   int64 // bytes
	Swap     int64
	CgroupV2 bool
	Info     v1.NodeSystemInfo
}

// Inspect looks at the machine.
func Inspect() (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU()}
	info, err := measure.Memory()
	if err != nil {
		return m, err
	}
	m.Memory, m.Swap = info["MemTotal"], info["SwapTotal"]
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	m.CgroupV2 = err == nil
	m.Info = v1.NodeSystemInfo{
		MachineID: first("/etc/machine-id", "/var/lib/dbus/machine-id"), SystemUUID: first("/sys/class/dmi/id/product_uuid", "/etc/machine-id"),
		BootID: first("/proc/sys/kernel/random/boot_id"), OSImage: osImage(), OperatingSystem: "linux", Architecture: runtime.GOARCH,
	}
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return m, fmt.Errorf("ask kernel version: %w", err)
	}
	var release strings.Builder
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release.WriteByte(byte(c))
	}
	m.Info.KernelVersion = release.String()
	return m, nil
}

func first(files ...string) string {
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && len(text) > 0 {
			return strings.TrimSpace(string(text))
		}
	}
	return ""
}

func osImage() string {
	for line := range strings.Lines(first("/etc/os-release", "/usr/lib/os-release")) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "linux"
}

// Addresses finds the node's own address where none was given: that of the interface with the
// default route, or else the first that is neither loopback nor link-local.
func Addresses() ([]string, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	preferred := defaultInterface()
	var out []string
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 || preferred != "" && i.Name != preferred {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
				out = append(out, n.IP.String())
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no address of this node found: give --node-ip")
	}
	return out[:1], nil
}

func defaultInterface() string {
	for line := range strings.Lines(first("/proc/net/route")) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}

// Capacity is all that the machine has.
func (m Machine) Capacity(cfg Config) v1.ResourceList {
	out := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(m.Memory, resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(cfg.MaxPods, resource.DecimalSI),
	}
	var fs syscall.Statfs_t
	if syscall.Statfs(cfg.RootDir, &fs) == nil {
		out[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI)
	}
	dirs, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, d := range dirs {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(d), "hugepages-"), "kB"), 10, 64)
		n, err2 := strconv.ParseInt(first(filepath.Join(d, "nr_hugepages")), 10, 64)
		if err == nil && err2 == nil {
			size := resource.NewQuantity(kb<<10, resource.BinarySI)
			out[v1.ResourceName(v1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(n*kb<<10, resource.BinarySI)
		}
	}
	return out
}
