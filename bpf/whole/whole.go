// Package whole reads the kernel's tables by netlink (rtnetlink(7)) until an answer is whole. A dump that is longer than one
// message may be interrupted by a change, as on a node whose pods come and go; the kernel then marks it NLM_F_DUMP_INTR: it may
// lack what is there, or have it twice.
package whole

import (
	"errors"
	"time"

	"github.com/vishvananda/netlink"
)

// tries is how often a dump is asked for. Each takes well under a millisecond for a node's devices.
const tries = 30

// List is what dump gives, asked again as often as a change interrupted it, some 30 times; then it is
// netlink.ErrDumpInterrupted. Any other error is returned at once.
func List[T any](dump func() ([]T, error)) ([]T, error) {
	for i := 1; ; i++ {
		list, err := dump()
		if err == nil || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
		if i == tries {
			return nil, err
		}
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
	}
}
