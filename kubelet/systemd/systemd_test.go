package systemd

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func TestProperties(t *testing.T) {
	for _, tt := range []struct {
		name   string
		bounds Bounds
		want   string
	}{
		{"nothing", Bounds{}, ""},
		{"no bounds", Bounds{CPUWeight: 1, CPUQuota: -1, CPUPeriod: 100 * time.Millisecond, Memory: -1, Tasks: -1},
			"CPUWeight=1 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=18446744073709551615 MemoryMax=18446744073709551615 TasksMax=18446744073709551615"},
		{"half a processor", Bounds{CPUQuota: 50 * time.Millisecond, CPUPeriod: 100 * time.Millisecond, Memory: 1 << 20, Tasks: 7},
			"CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=500000 MemoryMax=1048576 TasksMax=7"},
		{"rounded up", Bounds{CPUQuota: 1234 * time.Microsecond, CPUPeriod: 100 * time.Millisecond}, "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=20000"},
	} {
		var got []string
		for _, p := range properties(tt.bounds) {
			got = append(got, fmt.Sprintf("%s=%v", p.Name, p.Value.Value()))
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, text, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	err := fmt.Errorf("call: %w", dbus.Error{Name: "org.freedesktop.systemd1.UnitExists"})
	if !is(err, "UnitExists") || is(err, "NoSuchUnit") || is(errors.New("x"), "UnitExists") || is(nil, "UnitExists") {
		t.Error("systemd's errors are not told apart")
	}
}
