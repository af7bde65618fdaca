package imagegc

import (
	"strings"
	"testing"
	"time"
)

var t0 = time.Unix(1000, 0)

func names(list []Image) string {
	var out []string
	for _, i := range list {
		out = append(out, i.ID)
	}
	return strings.Join(out, " ")
}

func TestToFree(t *testing.T) {
	p := Policy{High: 85, Low: 80}
	for _, tt := range []struct{ capacity, available, want int64 }{
		{1000, 160, 0},  // 84 %
		{1000, 150, 50}, // 85 %
		{1000, 0, 200},
		{0, 0, 0},
	} {
		if got := p.ToFree(tt.capacity, tt.available); got != tt.want {
			t.Errorf("of %d with %d free: free %d, want %d", tt.capacity, tt.available, got, tt.want)
		}
	}
}

func TestChoice(t *testing.T) {
	p := Policy{MinAge: 2 * time.Minute, MaxAge: time.Hour}
	img := func(id string, keep bool) Image { return Image{ID: id, Size: 10, Keep: keep} }
	var a Ages
	now := t0
	a.Look([]Image{img("never", false), img("once", true), img("used", true)}, now)
	now = now.Add(10 * time.Minute)
	list := []Image{img("never", false), img("once", false), img("used", true), img("new", false), img("later", true)}
	a.Look(list, now)
	now = now.Add(time.Minute)
	list[4].Keep = false
	a.Look(list, now)
	for _, tt := range []struct {
		bytes int64
		want  string
	}{{1, "never"}, {10, "never"}, {11, "never once"}, {1000, "never once"}, {-1, "never once"}, {0, ""}} {
		if got := names(a.Oldest(p, list, tt.bytes, now)); got != tt.want {
			t.Errorf("for %d bytes %q go, want %q", tt.bytes, got, tt.want)
		}
	}
	now = now.Add(2 * time.Minute) // now the two that came later are old enough
	if got := names(a.Oldest(p, list, -1, now)); got != "never new once later" {
		t.Errorf("longest unused first: %q", got)
	}
	now = t0.Add(time.Hour + time.Second)
	if got := names(a.Expired(p, list, now)); got != "never once" {
		t.Errorf("expired after an hour: %q", got)
	}
	now = now.Add(24 * time.Hour)
	if got := names(a.Expired(p, list, now)); got != "never once new later" {
		t.Errorf("expired after a day: %q", got)
	}
	if got := a.Expired(Policy{}, list, now); got != nil {
		t.Errorf("without a maximum %v", got)
	}
	a.Look(nil, now)
	a.Look(list, now)
	if got := a.Oldest(p, list, -1, now.Add(time.Minute)); got != nil {
		t.Errorf("an image that came again is as old as before: %v", got)
	}
}
