// Package debianvm boots a stock Debian 12 in qemu and runs commands in it.
//
// The processor is emulated, so a machine needs nothing of the host but qemu, and is some ten times slower than it.
// Packets stay within qemu's own user-mode network: the host sees a process with sockets on its loopback. Nothing here
// is of Orlop; what is to be tested comes in as files.
package debianvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Config says what machine this is.
type Config struct {
	// Name is the host name.
	Name string
	// Cache keeps the installed system from one run to the next, some 600 MB. Required.
	Cache string
	// Dir holds this machine's disk and logs. Required.
	Dir string
	// Files are files and folders to put into the system, by the path that they get there.
	Files map[string]string
	// Text are files by their content.
	Text map[string]string
	// Ports are TCP ports of the machine that the host reaches, besides SSH.
	Ports []uint16
	// MemoryMiB and CPUs are the machine's size.
	MemoryMiB, CPUs int
}

// Machine is a machine that runs.
type Machine struct {
	cfg     Config
	ports   map[uint16]string
	qemu    *exec.Cmd
	stopped chan struct{} // closed when qemu has ended
	login   *ssh.ClientConfig
}

const (
	sshPort = 22
	// loginLimit bounds a login; one takes a second or two where the host has other work.
	loginLimit = 30 * time.Second
)

// Boot makes a disk and starts a machine from it. It returns when root can log in.
func Boot(ctx context.Context, cfg Config) (*Machine, error) {
	d, err := makeDisk(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	m := &Machine{cfg: cfg, ports: map[uint16]string{}, stopped: make(chan struct{}), login: &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(d.key)}, HostKeyCallback: ssh.FixedHostKey(d.host),
		HostKeyAlgorithms: []string{d.host.Type()},
	}}
	if err := m.start(d); err != nil {
		return nil, err
	}
	if err := m.AwaitLogin(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Machine) start(d disk) error {
	network := "user,id=wire"
	for _, p := range append([]uint16{sshPort}, m.cfg.Ports...) {
		free, err := freePort()
		if err != nil {
			return err
		}
		m.ports[p] = free
		network += fmt.Sprintf(",hostfwd=tcp:%s-:%d", free, p)
	}
	log, err := os.Create(filepath.Join(m.cfg.Dir, "qemu.log"))
	if err != nil {
		return fmt.Errorf("make qemu's log: %w", err)
	}
	defer log.Close()
	m.qemu = exec.Command("qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", // wider vectors cost more to emulate than they save
		"-smp", strconv.Itoa(m.cfg.CPUs), "-m", strconv.Itoa(m.cfg.MemoryMiB), "-rtc", "base=utc",
		"-kernel", d.kernel, "-initrd", d.initrd, "-append", "root=LABEL=root rw console=ttyS0 quiet",
		"-drive", "file="+d.image+",if=virtio,format=raw,cache=unsafe",
		"-netdev", network, "-device", "virtio-net-pci,netdev=wire", "-device", "virtio-rng-pci",
		"-serial", "file:"+m.Console())
	m.qemu.Stdout, m.qemu.Stderr = log, log
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no machine outlives its test
	if err := m.qemu.Start(); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	go func() { // ends with qemu
		_ = m.qemu.Wait()
		close(m.stopped)
	}()
	return nil
}

// Console is the file that the machine's serial console is written to.
func (m *Machine) Console() string { return filepath.Join(m.cfg.Dir, "console.log") }

// Port is where the host reaches a port of the machine.
func (m *Machine) Port(port uint16) string { return m.ports[port] }

// AwaitLogin waits until root can log in.
func (m *Machine) AwaitLogin(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := m.Run(try, "true")
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a login: %w (last: %v; console: %s)", ctx.Err(), err, m.lastWords())
		case <-m.stopped:
			return fmt.Errorf("wait for a login: qemu ended (console: %s)", m.lastWords())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (m *Machine) lastWords() string {
	text, err := os.ReadFile(m.Console())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-1000):]))
}

// Reboot restarts the machine as its owner would, and waits until root can log in again.
func (m *Machine) Reboot(ctx context.Context) error {
	before, err := m.bootID(ctx)
	if err != nil {
		return err
	}
	_, _ = m.Run(ctx, "systemctl reboot") // the answer may get lost
	for {
		if err := m.AwaitLogin(ctx); err != nil {
			return err
		}
		if now, err := m.bootID(ctx); err == nil && now != before {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the reboot: %w", ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

func (m *Machine) bootID(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return m.Run(ctx, "cat /proc/sys/kernel/random/boot_id")
}

// Run runs a shell script as root and returns what it wrote to both streams.
func (m *Machine) Run(ctx context.Context, script string) (string, error) {
	client, err := m.dial(ctx)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	defer client.Close()
	var out []byte
	done := make(chan error, 1)
	go func() { // ends with the connection
		session, err := client.NewSession()
		if err == nil {
			out, err = session.CombinedOutput(script)
		}
		done <- err
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		client.Close()
		<-done
		err = ctx.Err()
	}
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w\n%s", script, err, text)
	}
	return text, nil
}

// dial logs in: once for each script, so that nothing of a machine that has rebooted is left over.
func (m *Machine) dial(ctx context.Context) (*ssh.Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", m.ports[sshPort])
	if err != nil {
		return nil, err
	}
	// qemu accepts before anybody in the machine does.
	if err := conn.SetDeadline(time.Now().Add(loginLimit)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c, channels, requests, err := ssh.NewClientConn(conn, m.ports[sshPort], m.login)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return ssh.NewClient(c, channels, requests), nil
}

// Close takes the machine's power and removes its disk; its logs stay.
func (m *Machine) Close() error {
	_ = m.qemu.Process.Kill() // it may have ended
	<-m.stopped
	return os.Remove(filepath.Join(m.cfg.Dir, "disk.img"))
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
