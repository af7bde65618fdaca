package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/socklb"
)

func TestPressureIsToldOnceBeforeAMapIsFull(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	u := socklb.Usage{Map: "backends", Capacity: 100, Limit: 100, Err: errors.New("it grows to 100 entries at most")}
	p := newPressure(&services{}, log)
	p.read = func() ([]socklb.Usage, error) { return []socklb.Usage{u}, nil }
	for _, step := range []struct {
		entries uint32
		told    int
	}{{79, 0}, {80, 1}, {99, 0}, {75, 0}, {90, 0}, {69, 0}, {85, 1}} {
		u.Entries = step.entries
		if got := p.look(true); len(got) != step.told {
			t.Errorf("at %d: told %d times, want %d", step.entries, len(got), step.told)
		}
	}
	if n := strings.Count(out.String(), "nearly full"); n != 2 || !strings.Contains(out.String(), "backends") || !strings.Contains(out.String(), "room again") {
		t.Errorf("logged: %s", out.String())
	}
	e := pressureEvent(u, "node-1", time.Unix(1, 0))
	if e.Regarding.Kind != "Node" || e.Regarding.Name != "node-1" || e.Namespace != "default" || !strings.Contains(e.Note, "backends holds 85 entries of 100: it grows to 100") {
		t.Errorf("event %+v", e)
	}
}
