package proxytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

const orderVariable = "ORLOP_TEST_ASK"

// order is what a client in a process of its own does.
type order struct {
	Network, Addr string
	Times         int
}

// Outcome is what a client met.
type Outcome struct {
	Who    map[string]int // who answered
	Saw    map[string]int // whom those saw as the client
	Failed map[string]int // by error
}

// Main is for TestMain of packages whose clients must be processes of their own, because a socket belongs to the cgroup of the process that makes
// it: they are the test binary, started again in the cgroup.
func Main(m *testing.M) {
	if text := os.Getenv(orderVariable); text != "" {
		var o order
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		if err := json.NewEncoder(os.Stdout).Encode(o.do()); err != nil {
			os.Exit(2)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Ask asks so many times from ns, each by a connection of its own.
func (r *Rig) Ask(ns *netnstest.NS, network, addr string, times int) (out Outcome) {
	r.T.Helper()
	o := order{network, addr, times}
	if r.Cgroup == "" || ns == r.Outside {
		_ = ns.Do(func() error {
			out = o.do()
			return nil
		})
		return out
	}
	text, err := json.Marshal(o)
	r.Must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{orderVariable + "=" + string(text)}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, os.Stderr
	r.Must(ns.StartIn(r.Cgroup, cmd))
	r.Must(cmd.Wait())
	r.Must(json.Unmarshal(said.Bytes(), &out))
	return out
}

func (o order) do() Outcome {
	out := Outcome{map[string]int{}, map[string]int{}, map[string]int{}}
	for range o.Times {
		answer, err := once(o.Network, o.Addr)
		if err != nil {
			var no syscall.Errno
			if errors.As(err, &no) {
				err = no
			} else if os.IsTimeout(err) {
				err = os.ErrDeadlineExceeded
			}
			out.Failed[err.Error()]++
			continue
		}
		a, b, _ := strings.Cut(answer, "<")
		out.Who[a]++
		out.Saw[b]++
	}
	return out
}

func once(network, addr string) (string, error) {
	d := net.Dialer{Timeout: time.Second}
	d.SetMultipathTCP(false)
	c, err := d.Dial(network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}
