package socklb

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenNamesWhatIsMissing(t *testing.T) {
	pins := filepath.Join(t.TempDir(), "not", "there")
	_, err := Open(Config{PinDir: pins, Cgroup: t.TempDir()})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), pins) || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("got %v", err)
	}
}

func TestCgroupRoot(t *testing.T) {
	const (
		v1        = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
		hybrid    = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		container = "50 31 0:38 /kubepods/pod1 /sys/fs/cgroup ro shared:9 - cgroup2 cgroup rw\n"
		host      = "51 31 0:38 / /host/sys/fs/cgroup rw - cgroup2 cgroup rw\n"
		own       = "52 31 0:38 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
		above     = "53 31 0:38 /../../.. /host/sys/fs/cgroup rw - cgroup2 cgroup rw\n"
	)
	for _, tt := range []struct{ name, text, want string }{
		{"hybrid", v1 + hybrid, "/sys/fs/cgroup/unified"},
		{"a container's own part does not count", container + host, "/host/sys/fs/cgroup"},
		{"from within a cgroup namespace", own + above, "/host/sys/fs/cgroup"},
		{"only v1", v1, ""},
		{"garbage", "x\n- - -\n", ""},
	} {
		if got, err := CgroupRoot(tt.text); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: got %q, %v", tt.name, got, err)
		}
	}
}

func TestAddressesComeBack(t *testing.T) {
	for _, s := range []string{"10.96.0.1", "fd00::1", "0.0.0.0", "::", "127.0.0.1"} {
		a := netip.MustParseAddr(s)
		if got := addr(words(a)); got != a {
			t.Errorf("%s came back as %s", a, got)
		}
	}
	if got := endpointOf(netip.MustParseAddrPort("1.2.3.4:80")); got.Port != 0x5000 || got.Addr[2] != 0xffff0000 {
		t.Errorf("not in network byte order: %+v", got)
	}
}

func TestEveryReasonHasItsName(t *testing.T) {
	if got, want := len(reasonNames()), int(objectReasonREASON_MAX); got != want {
		t.Errorf("%d names for %d reasons", got, want)
	}
}
