// Package proxy asks Services without a pause, by TCP and UDP, on the node and at node ports from outside, while endpoints come and go a thousand times a
// second and the agent is killed, upgraded, booted and cut off from the API server. Each request that fails, or that another Service's endpoint answers,
// is counted; none is wanted.
package proxy

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/integration/proxyfield"
)

var (
	length   = flag.Duration("for", 10*time.Minute, "how long there is load, in all")
	upgrades = flag.Int("upgrades", 100, "how often the agent is upgraded")
	mode     = flag.String("proxy-mode", "ebpf", "how services are translated: ebpf, nftables, iptables or userspace")
	redirect = flag.String("pod-redirect", "peer", "how packets from outside reach the node's own endpoints: peer, past its stack, or stack")
	old      = flag.String("old", "", "the program of an orlop-agent of another version, to upgrade from; empty: none")
	flips    = flag.Int("flips", 1000, "endpoints that come or go each second")
	away     = flag.Duration("away", 2*time.Minute, "how long there is no agent in the end, besides -for; in mode userspace, and with 0, there is always one")
	pace     = flag.Duration("pace", 5*time.Millisecond, "between requests of one kind: so few that ports do not run out")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "a network namespace needs root")
		if strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel") {
			os.Exit(1)
		}
		os.Exit(0)
	}
	code, again, err := proxyfield.Private(os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if !again {
		code = m.Run()
	}
	os.Exit(code)
}

// bin is the folder of the programs to test.
func bin(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("ORLOP_BIN"); dir != "" {
		return dir
	}
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// agentArgs are what the agent of this version is given besides.
func agentArgs() []string { return []string{"--pod-redirect=" + *redirect} }

// own are the node's endpoints.
func own() (out []netip.Addr) {
	for s := range services {
		for e := 0; e < endpoints; e += 2 {
			out = append(out, endpoint(s, e))
		}
	}
	return out
}

// TestServices divides the time between the parts.
func TestServices(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f, err := proxyfield.New(ctx, proxyfield.Config{Bin: bin(t), Dir: t.TempDir(), Mode: *mode, Args: agentArgs(), Pods: own()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(f.Log())
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := &world{t: t, f: f}
	w.make(ctx)
	must(t, f.StartAgent())
	w.serving(ctx)
	if *mode == "ebpf" && *redirect == "peer" {
		w.past()
	}
	w.load(ctx)
	type part struct {
		name string
		run  func(ctx context.Context, d time.Duration)
		of   time.Duration
	}
	parts := []part{
		{"only endpoints change", w.wait, *length / 10}, {"the agent is killed every second", w.killed, *length * 4 / 10}, {"upgrades", w.upgraded, *length * 2 / 10},
		{"no API server, and the agent is killed", w.cutOff, *length * 2 / 10}, {"the host boots without an API server", w.booted, *length / 10},
	}
	if *away > 0 && *mode != "userspace" {
		parts = append(parts, part{"no agent", w.away, *away})
	}
	if *old != "" {
		parts = append(parts, part{"upgrades from another version", w.fromAnother, *length / 10})
	}
	for _, part := range parts {
		began, was := time.Now(), w.flipped.Load()
		part.run(ctx, part.of)
		t.Logf("%s, %s, %d endpoints came or went:\n%s", part.name, time.Since(began).Round(time.Second), w.flipped.Load()-was, w.count.take())
	}
	w.calm(ctx)
	if bad := w.count.bad.Load(); bad > 0 {
		t.Errorf("%d requests failed or were misdirected", bad)
	}
	if late, good := w.count.late.Load(), w.count.good.Load(); late*200 > good {
		t.Errorf("%d answers came late or not at all, of %d: that is no coincidence", late, good)
	}
	if w.count.good.Load() < int64(length.Seconds()/max(1, pace.Seconds()/0.05))*10 {
		t.Errorf("only %d requests went well: that is no load", w.count.good.Load())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait lets time pass.
func (w *world) wait(_ context.Context, d time.Duration) { time.Sleep(d) }

// killed kills the agent each second, in the middle of whatever it does, and starts it at once.
func (w *world) killed(ctx context.Context, d time.Duration) {
	n := 0
	for end := time.Now().Add(d); time.Now().Before(end); n++ {
		time.Sleep(time.Second)
		w.replaced(ctx, syscall.SIGKILL)
	}
	w.t.Logf("killed %d times", n)
}

// replaced ends the agent and starts another at once. In mode userspace Services are not there meanwhile, and connections end (proxy.Restart): it is waited for
// the next one, and what is asked until then is counted by itself.
func (w *world) replaced(ctx context.Context, s syscall.Signal) {
	if *mode == "userspace" {
		w.gap.begin()
		defer w.gap.end()
		defer w.boots.Add(1)
		defer w.serving(ctx)
	}
	must(w.t, w.f.EndAgent(s))
	must(w.t, w.f.StartAgent())
}

// upgraded ends the agent as a DaemonSet's rolling update does, and starts another as soon as it is gone.
func (w *world) upgraded(ctx context.Context, d time.Duration) {
	w.serving(ctx)
	end := time.Now().Add(d)
	for range *upgrades {
		w.replaced(ctx, syscall.SIGTERM)
		w.serving(ctx)
	}
	w.t.Logf("%d upgrades", *upgrades)
	time.Sleep(time.Until(end))
}

// cutOff stops the API server and kills the agent each second: what it has left serves, and so does what it finds when it starts.
func (w *world) cutOff(ctx context.Context, d time.Duration) {
	func() {
		w.changing.Lock() // nobody writes
		defer w.changing.Unlock()
		must(w.t, w.f.KillAPI())
		w.killed(ctx, d)
		must(w.t, w.f.API.StartAPI(ctx))
	}()
	w.serving(ctx)
}

// away leaves what the agent made without one. Nobody changes endpoints meanwhile: what is asked for is what was left.
func (w *world) away(ctx context.Context, d time.Duration) {
	w.serving(ctx)
	w.changing.Lock()
	defer w.changing.Unlock()
	time.Sleep(2 * time.Second) // what has changed is in force
	must(w.t, w.f.EndAgent(syscall.SIGKILL))
	time.Sleep(d)
	must(w.t, w.f.StartAgent())
	w.serving(ctx)
}

// booted takes all from the host that a boot does, while there is no API server. Nothing is asked of a host that is down.
func (w *world) booted(ctx context.Context, d time.Duration) {
	time.Sleep(35 * time.Second) // the last state is written every 30 s
	func() {
		w.changing.Lock()
		defer w.changing.Unlock()
		must(w.t, w.f.KillAPI())
		w.down(func() {
			must(w.t, w.f.EndAgent(syscall.SIGKILL))
			must(w.t, w.f.Reboot())
			must(w.t, w.f.StartAgent())
			w.serving(ctx)
			w.boots.Add(1)
		})
		time.Sleep(d / 2)
		must(w.t, w.f.API.StartAPI(ctx))
	}()
	time.Sleep(d / 2)
}

// down does something while nobody asks. When the test is given up in it, those who ask go on, and can end.
func (w *world) down(do func()) {
	w.asking.Lock()
	defer w.asking.Unlock()
	do()
}
