// Command orlop-server holds the control plane. It is the component under whose name it is called, or that its first
// argument names.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cmd/apiserver"
	"github.com/orlop-io/orlop/cmd/controllers"
	"github.com/orlop-io/orlop/cmd/dns"
	"github.com/orlop-io/orlop/cmd/etcd"
	"github.com/orlop-io/orlop/cmd/scheduler"
)

// version is set at link time.
var version = "dev"

// program is one component. Exactly one of its functions is set: command for our own components, main for servers
// that read flags and handle signals themselves.
type program struct {
	name    string
	command func(version string) *cobra.Command
	main    func(args []string)
}

func programs() []program {
	return []program{
		{name: "etcd", main: etcd.Main},
		{name: "kube-apiserver", command: apiserver.NewCommand},
		{name: "kube-controller-manager", command: controllers.NewCommand},
		{name: "kube-scheduler", command: scheduler.NewCommand},
		{name: "coredns", main: dns.Main},
	}
}

func main() { os.Exit(run(context.Background(), os.Args, os.Stderr)) }

func run(ctx context.Context, argv []string, stderr io.Writer) int {
	p, args, err := pick(programs(), argv)
	if err != nil {
		fmt.Fprintln(stderr, "orlop-server:", err)
		return 2
	}
	if p.main != nil {
		p.main(args)
		return 0
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cmd := p.command(version)
	cmd.SetArgs(args)
	cmd.SilenceErrors = true // told below, once
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.name, err)
		return 1
	}
	return 0
}

// pick finds the component by the name of the program or else by its first argument, and returns the arguments after it.
func pick(all []program, argv []string) (program, []string, error) {
	for i := range min(len(argv), 2) {
		for _, p := range all {
			if filepath.Base(argv[i]) == p.name {
				return p, argv[i+1:], nil
			}
		}
	}
	var names []string
	for _, p := range all {
		names = append(names, p.name)
	}
	return program{}, nil, fmt.Errorf("name a component: %s", strings.Join(names, ", "))
}
