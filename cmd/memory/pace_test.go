package memory

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGrowth(t *testing.T) {
	c := Config{Calm: 50, Busy: 100, Room: 192 << 20, Rate: 16 << 20}
	for _, tt := range []struct {
		name string
		live uint64
		rate float64
		want int
	}{
		{"calm", 96 << 20, c.Rate - 1, 50},
		{"calm and empty", 0, 0, 50},
		{"busy", 96 << 20, c.Rate, 200},
		{"busy and small", 4 << 20, c.Rate, most},
		{"busy and empty", 0, c.Rate, most},
		{"busy and large", 2 << 30, 100 * c.Rate, 100},
	} {
		if got := c.Growth(tt.live, tt.rate); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestCollectionsAreTold(t *testing.T) {
	told := make(chan struct{}, 1)
	tell(t.Context(), told)
	for range 3 {
		runtime.GC()
		select {
		case <-told:
		case <-time.After(5 * time.Second):
			t.Fatal("a collection was not told")
		}
	}
}

// A program that allocates much is given room, loses it when it is calm, and lets go of memory once for each such time.
func TestPace(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	percent := func() uint64 { return read("/gc/gogc:percent") }
	ctx, cancel := context.WithCancel(t.Context())
	before := read(forced)
	released := func() uint64 { return read(forced) - before }
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Pace(ctx, Config{Calm: 41, Busy: 100, Room: 1 << 30, Rate: 8 << 20, After: 300 * time.Millisecond, Program: true})
	}()
	defer func() { cancel(); <-ended }()
	await := func(what string, holds func() bool, meanwhile func()) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !holds(); meanwhile() {
			if time.Now().After(end) {
				t.Fatalf("%s: percent %d, released %d times", what, percent(), released())
			}
		}
	}
	rest := func() { time.Sleep(time.Millisecond) }
	await("after the start", func() bool { return percent() == 41 && released() == 1 }, rest)
	await("busy", func() bool { return percent() == most }, func() { sink = make([]byte, 1<<20) })
	await("calm again", func() bool { return percent() == 41 && released() == 2 }, rest)
	time.Sleep(700 * time.Millisecond)
	if n := released(); n != 2 {
		t.Errorf("released %d times", n)
	}
}

// forced counts collections that were asked for, as when memory is given back.
const forced = "/gc/cycles/forced:gc-cycles"

// sink keeps what is allocated from being optimized away.
var sink []byte
