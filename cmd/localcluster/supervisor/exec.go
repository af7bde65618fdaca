package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"golang.org/x/sys/unix"
)

// killAfter is what a program has to end itself when its caller has gone.
const killAfter = 2 * time.Second

// adminConf is there on control-plane hosts.
const adminConf = "/etc/kubernetes/admin.conf"

// exec runs a program as our child until it ends, or its caller goes away.
func (s *Supervisor) exec(c *control.Conn, req control.Request, files []*os.File) error {
	if len(req.Argv) == 0 {
		return fmt.Errorf("no command")
	}
	env := append([]string{}, s.env...)
	if _, err := os.Stat(adminConf); err == nil {
		env = append(env, "KUBECONFIG="+adminConf)
	}
	env = append(env, req.Env...)
	path, err := lookPath(req.Argv[0], env)
	if err != nil {
		return err
	}
	attr := &syscall.ProcAttr{Dir: "/", Env: env, Sys: &syscall.SysProcAttr{Setsid: true}}
	var master *os.File
	if req.TTY {
		var slave *os.File
		if master, slave, err = openPTY(); err != nil {
			return err
		}
		defer master.Close()
		defer slave.Close()
		files = []*os.File{slave, slave, slave}
		attr.Sys.Setctty = true // descriptor 0
	}
	if len(files) != 3 {
		return fmt.Errorf("exec wants 3 files, got %d", len(files))
	}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	pid, ended, err := s.reaper.start(append([]string{path}, req.Argv[1:]...), attr)
	if err != nil {
		return err
	}
	// Ours would keep the caller from ever seeing the end of the output.
	control.CloseAll(files)
	if master != nil {
		if err := c.Send(control.Reply{}, master); err != nil {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			return err
		}
		master.Close()
	}
	code := s.attend(c, pid, ended)
	return c.Send(control.Reply{Exit: &code})
}

// attend passes signals on to the program and returns its exit code.
func (s *Supervisor) attend(c *control.Conn, pid int, ended <-chan syscall.WaitStatus) int {
	signals, over := make(chan syscall.Signal), make(chan struct{})
	defer close(over)
	go func() { // ends when exec's caller or answer closes the connection
		defer close(signals)
		for {
			var r control.Request
			files, err := c.Receive(&r)
			control.CloseAll(files)
			if err != nil {
				return
			}
			select {
			case signals <- syscall.Signal(r.Signal):
			case <-over:
				return
			}
		}
	}()
	var kill <-chan time.Time
	for {
		select {
		case ws := <-ended:
			return exitCode(ws)
		case sig, ok := <-signals:
			if !ok {
				signals, kill = nil, time.After(killAfter)
				_ = syscall.Kill(-pid, syscall.SIGHUP)
				sig = syscall.SIGTERM
			}
			_ = syscall.Kill(-pid, sig)
		case <-kill:
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
	}
}

// lookPath finds a program as a shell with env would.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		dirs, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			p := filepath.Join(dir, name)
			if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("%s: command not found", name)
}

// openPTY makes a terminal. Neither end becomes the supervisor's own.
func openPTY() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("number the terminal: %w", err)
	}
	sfd, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open the terminal: %w", err)
	}
	return master, os.NewFile(uintptr(sfd), "pts"), nil
}
