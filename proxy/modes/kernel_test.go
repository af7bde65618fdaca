package modes

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/iptables"
	"github.com/orlop-io/orlop/proxy/nft"
	"github.com/orlop-io/orlop/proxy/proxytest"
	"github.com/orlop-io/orlop/proxy/userspace"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(wantVariable); text != "" {
		os.Exit(benchClient(text))
	}
	proxytest.Main(m)
}

func TestKernelIptables(t *testing.T) {
	for _, flavour := range []iptables.Flavour{iptables.NFT, iptables.Legacy} {
		t.Run(string(flavour), func(t *testing.T) {
			first, ended := true, uint(0)
			proxytest.Suite(t, proxytest.Mode{
				Name: proxy.ModeIptables, Changes: 20, Lacks: proxy.Lacks(proxy.ModeIptables),
				Open: func(r *proxytest.Rig) proxytest.Backend {
					if first { // a kubelet has been here
						out, err := exec.Command("iptables-"+string(flavour), "-t", "mangle", "-N", "KUBE-KUBELET-CANARY").CombinedOutput()
						if err != nil {
							r.T.Fatalf("%v: %s", err, out)
						}
					}
					first = false
					b, err := iptables.Open(iptables.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
					r.Must(err)
					if b.Flavour() != flavour {
						r.T.Fatalf("uses flavour %s, want the kubelet's, %s", b.Flavour(), flavour)
					}
					b.SetNode(proxytest.NodeOf())
					b.TellFlows(func(_ bool, n uint, _ time.Duration) { ended += n })
					return b
				},
				Remove: func(*proxytest.Rig) error { return iptables.Remove("") },
				Left:   func(*proxytest.Rig) (string, error) { return saved(flavour) },
			})
			if ended == 0 {
				t.Error("of no flow it was told that it ended")
			}
		})
	}
}

// saved is all that iptables of a flavour shows, but for what it always shows and the kubelet's sign.
func saved(flavour iptables.Flavour) (string, error) {
	var left []string
	for _, v := range []string{"iptables-", "ip6tables-"} {
		out, err := exec.Command(v + string(flavour) + "-save").Output()
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "*") && !strings.HasPrefix(line, "COMMIT") && !strings.Contains(line, " ACCEPT [") && !strings.Contains(line, "CANARY") {
				left = append(left, line)
			}
		}
	}
	return strings.Join(left, ""), nil
}

func TestKernelUserspace(t *testing.T) {
	var b *userspace.Backend
	stop := func() {}
	proxytest.Suite(t, proxytest.Mode{
		Name: proxy.ModeUserspace, Changes: 100, Lacks: proxy.Lacks(proxy.ModeUserspace),
		Open: func(r *proxytest.Rig) proxytest.Backend {
			var err error
			b, err = userspace.Open(userspace.Config{
				Capture: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd96::/112")},
				In:      r.Node.Do, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
				Unserved: func(port string, at netip.AddrPort, err error) {
					r.T.Errorf("%s is not served at %s: %v", port, at, err)
				},
			})
			r.Must(err)
			b.SetNode(proxytest.NodeOf())
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = b.Run(ctx)
			}()
			stop = func() { cancel(); <-done }
			return b
		},
		Remove: func(*proxytest.Rig) error {
			stop()
			return userspace.Remove()
		},
		Left: func(r *proxytest.Rig) (string, error) {
			routes, err := userspace.Routes()
			if len(routes) > 0 {
				return fmt.Sprint(routes), err
			}
			if out := r.Ask(r.Node, "tcp", "127.0.0.1:30080", 1); len(out.Failed) == 0 {
				return "a listener", err
			}
			return "", err
		},
	})
}

func TestKernelNftables(t *testing.T) {
	lacks := proxy.Lacks(proxy.ModeNftables)
	lacks[proxy.PacketCounts] = true // where nobody wants them; where somebody does is tested in package nft
	ended := uint(0)
	proxytest.Suite(t, proxytest.Mode{
		Name: proxy.ModeNftables, Changes: 100, Lacks: lacks,
		Open: func(*proxytest.Rig) proxytest.Backend {
			b := nft.New(proxy.Everywhere)
			b.SetNode(proxytest.NodeOf())
			b.TellFlows(func(_ bool, n uint, _ time.Duration) { ended += n })
			return b
		},
		Remove: func(*proxytest.Rig) error { return nft.Remove() },
		Left: func(*proxytest.Rig) (string, error) {
			conn, err := nftables.New()
			if err != nil {
				return "", err
			}
			tables, err := conn.ListTables()
			if err != nil || len(tables) == 0 {
				return "", err
			}
			return tables[0].Name, nil
		},
	})
	if ended == 0 {
		t.Error("of no flow it was told that it ended")
	}
}
