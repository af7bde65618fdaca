package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
	"golang.org/x/sys/unix"
)

// everything is a configuration in which an ADD has every effect there is.
func everything(port int) map[string]any {
	return map[string]any{
		"podCIDRs": []string{"10.77.0.0/24", "fd77::/64"}, "ipMasq": true, "macspoofchk": true,
		"runtimeConfig": map[string]any{
			"portMappings": []map[string]any{{"hostPort": port, "containerPort": 80, "protocol": "tcp"}},
			"bandwidth":    map[string]any{"ingressRate": 8_000_000, "egressRate": 8_000_000},
		},
	}
}

// Kill ADD before each of its effects in turn. Another container then gets nothing that the first one has, DEL of the first takes
// away all of it and nothing of the second, and the same works without DEL by GC.
func TestKernelADDKilledBeforeEachEffect(t *testing.T) {
	b := newBench(t)
	b.must("ADD", "c0", netnstest.New(t).Path(), everything(9000)) // what is made once for all
	b.must("DEL", "c0", "", everything(9000))
	for n := 1; ; n++ {
		p1, p2 := netnstest.New(t), netnstest.New(t)
		if !b.killed(n, b.command("ADD", "c1", p1.Path(), everything(8080))) {
			t.Logf("%d effects", n-1)
			break
		}
		_, out := b.add("c2", p2, everything(8081))
		b.wantOne("c2", n)
		check := everything(8081)
		if err := json.Unmarshal(out, new(any)); err != nil {
			t.Fatal(err)
		}
		check["prevResult"] = json.RawMessage(out)
		if n%2 == 0 {
			b.must("DEL", "c1", p1.Path(), everything(8080))
		} else {
			gc := everything(8080)
			gc["cni.dev/valid-attachments"] = []map[string]string{{"containerID": "c2", "ifname": "eth0"}}
			b.must("GC", "", "", gc)
		}
		b.must("CHECK", "c2", p2.Path(), check)
		b.must("DEL", "c2", p2.Path(), everything(8081))
		b.wantNothing(fmt.Sprintf("ADD killed before effect %d", n))
		if t.Failed() {
			return
		}
	}
}

// Kill DEL, or GC, before each of its effects in turn. The next one finishes.
func TestKernelDELAndGCKilledBeforeEachEffect(t *testing.T) {
	for _, verb := range []string{"DEL", "GC"} {
		t.Run(verb, func(t *testing.T) {
			b := newBench(t)
			for n := 1; ; n++ {
				pod := netnstest.New(t)
				b.must("ADD", "c1", pod.Path(), everything(8080))
				died := b.killed(n, b.command(verb, "c1", pod.Path(), everything(8080)))
				b.must(verb, "c1", pod.Path(), everything(8080))
				b.wantNothing(fmt.Sprintf("%s killed before effect %d", verb, n))
				if t.Failed() {
					return
				}
				if !died {
					t.Logf("%d effects", n-1)
					break
				}
			}
		})
	}
}

// wantOne says that the store gives one container what no other has.
func (b *bench) wantOne(id string, n int) {
	b.t.Helper()
	leases, err := b.store().List()
	if err != nil {
		b.t.Fatal(err)
	}
	seen := map[string]string{}
	for _, l := range leases {
		for _, a := range l.Addrs {
			if other := seen[a.String()]; other != "" && id == "c2" {
				b.t.Errorf("killed before effect %d: %s is of %s and of %s", n, a, other, l.ContainerID)
			}
			seen[a.String()] = l.ContainerID
		}
	}
}

func (b *bench) store() *ipam.Store {
	b.t.Helper()
	conf := &Config{Name: b.conf["name"].(string), StateDir: b.conf["stateDir"].(string)}
	s, err := storeOf(conf)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// wantNothing says that no container has left anything but links that wait for their namespace.
func (b *bench) wantNothing(after string) {
	b.t.Helper()
	ls, err := b.node.NL.LinkList()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, l := range ls {
		name := l.Attrs().Name
		if strings.HasPrefix(name, limitPrefix) || strings.HasPrefix(name, hostPrefix) && l.Type() == "veth" && l.Attrs().MasterIndex != 0 {
			b.t.Errorf("%s: link %s is left", after, name)
		}
	}
	err = b.node.Do(func() error {
		table := nat.New(b.conf["name"].(string))
		ports, err := table.Published()
		guards, gerr := table.Guards()
		if len(ports) > 0 || len(guards) > 0 {
			b.t.Errorf("%s: host ports %v, guards %v are left", after, ports, guards)
		}
		return errors.Join(err, gerr)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	leases, err := b.store().List()
	faults, ferr := b.store().Verify()
	if err != nil || ferr != nil || len(leases) > 0 || len(faults) > 0 {
		b.t.Errorf("%s: leases %v, faults %v, %v %v", after, leases, faults, err, ferr)
	}
}

// killed runs the plugin and kills it as it is about to have its nth effect on the world outside. It says whether it came so far.
//
// The effects are found by watching the program's system calls, not by hooks in it: none can be forgotten, and the program under test
// is the one that ships.
func (b *bench) killed(n int, cmd *exec.Cmd) (died bool) {
	b.t.Helper()
	stdin, err := os.CreateTemp(b.t.TempDir(), "stdin")
	if err != nil {
		b.t.Fatal(err)
	}
	defer stdin.Close()
	if _, err := stdin.ReadFrom(cmd.Stdin); err != nil {
		b.t.Fatal(err)
	}
	if _, err := stdin.Seek(0, 0); err != nil {
		b.t.Fatal(err)
	}
	cmd.Stdin, cmd.SysProcAttr = stdin, &syscall.SysProcAttr{Ptrace: true}
	err = b.node.Do(func() error { // the thread that starts the program must be the one that watches it
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() { _ = cmd.Process.Release() }()
		died, err = watch(cmd.Process.Pid, n)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return died
}

func watch(pid, n int) (died bool, err error) {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
		return false, fmt.Errorf("wait for the program to start: %w", err)
	}
	options := unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return false, fmt.Errorf("trace: %w", err)
	}
	thread, signal := pid, 0
	for {
		if err := unix.PtraceSyscall(thread, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return died, fmt.Errorf("let the program go on: %w", err)
		}
		signal = 0
		if thread, err = unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil); err != nil {
			return died, fmt.Errorf("wait for the program: %w", err)
		}
		switch {
		case (ws.Exited() || ws.Signaled()) && thread == pid:
			return died, nil
		case !ws.Stopped():
		case ws.StopSignal() == unix.SIGTRAP|0x80:
			if isEffect(thread) {
				if n--; n == 0 {
					died = true
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		case ws.StopSignal() != unix.SIGTRAP && ws.StopSignal() != unix.SIGSTOP:
			signal = int(ws.StopSignal())
		}
	}
}

// isEffect says whether a stopped thread is entering a call that changes something outside its process.
func isEffect(thread int) bool {
	var info struct { // struct ptrace_syscall_info
		op     uint8
		_      [3]uint8
		_      uint32
		_, _   uint64
		number uint64
		args   [6]uint64
		_      [2]uint64
	}
	const getSyscallInfo, entry = 0x420e, 1
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != entry {
		return false
	}
	switch info.number {
	case unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_LINKAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_MKDIRAT, unix.SYS_FTRUNCATE:
		return true
	case unix.SYS_OPENAT:
		return info.args[2]&(unix.O_CREAT|unix.O_TRUNC) != 0
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		return info.args[0] > 2
	}
	return false
}
