package scheduler

import "testing"

func TestRoomIsAPartOfTheMachine(t *testing.T) {
	for machine, want := range map[uint64]uint64{0: 64 << 20, 4 << 30: 64 << 20, 8 << 30: 128 << 20, 64 << 30: 256 << 20} {
		if got := room(machine); got != want {
			t.Errorf("%d bytes of memory: %d, want %d", machine, got, want)
		}
	}
}
