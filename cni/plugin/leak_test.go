package plugin

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// Containers come and go, and every other call of the plugin is killed at a random moment. Runtimes call DEL again, or forget to. After
// GC there is nothing left: no link, address, host port, guard, limit or file. ORLOP_LEAKS sets how many containers; "make chaos" has ten thousand.
func TestKernelNothingLeaks(t *testing.T) {
	total := 60
	if s := os.Getenv("ORLOP_LEAKS"); s != "" {
		var err error
		if total, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	b := newBench(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var killed atomic.Int64
	for done := 0; done < total && !t.Failed(); {
		batch := min(200, total-done)
		var wg sync.WaitGroup
		for worker := range 2 {
			rnd := rand.New(rand.NewPCG(seed, uint64(done+worker)))
			wg.Go(func() {
				for i := done + worker; i < done+batch; i += 2 {
					t.Run(fmt.Sprint("c", i), func(t *testing.T) { b.with(t).comeAndGo(i, rnd, &killed) })
				}
			})
		}
		wg.Wait()
		done += batch
		b.must("GC", "", "", everything(1))
		b.wantNothing(fmt.Sprintf("%d containers", done))
	}
	t.Logf("%d calls killed", killed.Load())
	for range 500 {
		if b.allLinks() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond) // the kernel takes apart what went with its namespace
	}
	t.Errorf("%d links are left", b.allLinks())
}

func (b *bench) with(t *testing.T) *bench {
	c := *b
	c.t = t
	return &c
}

func (b *bench) comeAndGo(i int, rnd *rand.Rand, killed *atomic.Int64) {
	pod := netnstest.New(b.t)
	id, conf := fmt.Sprint("c", i), everything(10_000+i%20_000)
	call := func(verb string, longest time.Duration) {
		if rnd.IntN(2) == 0 {
			b.must(verb, id, pod.Path(), conf)
			return
		}
		cmd := b.command(verb, id, pod.Path(), conf)
		if err := b.node.Start(cmd); err != nil {
			b.t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(longest))))
		_ = cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed.Add(1)
		}
	}
	call("ADD", 12*time.Millisecond)
	call("DEL", 8*time.Millisecond)
	switch rnd.IntN(4) {
	case 0: // forgotten: GC finds it
	case 1: // the namespace is used again
		b.must("DEL", id, pod.Path(), conf)
		b.must("ADD", id, pod.Path(), conf)
		b.must("DEL", id, "", conf)
	default:
		b.must("DEL", id, pod.Path(), conf)
	}
}
