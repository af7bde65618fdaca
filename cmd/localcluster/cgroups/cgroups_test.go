package cgroups

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, in string
		want     Trees
	}{
		{"hybrid", `
30 20 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
35 30 0:27 / /elsewhere/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
`, Trees{
			{Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
			{Mount: "/sys/fs/cgroup/systemd", Options: "name=systemd"},
			{Mount: "/sys/fs/cgroup/cpuset", Options: "cpuset"},
			{Mount: "/sys/fs/cgroup/unified", V2: true},
		}},
		{"unified only", "28 20 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			Trees{{Mount: "/sys/fs/cgroup", V2: true}}},
		{"none", "20 1 8:1 / / rw - ext4 /dev/sda rw\nbroken\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
