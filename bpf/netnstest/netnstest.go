// Package netnstest makes network namespaces for tests, and runs code and programs in them.
//
// A namespace lives as long as its test and has no name, so nothing is left behind whatever happens to the test.
package netnstest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// RequireRoot skips the test for want of root, or fails it where ORLOP_REQUIRE says that kernel tests must run.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel") {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// NS is a network namespace with lo up.
type NS struct {
	t  testing.TB
	ns netns.NsHandle
	NL *netlink.Handle // a netlink socket in it
}

// New makes a namespace that goes when the test ends.
func New(t testing.TB) *NS {
	t.Helper()
	RequireRoot(t)
	n := &NS{t: t, ns: netns.None()}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		n.ns, err = netns.Get()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n.NL, err = netlink.NewHandleAt(n.ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.NL.Close()
		n.ns.Close()
	})
	lo, err := n.NL.LinkByName("lo")
	if err == nil {
		err = n.NL.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Path names the namespace for other processes, while the test runs.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.ns)) }

// FD is the namespace's descriptor, open while the test runs.
func (n *NS) FD() int { return int(n.ns) }

// Do runs f on a thread in the namespace. Sockets that f opens stay in it.
func (n *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Start starts a program in the namespace; what it starts is there too.
func (n *NS) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// onThread runs f on a thread of its own, which dies after it: no other goroutine meets its namespace.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
