package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cmd/localcluster"
	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

// onHost is a command that does one thing to one host.
func onHost(use, short string, f func(ctx context.Context, cluster, host string) error) *cobra.Command {
	var name string
	e := &env{getenv: os.Getenv}
	cmd := &cobra.Command{
		Use: use + " NODE", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := e.hostCluster(name, args[0])
			if err != nil {
				return err
			}
			return f(cmd.Context(), name, args[0])
		},
	}
	return nameFlag(cmd, &name)
}

func stopCommand() *cobra.Command {
	return onHost("stop", "Cut a host's power: all its processes end at once, its disk stays", localcluster.Stop)
}

func startCommand() *cobra.Command {
	return onHost("start", "Boot a host that was stopped", localcluster.Start)
}

func execCommand(e *env) *cobra.Command {
	var name string
	var tty bool
	cmd := &cobra.Command{
		Use:               "exec NODE -- COMMAND [ARG...]",
		Short:             "Run a command on a host",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			argv := args[1:]
			if argv[0] == "--" { // flags end at NODE, so the dashes behind it come here
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return usageError("exec: no command behind --")
			}
			return e.onHost(cmd.Context(), name, args[0], argv, tty)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	return nameFlag(cmd, &name)
}

func shellCommand(e *env) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:               "shell NODE",
		Short:             "Open a shell on a host",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			shell := "/bin/sh"
			if _, err := os.Stat("/bin/bash"); err == nil {
				shell = "/bin/bash"
			}
			return e.onHost(cmd.Context(), name, args[0], []string{shell}, e.isTerminal(e.stdin))
		},
	}
	return nameFlag(cmd, &name)
}

// onHost runs a command on a host and ends as it does.
func (e *env) onHost(ctx context.Context, name, host string, argv []string, tty bool) error {
	name, err := e.hostCluster(name, host)
	if err != nil {
		return err
	}
	c := control.Command{Argv: argv, Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr}
	if t := e.getenv("TERM"); t != "" {
		c.Env = append(c.Env, "TERM="+t)
	}
	// Signals are the command's: it decides what to make of them.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	var code int
	if tty {
		if !e.isTerminal(e.stdin) {
			return usageError("--tty: standard input is no terminal")
		}
		code, err = localcluster.RunOnTerminal(context.WithoutCancel(ctx), name, host, c)
	} else {
		code, err = localcluster.Run(context.WithoutCancel(ctx), name, host, c, signals)
	}
	if err == nil && code != 0 {
		err = exitCode(code)
	}
	return err
}

func loadCommand(e *env) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "load FILE|-",
		Short: "Load images from an OCI or docker archive into every host",
		Example: `  docker save my-image | orlop load -
  orlop load --name a image.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := e.cluster(name)
			if err != nil {
				return err
			}
			archive := args[0]
			if archive == "-" {
				// Each host reads it, so it has to be a file.
				if archive, err = e.spool(name); err != nil {
					return err
				}
				defer os.Remove(archive)
			}
			return localcluster.Load(cmd.Context(), name, archive)
		},
	}
	return nameFlag(cmd, &name)
}

func (e *env) spool(name string) (path string, err error) {
	f, err := os.CreateTemp(layout.StateDir(name), "load-*.tar")
	if err != nil {
		return "", fmt.Errorf("keep the archive: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(f, e.stdin); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("keep the archive: %w", err)
	}
	return f.Name(), nil
}

func kubeconfigCommand(e *env) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig for the cluster alone",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			name, err := e.cluster(name)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(layout.AdminKubeconfig(name))
			if err != nil {
				return fmt.Errorf("read kubeconfig: %w", err)
			}
			_, err = e.stdout.Write(b)
			return err
		},
	}
	return nameFlag(cmd, &name)
}

// etcdPKI is where kubeadm puts etcd's certificates.
func etcdPKI(file string) string { return filepath.Join("/etc/kubernetes/pki/etcd", file) }
