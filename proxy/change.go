package proxy

import (
	"iter"
	"maps"
)

// Change is what becomes of groups.
type Change struct {
	// Groups are those that may have changed, by name; nil is one that is gone. They are computed while they are asked for, which may be twice: what has
	// changed between the two comes in the next change, too.
	Groups iter.Seq2[string, *Group]
	// Whole says that there are no others.
	Whole bool
	// About how many there are, of a whole one.
	Frontends, Backends int
}

// Change is the one after which a backend holds the model and nothing else.
func (m Model) Change() Change {
	c := Change{Groups: maps.All(m), Whole: true}
	for _, g := range m {
		c.Frontends += len(g.Frontends)
		c.Backends += len(g.Backends)
	}
	return c
}

// Apply makes m the model after a change.
func (m Model) Apply(c Change) {
	if c.Whole {
		clear(m)
	}
	for name, g := range c.Groups {
		if g == nil {
			delete(m, name)
		} else {
			m[name] = g
		}
	}
}
