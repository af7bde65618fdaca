package proxytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	UntilEOF      bool // go on until stdin ends
	Unconnected   bool // by a socket that does not connect; whom the client saw is whom the answer came from
	Wait          time.Duration
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
		stop := make(chan struct{})
		if o.UntilEOF {
			go func() {
				_, _ = io.Copy(io.Discard, os.Stdin)
				close(stop)
			}()
		}
		if err := json.NewEncoder(os.Stdout).Encode(o.do(stop)); err != nil {
			os.Exit(2)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Ask asks so many times from ns, each by a connection of its own: of UDP too no two come from one port, which conntrack would take for one.
func (r *Rig) Ask(ns *netnstest.NS, network, addr string, times int) Outcome {
	r.T.Helper()
	return r.start(ns, order{Network: network, Addr: addr, Times: times, Wait: time.Second})()
}

// AskInVain asks once, and does not wait long for an answer that is not to come.
func (r *Rig) AskInVain(ns *netnstest.NS, network, addr string) Outcome {
	r.T.Helper()
	return r.start(ns, order{Network: network, Addr: addr, Times: 1, Wait: 300 * time.Millisecond})()
}

// Client asks from ns, each by a connection of its own, until finish is called.
func (r *Rig) Client(ns *netnstest.NS, network, addr string) (finish func() Outcome) {
	r.T.Helper()
	return r.start(ns, order{Network: network, Addr: addr, UntilEOF: true, Wait: time.Second})
}

func (r *Rig) start(ns *netnstest.NS, o order) (finish func() Outcome) {
	r.T.Helper()
	if r.Cgroup == "" || ns == r.Outside {
		stop, done := make(chan struct{}), make(chan Outcome)
		go func() {
			_ = ns.Do(func() error {
				done <- o.do(stop)
				return nil
			})
		}()
		return func() Outcome {
			close(stop)
			return <-done
		}
	}
	text, err := json.Marshal(o)
	r.Must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{orderVariable + "=" + string(text)}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, os.Stderr
	stdin, err := cmd.StdinPipe()
	r.Must(err)
	r.Must(ns.StartIn(r.Cgroup, cmd))
	return func() (out Outcome) {
		r.T.Helper()
		stdin.Close()
		r.Must(cmd.Wait())
		r.Must(json.Unmarshal(said.Bytes(), &out))
		return out
	}
}

func (o order) do(stop <-chan struct{}) Outcome {
	out := Outcome{map[string]int{}, map[string]int{}, map[string]int{}}
	var open []net.Conn // its port is nobody else's until it is closed
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := 0; o.UntilEOF || i < o.Times; i++ {
		if o.UntilEOF {
			select {
			case <-stop:
				return out
			case <-time.After(time.Millisecond): // so few that no port of the client comes round again
			}
		}
		c, answer, err := o.once()
		if c != nil && o.Network == "udp" && !o.UntilEOF {
			open = append(open, c)
		} else if c != nil {
			c.Close()
		}
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

func (o order) once() (net.Conn, string, error) {
	if o.Unconnected {
		return o.onceUnconnected()
	}
	d := net.Dialer{Timeout: o.Wait}
	d.SetMultipathTCP(false)
	c, err := d.Dial(o.Network, o.Addr)
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(o.Wait))
	if o.Network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return c, "", err
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return c, string(buf[:n]), err
}

func (o order) onceUnconnected() (net.Conn, string, error) {
	to, err := net.ResolveUDPAddr(o.Network, o.Addr)
	if err != nil {
		return nil, "", err
	}
	c, err := net.ListenUDP(o.Network, nil)
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(o.Wait))
	if _, err := c.WriteTo([]byte("?"), to); err != nil {
		return c, "", err
	}
	buf := make([]byte, 100)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		return c, "", err
	}
	who, _, _ := strings.Cut(string(buf[:n]), "<")
	return c, who + "<" + from.String(), nil
}
