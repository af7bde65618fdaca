package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Command is a program to run in a host.
type Command struct {
	Argv                  []string
	Env                   []string
	Stdin, Stdout, Stderr *os.File // the program gets these very files
}

// Exec runs a program in the host and returns its exit code, 128+n where signal n ended it.
// When ctx ends, so does the program.
func Exec(ctx context.Context, socket string, cmd Command, signals <-chan os.Signal) (int, error) {
	c, err := Dial(ctx, socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.Send(Request{Op: OpExec, Argv: cmd.Argv, Env: cmd.Env}, cmd.Stdin, cmd.Stdout, cmd.Stderr); err != nil {
		return 0, err
	}
	return c.wait(ctx, signals)
}

// wait hands signals on until the program has ended.
func (c *Conn) wait(ctx context.Context, signals <-chan os.Signal) (int, error) {
	type end struct {
		reply Reply
		err   error
	}
	ended := make(chan end, 1)
	go func() {
		var e end
		_, e.err = c.Receive(&e.reply)
		ended <- e
	}()
	for {
		select {
		case <-ctx.Done():
			c.Close()
			<-ended
			return 0, ctx.Err()
		case s := <-signals:
			if n, ok := s.(unix.Signal); ok {
				_ = c.Send(Request{Signal: int(n)}) // if the connection is gone, ended says so
			}
		case e := <-ended:
			switch {
			case e.err != nil:
				return 0, fmt.Errorf("the host went away: %w", e.err)
			case e.reply.Error != "":
				return 0, errors.New(e.reply.Error)
			case e.reply.Exit == nil:
				return 0, errors.New("the supervisor sent no exit code")
			}
			return *e.reply.Exit, nil
		}
	}
}

// Run runs a program without input in the host and copies all that it prints to out. A non-zero
// exit is an error that ends with the last lines printed.
func Run(ctx context.Context, socket string, out io.Writer, argv ...string) error {
	return RunInput(ctx, socket, nil, out, argv...)
}

// RunWith is Run with variables, as NAME=VALUE, added to the host's environment: the place for secrets, which others
// on the host could read from arguments.
func RunWith(ctx context.Context, socket string, env []string, out io.Writer, argv ...string) error {
	return run(ctx, socket, Command{Argv: argv, Env: env}, nil, out)
}

// RunInput is Run with a file as input.
func RunInput(ctx context.Context, socket string, in *os.File, out io.Writer, argv ...string) error {
	return run(ctx, socket, Command{Argv: argv}, in, out)
}

func run(ctx context.Context, socket string, c Command, in *os.File, out io.Writer) error {
	if in == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return fmt.Errorf("open no input: %w", err)
		}
		defer null.Close()
		in = null
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	var buf bytes.Buffer
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(io.MultiWriter(&buf, out), r)
	}()
	c.Stdin, c.Stdout, c.Stderr = in, w, w
	code, err := Exec(ctx, socket, c, nil)
	w.Close()
	if err != nil {
		r.Close() // a grandchild may still hold the other end
	}
	<-copied
	r.Close()
	what := filepath.Base(c.Argv[0])
	if len(c.Argv) > 1 {
		what += " " + c.Argv[1]
	}
	if err != nil {
		return fmt.Errorf("%s: %w; last it said: %s", what, err, tail(buf.String(), 1))
	}
	if code != 0 {
		return fmt.Errorf("%s: exit code %d: %s", what, code, tail(buf.String(), 5))
	}
	return nil
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Terminal runs a program in the host on a terminal of its own, joined to the caller's.
func Terminal(ctx context.Context, socket string, cmd Command) (int, error) {
	c, err := Dial(ctx, socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.Send(Request{Op: OpExec, Argv: cmd.Argv, Env: cmd.Env, TTY: true}); err != nil {
		return 0, err
	}
	var r Reply
	files, err := c.Receive(&r)
	defer CloseAll(files)
	if err != nil {
		return 0, err
	}
	if r.Error != "" {
		return 0, errors.New(r.Error)
	}
	if len(files) != 1 {
		return 0, fmt.Errorf("the supervisor sent %d terminals", len(files))
	}
	master, in := files[0], int(cmd.Stdin.Fd())
	old, err := term.MakeRaw(in)
	if err != nil {
		return 0, fmt.Errorf("prepare the terminal: %w", err)
	}
	defer term.Restore(in, old)
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, unix.SIGWINCH)
	defer signal.Stop(winch)
	go func() {
		for range winch {
			copySize(in, int(master.Fd()))
		}
	}()
	copySize(in, int(master.Fd()))
	go io.Copy(master, cmd.Stdin) // ends with this process: nothing can interrupt a read of a terminal
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		_, _ = io.Copy(cmd.Stdout, master) // ends with EIO when the last holder of the other side has closed it
	}()
	code, err := c.wait(ctx, nil)
	if err == nil {
		<-printed
	}
	return code, err
}

func copySize(from, to int) {
	if ws, err := unix.IoctlGetWinsize(from, unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(to, unix.TIOCSWINSZ, ws)
	}
}
