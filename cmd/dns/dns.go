// Package dns is the cluster's DNS server: CoreDNS as a library, with the
// plugins that Kubernetes' DNS specification and its usual Corefile need.
//
// It owns nothing but the choice and order of plugins. Flags, Corefile syntax,
// ports and metrics are CoreDNS's own.
package dns

import (
	"os"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	// Each import registers one plugin under its name in a Corefile.
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// directives is the order in which a query passes the plugins; it is
// CoreDNS's own order, cut down to those linked in.
func directives() []string {
	return []string{
		"reload", "health", "ready", "prometheus", "errors", "log",
		"loadbalance", "cache", "hosts", "kubernetes", "loop", "forward",
	}
}

// Main runs CoreDNS with its own flags (-conf, -dns.port, ...) until a signal
// ends it. It does not return while the server runs, and exits the process
// when the Corefile is wrong: CoreDNS's entry point works on the process's
// arguments and exit code, not on values.
func Main(args []string) {
	os.Args = append([]string{"coredns"}, args...)
	dnsserver.Directives = directives()
	coremain.Run()
}
