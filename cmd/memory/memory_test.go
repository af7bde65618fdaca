package memory

import (
	"slices"
	"strings"
	"testing"
)

func TestReadOnly(t *testing.T) {
	const maps = `00400000-034b2000 r-xp 00000000 00:1f 7 /usr/local/bin/orlop-server
034b2000-06eb7000 r--p 030b2000 00:1f 7 /usr/local/bin/orlop-server
06eb7000-06fa1000 rw-p 06ab7000 00:1f 7 /usr/local/bin/orlop-server
06fa1000-08ff8000 rw-p 00000000 00:00 0
7f0000000000-7f0000021000 r--p 00000000 00:1f 9 /usr/lib/locale
7ffc1000-7ffc3000 r-xp 00000000 00:00 0 [vdso]
`
	want := []mapping{{0x400000, 0x34b2000}, {0x34b2000, 0x6eb7000}}
	if got := readOnly(strings.NewReader(maps), "/usr/local/bin/orlop-server"); !slices.Equal(got, want) {
		t.Errorf("%x", got)
	}
}

func TestMachine(t *testing.T) {
	if Machine() < 64<<20 {
		t.Errorf("the machine has %d bytes", Machine())
	}
}

// The program goes on after it has let its pages go.
func TestReleaseProgram(t *testing.T) {
	for range 2 {
		if err := releaseProgram(); err != nil {
			t.Fatal(err)
		}
	}
}
