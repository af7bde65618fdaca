package nodettl

import "testing"

func TestStep(t *testing.T) {
	for _, tc := range []struct{ current, nodes, seconds int }{
		{0, 3, 0}, {0, 100, 0}, {0, 101, 15}, {1, 95, 15}, {1, 89, 0}, {0, 5000, 300}, {4, 1900, 300}, {4, 1, 0}, {2, 450, 30}, {2, 449, 15},
	} {
		if got := steps()[Step(tc.current, tc.nodes)].seconds; got != tc.seconds {
			t.Errorf("from step %d, %d nodes: %d s, want %d", tc.current, tc.nodes, got, tc.seconds)
		}
	}
}
