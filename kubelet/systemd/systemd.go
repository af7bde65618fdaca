// Package systemd tells systemd of slices and what they may use.
//
// Where systemd owns the cgroup tree, it writes what it knows of a slice to the kernel whenever it sees fit: when the
// first scope is put into it, when it is reloaded. Bounds that it was not told of do not survive that. This package talks
// to systemd over D-Bus and touches no cgroup itself.
package systemd

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	destination = "org.freedesktop.systemd1"
	manager     = destination + ".Manager."
	infinity    = uint64(math.MaxUint64)
	callLimit   = 10 * time.Second
)

// Bounds is what a slice may use on cgroup v2. A zero field leaves alone what there is.
type Bounds struct {
	CPUWeight uint64
	// CPUQuota is CPU time per CPUPeriod, negative for no bound.
	CPUQuota, CPUPeriod time.Duration
	Memory              int64 // bytes, negative for no bound
	Tasks               int64 // negative for no bound
}

// With gives these bounds with those of other over them, where it has any.
func (b Bounds) With(other Bounds) Bounds {
	if other.CPUWeight != 0 {
		b.CPUWeight = other.CPUWeight
	}
	if other.CPUQuota != 0 {
		b.CPUQuota, b.CPUPeriod = other.CPUQuota, other.CPUPeriod
	}
	if other.Memory != 0 {
		b.Memory = other.Memory
	}
	if other.Tasks != 0 {
		b.Tasks = other.Tasks
	}
	return b
}

// Bus is a connection to systemd, made when it is needed. Its methods may be called at the same time.
type Bus struct {
	mu   sync.Mutex
	conn *dbus.Conn // nil before the first call, and after a failure
}

// Set makes a slice with its bounds, or gives those to the one that is there.
func (b *Bus) Set(slice string, bounds Bounds) error {
	props := properties(bounds)
	made := append([]property{
		{"Description", dbus.MakeVariant("Orlop: pods of " + slice)},
		{"DefaultDependencies", dbus.MakeVariant(false)},
		{"CPUAccounting", dbus.MakeVariant(true)},
		{"MemoryAccounting", dbus.MakeVariant(true)},
		{"TasksAccounting", dbus.MakeVariant(true)},
	}, props...)
	err := b.call("StartTransientUnit", slice, "replace", made, []auxiliary{})
	if is(err, "UnitExists") {
		if len(props) == 0 {
			return nil
		}
		err = b.call("SetUnitProperties", slice, true, props)
	}
	if err != nil {
		return fmt.Errorf("tell systemd of %s: %w", slice, err)
	}
	return nil
}

// Stop makes systemd forget a slice. One that is gone is a success.
func (b *Bus) Stop(slice string) error {
	err := b.call("StopUnit", slice, "replace")
	if err != nil && !is(err, "NoSuchUnit") {
		return fmt.Errorf("have systemd stop %s: %w", slice, err)
	}
	return nil
}

type property struct {
	Name  string
	Value dbus.Variant
}

// auxiliary is a part of StartTransientUnit's signature that is never used.
type auxiliary struct {
	Name       string
	Properties []property
}

// properties are the bounds in systemd's words.
func properties(b Bounds) []property {
	var out []property
	add := func(name string, value uint64) { out = append(out, property{name, dbus.MakeVariant(value)}) }
	if b.CPUWeight != 0 {
		add("CPUWeight", b.CPUWeight)
	}
	if b.CPUQuota != 0 {
		if b.CPUPeriod > 0 {
			add("CPUQuotaPeriodUSec", uint64(b.CPUPeriod.Microseconds()))
		}
		add("CPUQuotaPerSecUSec", perSecond(b.CPUQuota, b.CPUPeriod))
	}
	if b.Memory != 0 {
		add("MemoryMax", orInfinity(b.Memory))
	}
	if b.Tasks != 0 {
		add("TasksMax", orInfinity(b.Tasks))
	}
	return out
}

// perSecond is a quota as microseconds per second, in steps of a hundredth of a processor, as finer ones are lost by older
// systemds; rounded up, so that nobody gets less than was promised.
func perSecond(quota, period time.Duration) uint64 {
	if quota < 0 {
		return infinity
	}
	const step = uint64(10_000)
	exact := uint64(math.Ceil(float64(quota) / float64(max(period, 1)) * 1e6))
	return (exact + step - 1) / step * step
}

func orInfinity(n int64) uint64 {
	if n < 0 {
		return infinity
	}
	return uint64(n)
}

func (b *Bus) call(method string, args ...any) error {
	conn, err := b.connection()
	if err != nil {
		return err
	}
	done := make(chan *dbus.Call, 1)
	conn.Object(destination, "/org/freedesktop/systemd1").Go(manager+method, 0, done, args...)
	select {
	case c := <-done:
		return c.Err
	case <-time.After(callLimit):
		return fmt.Errorf("systemd did not answer %s within %s", method, callLimit)
	}
}

// connection is the one that is there, or another if systemd's bus was restarted.
func (b *Bus) connection() (*dbus.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	b.conn = conn
	return conn, nil
}

// Close ends the connection.
func (b *Bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return nil
	}
	err := b.conn.Close()
	b.conn = nil
	return err
}

// is says whether systemd answered with one of its own errors.
func is(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == destination+"."+name
}
