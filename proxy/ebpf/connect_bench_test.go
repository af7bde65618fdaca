package ebpf

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/socklb"
)

// BenchmarkKernelConnect is what connect costs by itself: a socket of UDP, which has nothing to send for it, that connects to a backend's own address, without
// and with the programs, and to a service. Medians of rounds.
func BenchmarkKernelConnect(b *testing.B) {
	r := newRig(b)
	for range b.N {
		bare := r.ask(order{Network: "cost", Times: 300, Addr: "10.10.0.1:8080"})
		r.set(service(0, 1, 2))
		got := r.ask(order{Network: "cost", Times: 300, Addr: "10.10.0.1:8080 " + vip + ":80"})
		r.lb.Close()
		if err := socklb.Remove(r.pins); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(bare.Answers["10.10.0.1:8080"]), "bare-ns")
		b.ReportMetric(float64(got.Answers["10.10.0.1:8080"]), "direct-ns")
		b.ReportMetric(float64(got.Answers[vip+":80"]), "service-ns")
		b.ReportMetric(0, "ns/op")
		r.open()
	}
}

// costs times connects to each address in the process that it runs in, on one processor, in ns.
func costs(rounds int, addrs []string, into map[string]int) error {
	runtime.LockOSThread()
	var cpu unix.CPUSet
	cpu.Set(0)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	all := map[string][]time.Duration{}
	for range rounds {
		for _, name := range addrs {
			ap := netip.MustParseAddrPort(name)
			sa := &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
			start := time.Now()
			for range 200 {
				if err := unix.Connect(fd, sa); err != nil {
					return err
				}
			}
			all[name] = append(all[name], time.Since(start)/200)
		}
	}
	for name, list := range all {
		slices.Sort(list)
		into[name] = int(list[len(list)/2])
	}
	return nil
}
