package whole

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestList(t *testing.T) {
	other := errors.New("no such device")
	for _, tt := range []struct {
		interrupted int
		end         error
		want        error
		asked       int
	}{
		{0, nil, nil, 1},
		{5, nil, nil, 6},
		{2, other, other, 3},
		{1000, nil, netlink.ErrDumpInterrupted, tries},
	} {
		asked := 0
		list, err := List(func() ([]int, error) {
			if asked++; asked <= tt.interrupted {
				return []int{1, 1}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
			}
			return []int{1, 2}, tt.end
		})
		if !errors.Is(err, tt.want) || asked != tt.asked || err == nil && len(list) != 2 || errors.Is(err, netlink.ErrDumpInterrupted) && list != nil {
			t.Errorf("%d times interrupted, then %v: %v, %v after %d times", tt.interrupted, tt.end, list, err, asked)
		}
	}
}
