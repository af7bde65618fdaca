// Command orlop-cni is the CNI plugin: what it does is in package plugin. Under the name "loopback" it brings up lo. "orlop-cni ipam" shows
// and mends the leases.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/orlop-io/orlop/cni/plugin"
)

var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	// The process lives for some milliseconds and does one thing after the other: a collection, or threads that look for
	// work, would be a good part of them.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(1)
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
	cerr := skel.PluginMainFuncsWithError(funcs, plugin.Versions(), "Orlop CNI plugin "+version)
	if cerr == nil {
		return 0
	}
	if err := cerr.Print(); err != nil {
		fmt.Fprintln(os.Stderr, "print error:", err)
	}
	return 1
}
