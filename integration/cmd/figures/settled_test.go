package main

import (
	"slices"
	"testing"
)

// What a start needed is not taken for what is held: it is given back ten seconds after.
func TestSettled(t *testing.T) {
	start := slices.Repeat([]float64{30}, 3)
	busy := slices.Concat(start, slices.Repeat([]float64{120}, 11))
	for name, tc := range map[string]struct {
		held []float64
		want bool
	}{
		"nothing yet":         {nil, false},
		"started":             {start, false},
		"not given back":      {busy, false},
		"just given back":     {append(slices.Clone(busy), 40), false},
		"given back":          {slices.Concat(busy, slices.Repeat([]float64{40}, 11), []float64{41}), true},
		"nothing to be given": {slices.Repeat([]float64{10}, 12), true},
		"never":               {slices.Repeat([]float64{10, 20}, 60), true},
	} {
		if got := settled(tc.held); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
