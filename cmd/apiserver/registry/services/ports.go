package services

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

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

// ports hands out the ports of span.
type ports struct {
	span   utilnet.PortRange
	ranges *registry.Store
}

func (p *ports) change(ctx context.Context, change func(b *bitmap) error) error {
	return p.ranges.Storage.Storage.GuaranteedUpdate(ctx, portsKey, &corev1.RangeAllocation{}, true, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			r := obj.(*corev1.RangeAllocation)
			b := newBitmap(p.span.Size)
			if r.Range == p.span.String() {
				copy(b.bytes, r.Data)
			}
			if err := change(b); err != nil {
				return nil, err
			}
			r.Range, r.Data = p.span.String(), b.bytes
			return r, nil
		}), nil)
}

// take claims the wanted port, or for 0 any that is free and not in have.
func (p *ports) take(ctx context.Context, wanted int, have map[int]bool, dry bool) (int, error) {
	if wanted != 0 && !p.span.Contains(wanted) {
		return 0, fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", p.span.Base, p.span.Base+p.span.Size-1)
	}
	got := 0
	errDry := errors.New("dry run")
	err := p.change(ctx, func(b *bitmap) error {
		port, err := choose(b, p.span, wanted, have, rand.IntN(p.span.Size))
		if err != nil {
			return err
		}
		b.set(port - p.span.Base)
		got = port
		if dry {
			return errDry
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDry) {
		return 0, err
	}
	return got, nil
}

// choose picks the wanted port, or for 0 the first that is free from start on.
func choose(b *bitmap, span utilnet.PortRange, wanted int, have map[int]bool, start int) (int, error) {
	if wanted != 0 {
		if b.has(wanted - span.Base) {
			return 0, errors.New("provided port is already allocated")
		}
		return wanted, nil
	}
	for i := range span.Size {
		n := (start + i) % span.Size
		if !b.has(n) && !have[span.Base+n] {
			return span.Base + n, nil
		}
	}
	return 0, errors.New("range is full")
}

// release gives ports back. What fails here is mended by Repair.
func (p *ports) release(ctx context.Context, set map[int]bool) {
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

// bitmap is a set of small numbers in upstream's byte order: that of a big integer.
type bitmap struct{ bytes []byte }

func newBitmap(size int) *bitmap { return &bitmap{make([]byte, (size+7)/8)} }

func (b *bitmap) at(n int) (int, byte) { return len(b.bytes) - 1 - n/8, 1 << (n % 8) }

func (b *bitmap) has(n int) bool {
	i, mask := b.at(n)
	return b.bytes[i]&mask != 0
}

func (b *bitmap) set(n int) {
	i, mask := b.at(n)
	b.bytes[i] |= mask
}

func (b *bitmap) clear(n int) {
	i, mask := b.at(n)
	b.bytes[i] &^= mask
}
