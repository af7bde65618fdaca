package ebpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// crowd is the service under test, and n others.
func crowd(n int, last ...int) proxy.Model {
	m := service(0, last...)
	maps.Copy(m, many(n))
	return m
}

func (r *rig) usage(name string) socklb.Usage {
	r.t.Helper()
	all, err := r.lb.Usages()
	if err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(u socklb.Usage) bool { return u.Map == name })
	if i < 0 {
		r.t.Fatalf("no map %s in %+v", name, all)
	}
	return all[i]
}

func (o outcome) whole(t *testing.T, name string) {
	t.Helper()
	n := 0
	for _, c := range o.Answers {
		n += c
	}
	if len(o.Errors) != 0 || n < 300 {
		t.Errorf("%s: %d answers, errors %v", name, n, o.Errors)
	}
	t.Logf("%s: %d answers, slowest %s", name, n, o.Slowest)
}

// Every map of services grows nine times under load, by one process and over restarts, and no request fails.
func TestKernelMapsGrowUnderLoad(t *testing.T) {
	r := newRigOf(t, 16, 0)
	r.set(service(0, 1, 2))
	tcp := r.client(r.node, order{Network: "tcp", Addr: vip + ":80", UntilEOF: true})
	udp := r.client(r.node, order{Network: "udp-any", Addr: vip + ":80", UntilEOF: true})
	grown := uint32(0)
	for i, n := 0, 2; n <= 5000; i, n = i+1, n*3/2 {
		r.set(crowd(n, i%3+1, (i+1)%3+1))
		if _, err := r.b.Sweep(time.Now()); err != nil {
			t.Fatal(err)
		}
		if i%5 == 4 {
			grown += r.usage("backends").Grown
			r.open() // adopts maps that have grown
			r.set(crowd(n, i%3+1, (i+1)%3+1))
		}
		time.Sleep(5 * time.Millisecond)
	}
	tcp().whole(t, "tcp")
	udp().whole(t, "udp")
	grown += r.usage("backends").Grown
	u := r.usage("frontends")
	fs, err := r.lb.Frontends()
	if err != nil || len(fs) != int(u.Entries) || u.Pressure() > 0.75 || grown < 9 {
		t.Errorf("%d frontends, %v; usage %+v; backends grew %d times", len(fs), err, u, grown)
	}
	r.onePinEach()
}

// onePinEach makes sure that nothing is left of what was in use before.
func (r *rig) onePinEach() {
	r.t.Helper()
	for _, name := range []string{"frontends", "backends", "tables", "members", "nodes"} {
		if pins, err := filepath.Glob(filepath.Join(socklb.Maps(r.pins), name+"_*")); err != nil || len(pins) != 1 {
			r.t.Errorf("pinned maps of %s: %v, %v; want one", name, pins, err)
		}
	}
}

// growthOrder is what a process that is going to be killed does.
type growthOrder struct {
	Config   socklb.Config
	Services int
}

// growth opens the maps as an agent does at its start, and fills them.
func growth(text string) error {
	var o growthOrder
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	lb, err := socklb.Open(o.Config)
	if err != nil {
		return err
	}
	b := New(lb, proxy.Inside)
	if err := b.Set(service(0, 1, 2)); err != nil {
		return err
	}
	fmt.Println("open")
	for n := 100; n <= o.Services; n += 50 { // growing on the way, not at once
		if err := b.Set(crowd(n, n/50%3+1)); err != nil {
			return err
		}
	}
	return nil
}

// A process that is killed while its maps grow costs no request, and the next one goes on from what it left.
func TestKernelGrowthIsKilledAnywhere(t *testing.T) {
	r := newRigOf(t, 16, 0)
	r.set(service(0, 1, 2))
	tcp := r.client(r.node, order{Network: "tcp", Addr: vip + ":80", UntilEOF: true})
	udp := r.client(r.node, order{Network: "udp-any", Addr: vip + ":80", UntilEOF: true})
	seed := rand.Uint64()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var cookie uint64
	if err := r.node.Do(func() (err error) { cookie, err = socklb.NetnsCookie(); return err }); err != nil {
		t.Fatal(err)
	}
	r.lb.Close()
	for round := range 8 {
		text, err := json.Marshal(growthOrder{socklb.Config{PinDir: r.pins, Cgroup: r.cgroup, NodeNetns: cookie, Entries: 16}, 1000 * (round + 1)})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{"ORLOP_TEST_GROWTH=" + string(text)}
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.IntN(30_000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	r.open()
	r.set(service(0, 1, 2))
	tcp().whole(t, "tcp")
	udp().whole(t, "udp")
	for more := true; more; {
		var err error
		if more, err = r.b.Sweep(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]uint32{"frontends": 8, "backends": 8, "members": 8} {
		if u := r.usage(name); u.Entries != want {
			t.Errorf("%+v, want %d entries", u, want)
		}
	}
	r.onePinEach()
}

// What does not fit is told by name, serves as soon as it fits, and keeps nobody else from being served.
func TestKernelFullMapsServeWhatFits(t *testing.T) {
	r := newRigOf(t, 16, 64)
	unfit := map[string]error{}
	watch := func() {
		r.b.Unfit = func(port string, err error) {
			if unfit[port] = err; err == nil {
				delete(unfit, port)
			}
		}
	}
	watch()
	m := proxy.Model{}
	for name, g := range many(60) { // with two backends each
		g.Port = "default/" + name
		m[name] = g
	}
	r.set(m)
	if len(unfit) < 20 || len(unfit) > 30 {
		t.Errorf("%d services do not fit", len(unfit))
	}
	for _, err := range unfit {
		for _, part := range []string{"members", "64 entries", "until the cluster has fewer"} {
			if !errors.Is(err, socklb.ErrFull) || !strings.Contains(err.Error(), part) {
				t.Fatalf("%v: not told: %s", err, part)
			}
		}
	}
	if u := r.usage("members"); u.Pressure() < 0.95 || u.Err == nil {
		t.Errorf("%+v, want pressure and why", u)
	}
	// A start with maps that are full: the programs come to be in charge all the same.
	r.open()
	watch()
	r.set(m)
	if more, err := r.b.Sweep(time.Now()); !more || err != nil {
		t.Errorf("more %t, %v: want to be asked again", more, err)
	}
	for name := range many(59) {
		delete(m, name)
	}
	maps.Copy(m, service(0, 1))
	for range 3 { // the grace of generations that are gone
		r.set(m)
		if _, err := r.b.Sweep(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if len(unfit) != 0 {
		t.Errorf("still does not fit: %v", unfit)
	}
	if got := r.ask(order{Network: "tcp", Addr: vip + ":80", Times: 10}); len(got.Errors) != 0 {
		t.Errorf("got %+v", got)
	}
}
