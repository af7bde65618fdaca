// Package control is how commands talk to the supervisor of a host: one request a connection,
// over a unix socket that keeps message boundaries, with open files passed along.
//
// It owns the wire format and both ends of the connection. What a request does is the
// supervisor's business.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Operations a supervisor knows.
const (
	OpStatus = "status"
	OpExec   = "exec"
	OpDial   = "dial"
)

// maxMessage bounds a request; the kernel's own bound for one packet is a little lower.
const maxMessage = 200 << 10

// Request is what a client sends first, and for a running exec, again to send it a signal.
type Request struct {
	Op      string   `json:"op,omitempty"`
	Argv    []string `json:"argv,omitempty"`
	Env     []string `json:"env,omitempty"` // added to the host's own
	TTY     bool     `json:"tty,omitempty"` // the supervisor makes a terminal and returns its master; otherwise three files come along
	Network string   `json:"network,omitempty"`
	Address string   `json:"address,omitempty"`
	Signal  int      `json:"signal,omitempty"`
}

// Reply is what a supervisor sends.
type Reply struct {
	Error  string  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
	Exit   *int    `json:"exit,omitempty"`
}

// Status is how a host is.
type Status struct {
	Host       string    `json:"host"`
	Pid        int       `json:"pid"`
	BootedAt   time.Time `json:"bootedAt"`
	Containerd Service   `json:"containerd"`
	Kubelet    Service   `json:"kubelet"`
}

// Service is how one supervised program is.
type Service struct {
	Pid      int  `json:"pid,omitempty"` // 0 while it is not running
	Ready    bool `json:"ready"`
	Restarts int  `json:"restarts"`
}

// Conn is one end of a connection.
type Conn struct{ c *net.UnixConn }

// Dial connects to the supervisor that listens at socket.
func Dial(ctx context.Context, socket string) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return nil, fmt.Errorf("reach the host's supervisor: %w", err)
	}
	return &Conn{c.(*net.UnixConn)}, nil
}

// Accepted wraps a connection that a supervisor accepted.
func Accepted(c *net.UnixConn) *Conn { return &Conn{c} }

// Listen makes the socket anew and listens on it. Only root can connect.
func Listen(socket string) (*net.UnixListener, error) {
	_ = os.Remove(socket)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", socket, err)
	}
	l.SetUnlinkOnClose(false) // by then the path means another file, in the host's own /run
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("close %s to others: %w", socket, err)
	}
	return l, nil
}

// Close ends the connection; an exec that runs on it is ended too.
func (c *Conn) Close() error { return c.c.Close() }

// Send sends one message and copies of the files.
func (c *Conn) Send(msg any, files ...*os.File) error {
	b, err := json.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes: at most %d pass", len(b), maxMessage)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Receive reads one message. The caller owns the files.
func (c *Conn) Receive(msg any) (files []*os.File, err error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := c.c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, fmt.Errorf("receive message: %w", err)
	}
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, fmt.Errorf("receive files: %w", err)
		}
		for _, m := range msgs {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				continue
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "received"))
			}
		}
	}
	if err := json.Unmarshal(b[:n], msg); err != nil {
		CloseAll(files)
		return nil, fmt.Errorf("decode message: %w", err)
	}
	return files, nil
}

// CloseAll closes files that came with a message.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// ask sends a request and waits for one reply, at most until ctx ends.
func ask(ctx context.Context, socket string, req Request) (Reply, []*os.File, error) {
	c, err := Dial(ctx, socket)
	if err != nil {
		return Reply{}, nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := c.Send(req); err != nil {
		return Reply{}, nil, err
	}
	var r Reply
	files, err := c.Receive(&r)
	if err == nil && r.Error != "" {
		CloseAll(files)
		return r, nil, errors.New(r.Error)
	}
	if ctx.Err() != nil && err != nil {
		return r, files, ctx.Err()
	}
	return r, files, err
}

// Ask returns the status of the host whose supervisor listens at socket.
func Ask(ctx context.Context, socket string) (Status, error) {
	r, files, err := ask(ctx, socket, Request{Op: OpStatus})
	CloseAll(files)
	if err == nil && r.Status == nil {
		err = errors.New("the supervisor sent no status")
	}
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// DialIn connects to address from within the host: its socket belongs to the host's network and cgroup.
func DialIn(ctx context.Context, socket, network, address string) (net.Conn, error) {
	_, files, err := ask(ctx, socket, Request{Op: OpDial, Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	defer CloseAll(files)
	if len(files) != 1 {
		return nil, fmt.Errorf("dial %s in the host: got %d sockets", address, len(files))
	}
	c, err := net.FileConn(files[0])
	if err != nil {
		return nil, fmt.Errorf("dial %s in the host: %w", address, err)
	}
	return c, nil
}
