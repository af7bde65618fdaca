// Package imagegc decides which images are removed: those that are too old, and enough of the longest unused when their
// file system is too full.
//
// It is pure but for what it remembers of images between looks: when each was first seen, and when last in use. That is
// lost with the process, so ages begin anew with it.
package imagegc

import (
	"cmp"
	"slices"
	"time"
)

// Policy bounds what images may take.
type Policy struct {
	// High and Low are shares of the file system's capacity in percent: above High images are removed until it is at Low.
	High, Low int
	// MinAge is how long an image is kept at least after it was first seen, whatever the disk.
	MinAge time.Duration
	// MaxAge is how long an image may be unused; 0 is for ever.
	MaxAge time.Duration
}

// Image is one image as the runtime lists it.
type Image struct {
	ID   string
	Size int64
	// Keep: it is in use, or must not go for another reason.
	Keep bool
}

// Ages remembers images. The zero value remembers nothing.
type Ages struct {
	of map[string]age
}

type age struct{ first, used time.Time }

// Look takes the list of a moment: what is not in it is forgotten.
func (a *Ages) Look(list []Image, now time.Time) {
	next := map[string]age{}
	for _, i := range list {
		g, ok := a.of[i.ID]
		if !ok {
			g.first = now
		}
		if i.Keep {
			g.used = now
		}
		next[i.ID] = g
	}
	a.of = next
}

// Expired lists the images that nothing has used for too long.
func (a *Ages) Expired(p Policy, list []Image, now time.Time) []Image {
	var out []Image
	for _, i := range list {
		g := a.of[i.ID]
		unused := g.used
		if unused.IsZero() {
			unused = g.first
		}
		if p.MaxAge > 0 && !i.Keep && now.Sub(unused) > p.MaxAge {
			out = append(out, i)
		}
	}
	return out
}

// ToFree is how many bytes are to be freed on a file system of a size with so much available.
func (p Policy) ToFree(capacity, available int64) int64 {
	if capacity <= 0 || 100-available*100/capacity < int64(p.High) {
		return 0
	}
	return max(capacity*int64(100-p.Low)/100-available, 0)
}

// Oldest lists images to remove for so many bytes, the longest unused first; it may not find enough. Below 0 it lists all
// that may go.
func (a *Ages) Oldest(p Policy, list []Image, bytes int64, now time.Time) []Image {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(x, y Image) int {
		g, h := a.of[x.ID], a.of[y.ID]
		return cmp.Or(g.used.Compare(h.used), g.first.Compare(h.first), cmp.Compare(x.ID, y.ID))
	})
	var out []Image
	freed := int64(0)
	for _, i := range sorted {
		if bytes >= 0 && freed >= bytes {
			break
		}
		if i.Keep || now.Sub(a.of[i.ID].first) < p.MinAge {
			continue
		}
		out = append(out, i)
		freed += i.Size
	}
	return out
}
