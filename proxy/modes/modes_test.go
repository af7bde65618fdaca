package modes

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		name, want, cannot string
		mode, passed       string
		err                string
	}{
		{"the first", "", "", "ebpf", "", ""},
		{"the next that the kernel can", "", "ebpf nftables", "iptables", "ebpf nftables", ""},
		{"where there is no netfilter", "", "ebpf nftables iptables", "userspace", "ebpf nftables iptables", ""},
		{"none", "", "ebpf nftables iptables userspace", "", "ebpf nftables iptables userspace", "userspace: no userspace"},
		{"what is wanted", "iptables", "", "iptables", "", ""},
		{"what is wanted and nothing else", "nftables", "nftables", "", "", "--proxy-mode=nftables: no nftables"},
		{"ipvs", "ipvs", "", "", "", `"nftables"`},
		{"one that the kernel can do and that fails", "", "ebpf", "", "ebpf", "mode nftables: broken"},
		{"unknown", "kernelspace", "", "", "", "ebpf, nftables, iptables, userspace"},
	} {
		_, mode, passed, err := Choose(tt.want, func(mode string) (string, error) {
			if tt.err == "mode nftables: broken" && mode == "nftables" {
				return "", Broken{errors.New("broken")}
			}
			if strings.Contains(tt.cannot, mode) {
				return "", errors.New("no " + mode)
			}
			return mode, nil
		})
		var got []string
		for _, p := range passed {
			got = append(got, p.Mode)
		}
		if d := cmp.Diff(tt.mode+"/"+tt.passed, mode+"/"+strings.Join(got, " ")); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.err)
		}
	}
}
