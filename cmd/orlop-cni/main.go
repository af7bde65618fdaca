// Command orlop-cni is the CNI plugin: what it does is in package plugin. Under the name "loopback" it brings up lo. "orlop-cni ipam" shows
// and mends the leases.
//
// The kernel starts it at start, in start_amd64.s and start_arm64.s, which puts GOMAXPROCS=01 at the end of the environment and goes on to where a Go program
// starts: nothing here runs beside anything else, and to get a second processor ready, threads for it and all, took a tenth of an ADD. Go's runtime reads that
// before the first line of Go, and from the environment alone. Who sets GOMAXPROCS gets theirs, for the first one counts; the 0 tells ours apart, for
// IPAM plugins are not to inherit it. The stack is as the System V ABI has it (argc, argv, 0, environment, 0, auxiliary vector): all before the second 0 moves down
// by two words, as the stack is aligned to two, and what is added stands there twice. Where the linker is not told of start (-E in the Makefile) the program only starts slower.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/orlop-io/orlop/cni/plugin"
)

var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	deepen()
	if len(os.Args) > 1 && os.Args[1] == "ipam" {
		if err := plugin.RunIPAM(os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "orlop-cni:", err)
			return 1
		}
		return 0
	}
	funcs := plugin.Funcs()
	if filepath.Base(os.Args[0]) == "loopback" {
		funcs = plugin.LoopbackFuncs()
	}
	call := plugin.Call{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, About: "Orlop CNI plugin " + version}
	failed := funcs.Run(call, plugin.Versions())
	if failed == nil {
		return 0
	}
	if err := failed.Print(); err != nil {
		fmt.Fprintln(os.Stderr, "print error:", err)
	}
	return 1
}

// deepen gives the stack at once what it would come to by being copied three times.
//
//go:noinline
func deepen() byte {
	var room [11 << 10]byte
	return room[len(os.Args)]
}
