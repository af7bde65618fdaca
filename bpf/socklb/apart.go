package socklb

import (
	"fmt"
	"slices"
)

// Apart says whose sockets are left as they are: their packets must be translated instead. The node's own always are translated.
type Apart struct {
	Pods  bool     // all but the node's own
	Netns []uint64 // cookies of network namespaces
}

// SetApart puts a in the place of what was said before, by whatever process. A socket that is connected stays as it is.
func (l *LB) SetApart(a Apart) error {
	which := uint32(objectApartWhichAPART_NONE)
	switch {
	case a.Pods:
		which = uint32(objectApartWhichAPART_PODS)
	case len(a.Netns) > 0:
		which = uint32(objectApartWhichAPART_SOME)
	}
	have, err := l.Apart()
	if err != nil {
		return err
	}
	for _, cookie := range a.Netns {
		if slices.Contains(have.Netns, cookie) {
			continue
		}
		if err := l.objs.Apart.Put(cookie, uint32(1)); err != nil {
			return fmt.Errorf("set a network namespace apart: %w", err)
		}
	}
	if err := l.objs.Parting.Put(uint32(0), which); err != nil {
		return fmt.Errorf("set network namespaces apart: %w", err)
	}
	for _, cookie := range have.Netns {
		if slices.Contains(a.Netns, cookie) {
			continue
		}
		if err := gone(l.objs.Apart.Delete(cookie)); err != nil {
			return fmt.Errorf("set a network namespace apart no more: %w", err)
		}
	}
	return nil
}

// Apart returns what was said last.
func (l *LB) Apart() (a Apart, err error) {
	var which, v uint32
	if err := l.objs.Parting.Lookup(uint32(0), &which); err != nil {
		return a, fmt.Errorf("look which network namespaces are apart: %w", err)
	}
	a.Pods = which == uint32(objectApartWhichAPART_PODS)
	var cookie uint64
	it := l.objs.Apart.Iterate()
	for it.Next(&cookie, &v) {
		a.Netns = append(a.Netns, cookie)
	}
	if err := it.Err(); err != nil {
		return a, fmt.Errorf("list network namespaces that are apart: %w", err)
	}
	slices.Sort(a.Netns)
	return a, nil
}
