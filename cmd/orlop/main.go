// Command orlop is what a person runs: local clusters, the bootstrap of real ones, and kubectl
// and etcdctl with the cluster's credentials set.
//
// Exit codes: 1 error, 2 usage, 3 the machine lacks something (preflight), 4 timeout. Commands
// that run another program exit as it does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/orlop-io/orlop/cmd/bootstrap"
	"github.com/orlop-io/orlop/cmd/localcluster"
)

var version = "dev"

// env is the outside world, as far as commands need it.
type env struct {
	stdin          *os.File
	stdout, stderr *os.File
	getenv         func(string) string
	exe            string
	version        string
}

// exitCode is an error that says nothing: another program has said it.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }
func (c exitCode) ExitCode() int { return int(c) }

func main() {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "find my own program:", err)
		os.Exit(1)
	}
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, exe: exe, version: version}
	os.Exit(run(context.Background(), e, os.Args[1:]))
}

// run is the program without the process around it.
func run(ctx context.Context, e *env, args []string) int {
	if len(args) > 0 {
		// These live as long as a host; they must not carry all of kubectl's commands in memory.
		switch args[0] {
		case localcluster.SuperviseCommand:
			return hidden(ctx, e, args[1:], localcluster.Supervise)
		case localcluster.ForwardCommand:
			return hidden(ctx, e, args[1:], localcluster.Forward)
		case etcdctlCommand:
			return etcdctlHere(args[1:])
		}
		// kubectl and etcdctl read signals and flags for themselves.
		if args[0] == "kubectl" {
			return kubectl(e, args[1:])
		}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	parsed := false
	root := newRoot(e, &parsed)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return code(e.stderr, err, parsed)
}

func hidden(ctx context.Context, e *env, args []string, f func(context.Context, []string) error) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return code(e.stderr, f(ctx, args), true)
}

// code tells an error and turns it into the program's exit code.
func code(stderr io.Writer, err error, parsed bool) int {
	if err == nil {
		return 0
	}
	if quiet := exitCode(0); errors.As(err, &quiet) {
		return int(quiet)
	}
	fmt.Fprintln(stderr, "orlop:", err)
	if !parsed {
		return localcluster.ExitUsage
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}

func newRoot(e *env, parsed *bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "orlop",
		Short: "Kubernetes from the lowest deck up",
		Long: `Orlop runs Kubernetes: a whole cluster on this machine ("orlop up"), or on hosts of
your own ("orlop init", "orlop join").

Exit codes: 1 error, 2 usage, 3 the machine lacks something, 4 timeout.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		// What fails before this, failed on the command line.
		PersistentPreRun: func(*cobra.Command, []string) { *parsed = true },
	}
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.AddGroup(&cobra.Group{ID: "local", Title: "Clusters on this machine:"},
		&cobra.Group{ID: "inside", Title: "In a cluster:"},
		&cobra.Group{ID: "host", Title: "This host as a node:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("local", upCommand(e), downCommand(e), listCommand(e), statusCommand(e), stopCommand(), startCommand())
	add("inside", execCommand(e), shellCommand(e), loadCommand(e), demoCommand(e), kubeconfigCommand(e), kubectlCommand(e), etcdctlShell(e))
	add("host", bootstrap.Commands(e.version)...)
	root.AddCommand(&cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintln(e.stdout, "orlop", e.version) },
	})
	return root
}

func (e *env) isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// progress writes steps to out, prettily on a terminal.
func (e *env) progress(out *os.File) *localcluster.Progress {
	terminal := e.isTerminal(out) && e.getenv("TERM") != "dumb"
	return &localcluster.Progress{Out: out, Terminal: terminal, Color: terminal && e.getenv("NO_COLOR") == ""}
}
