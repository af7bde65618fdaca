package socklb

import (
	"errors"
	"strings"
)

// CgroupRoot finds the root of the cgroup2 tree in the text of /proc/self/mountinfo. In a container there are several mounts of it:
// the root is the one that shows the reader's own cgroup namespace from the top, or from above it.
func CgroupRoot(mountinfo string) (string, error) {
	best, height := "", -1
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(fs) < 1 || fs[0] != "cgroup2" {
			continue
		}
		root := fields[3]
		up := strings.Count(root, "/..") // the namespace's root is below that of the mount
		if strings.Trim(strings.ReplaceAll(root, "/..", ""), "/") != "" {
			continue // a part of the tree
		}
		if up > height {
			best, height = fields[4], up
		}
	}
	if best == "" {
		return "", errors.New("no cgroup2 file system is mounted from its root (mount -t cgroup2 none /sys/fs/cgroup/unified, or say where with --cgroup-root)")
	}
	return best, nil
}
