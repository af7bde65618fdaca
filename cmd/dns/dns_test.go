package dns

import (
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
)

// Every directive must be backed by a linked plugin: CoreDNS skips an unknown
// one silently until a Corefile names it.
func TestDirectivesAreLinked(t *testing.T) {
	dnsserver.Directives = directives()
	for _, d := range directives() {
		if _, err := caddy.DirectiveAction("dns", d); err != nil {
			t.Errorf("directive %q has no plugin: %v", d, err)
		}
	}
}
