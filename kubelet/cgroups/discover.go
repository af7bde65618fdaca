package cgroups

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Hierarchy is one mounted cgroup tree.
type Hierarchy struct {
	Dir         string   // where it is mounted
	Unified     bool     // cgroup v2
	Controllers []string // sorted; of a v2 tree, those it has here
}

// Discover lists the cgroup trees that this process sees mounted. A machine with cgroup v1 has one for each
// controller, and often a v2 tree beside them; a newer one has the v2 tree only.
func Discover() ([]Hierarchy, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroup mounts: %w", err)
	}
	out := hierarchies(mounts)
	for i := range out {
		if !out[i].Unified {
			continue
		}
		have, err := os.ReadFile(filepath.Join(out[i].Dir, "cgroup.controllers"))
		if err != nil {
			return nil, fmt.Errorf("list controllers of %s: %w", out[i].Dir, err)
		}
		out[i].Controllers = strings.Fields(string(have))
		slices.Sort(out[i].Controllers)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("list cgroup mounts: none is mounted")
	}
	return out, nil
}

// hierarchies picks one mount for each tree: the last in the list, for it hides the ones before.
func hierarchies(mounts []*mountinfo.Info) []Hierarchy {
	byDir := map[string]Hierarchy{}
	for _, m := range mounts {
		h := Hierarchy{Dir: m.Mountpoint, Unified: m.FSType == "cgroup2"}
		if !h.Unified {
			for opt := range strings.SplitSeq(m.VFSOptions, ",") {
				if opt != "rw" && opt != "ro" && opt != "xattr" && opt != "clone_children" && !strings.HasPrefix(opt, "release_agent") {
					h.Controllers = append(h.Controllers, opt)
				}
			}
			slices.Sort(h.Controllers)
		}
		byDir[h.Dir] = h
	}
	seen := map[string]bool{}
	var out []Hierarchy
	for i := len(mounts) - 1; i >= 0; i-- {
		h := byDir[mounts[i].Mountpoint]
		key := strings.Join(h.Controllers, ",")
		if h.Unified {
			key = "unified"
		}
		if !seen[key] {
			seen[key] = true
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b Hierarchy) int { return strings.Compare(a.Dir, b.Dir) })
	return out
}

func (h Hierarchy) has(controller string) bool {
	_, ok := slices.BinarySearch(h.Controllers, controller)
	return ok
}
