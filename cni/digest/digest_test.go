package digest

import (
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

// Every length to beyond the second block, where padding begins a block of its own at some.
func TestDigestsAreTheLibrarys(t *testing.T) {
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		if got, want := Of(string(b)), sha256.Sum256(b); got != want {
			t.Fatalf("%x: got %x, want %x", b, got, want)
		}
	}
}
