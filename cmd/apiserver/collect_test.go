package apiserver

import "testing"

func TestRoomIsAPartOfTheMachine(t *testing.T) {
	for machine, want := range map[uint64]uint64{0: 64 << 20, 512 << 20: 64 << 20, 4 << 30: 256 << 20, 64 << 30: 1 << 30} {
		if got := collection(machine).Room; got != want {
			t.Errorf("%d bytes of memory: %d, want %d", machine, got, want)
		}
	}
}
