package services

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/klog/v2"
)

// portsKey is upstream's key of the bit map of node ports.
const portsKey = "/ranges/servicenodeports"

// NewRanges opens the store of range objects. They are no API resource, and nothing watches them.
func NewRanges(getter generic.RESTOptionsGetter) (*registry.Store, error) {
	gr := schema.GroupResource{Resource: "servicenodeportallocations"}
	options, err := getter.GetRESTOptions(gr, &corev1.RangeAllocation{})
	if err != nil {
		return nil, fmt.Errorf("open store of node ports: %w", err)
	}
	s, destroy, err := generic.NewRawStorage(options.StorageConfig, func() runtime.Object { return &corev1.RangeAllocation{} },
		func() runtime.Object { return nil }, "/ranges")
	if err != nil {
		return nil, fmt.Errorf("open store of node ports: %w", err)
	}
	return &registry.Store{
		DefaultQualifiedResource: gr,
		NewFunc:                  func() runtime.Object { return &corev1.RangeAllocation{} },
		Storage:                  registry.DryRunnableStorage{Storage: s},
		DestroyFunc:              destroy,
	}, nil
}

// ports hands out the ports of span. Which are taken is one object in the store, so that a port is taken by one write.
type ports struct {
	span   utilnet.PortRange
	ranges *registry.Store
	// turn holds one token: changes from this process wait for each other, instead of making each other's writes fail.
	turn chan struct{}
	// last is what this process wrote last; who has the turn owns it. The next change begins with it instead of a read:
	// where another server was faster, the write finds out.
	last *corev1.RangeAllocation
	// taken is how many ports the last change left taken.
	taken atomic.Int64

	mu sync.Mutex
	// unsettled counts the ports that were taken for Services that are not known to be written yet.
	unsettled map[int]int
}

func newPorts(span utilnet.PortRange, ranges *registry.Store) *ports {
	return &ports{span: span, ranges: ranges, turn: make(chan struct{}, 1), unsettled: map[int]int{}}
}

// change lets a function change the bit map. It may be called several times; only its last result is written.
func (p *ports) change(ctx context.Context, change func(b *bitmap) error) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	out := &corev1.RangeAllocation{}
	var before runtime.Object
	if p.last != nil {
		before = p.last
	}
	err := p.ranges.Storage.Storage.GuaranteedUpdate(ctx, portsKey, out, true, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			r := obj.(*corev1.RangeAllocation)
			b := carryOver(r, p.span)
			if err := change(b); err != nil {
				return nil, err
			}
			return &corev1.RangeAllocation{ObjectMeta: r.ObjectMeta, Range: p.span.String(), Data: b.bytes}, nil
		}), before)
	p.last = nil
	if err == nil {
		p.last = out
		p.taken.Store(int64((&bitmap{out.Data}).count()))
	}
	return err
}

// take sets the bits of the ports that choose returns, all in one write. In a dry run it writes nothing.
func (p *ports) take(ctx context.Context, dry bool, choose func(b *bitmap) (map[int]bool, error)) (map[int]bool, error) {
	var taken map[int]bool
	errDry := errors.New("dry run")
	err := p.change(ctx, func(b *bitmap) error {
		p.settle(taken) // of a try before
		taken = nil
		chosen, err := choose(b)
		if err != nil {
			return err
		}
		if dry {
			return errDry
		}
		for port := range chosen {
			b.set(port - p.span.Base)
		}
		p.unsettle(chosen)
		taken = chosen
		return nil
	})
	switch {
	case errors.Is(err, errDry):
		return nil, nil
	case err != nil:
		// Whether the write arrived is not known: Repair will see.
		p.settle(taken)
		return nil, err
	}
	return taken, nil
}

func (p *ports) unsettle(set map[int]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for port := range set {
		p.unsettled[port]++
	}
}

// settle says that the Service of these ports is written, or never will be.
func (p *ports) settle(set map[int]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for port := range set {
		if p.unsettled[port]--; p.unsettled[port] <= 0 {
			delete(p.unsettled, port)
		}
	}
}

func (p *ports) unsettledNow() map[int]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.unsettled)
}

// release gives ports back. What fails here is mended by Repair.
func (p *ports) release(ctx context.Context, set map[int]bool) {
	if len(set) == 0 {
		return
	}
	err := p.change(ctx, func(b *bitmap) error {
		for port := range set {
			if p.span.Contains(port) {
				b.clear(port - p.span.Base)
			}
		}
		return nil
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "release node ports", "ports", set)
	}
}

// carryOver reads the bits of r for span. They may have been written for another range: ports that are in both stay
// taken, so that none is given twice before Repair has run.
func carryOver(r *corev1.RangeAllocation, span utilnet.PortRange) *bitmap {
	b := newBitmap(span.Size)
	if r.Range == span.String() {
		copy(b.bytes, r.Data)
		return b
	}
	was, err := utilnet.ParsePortRange(r.Range)
	if err != nil || len(r.Data) != len(newBitmap(was.Size).bytes) {
		return b // nothing was written yet, or nothing that can be read: Repair finds what Services have
	}
	old := &bitmap{r.Data}
	for n := range was.Size {
		if port := was.Base + n; old.has(n) && span.Contains(port) {
			b.set(port - span.Base)
		}
	}
	return b
}

// bitmap is a set of small numbers in upstream's byte order: that of a big integer.
type bitmap struct{ bytes []byte }

func newBitmap(size int) *bitmap { return &bitmap{make([]byte, (size+7)/8)} }

func (b *bitmap) at(n int) (int, byte) { return len(b.bytes) - 1 - n/8, 1 << (n % 8) }

func (b *bitmap) has(n int) bool {
	i, mask := b.at(n)
	return b.bytes[i]&mask != 0
}

func (b *bitmap) count() int {
	n := 0
	for _, octet := range b.bytes {
		n += bits.OnesCount8(octet)
	}
	return n
}

func (b *bitmap) set(n int) {
	i, mask := b.at(n)
	b.bytes[i] |= mask
}

func (b *bitmap) clear(n int) {
	i, mask := b.at(n)
	b.bytes[i] &^= mask
}
