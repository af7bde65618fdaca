package cgroups

import (
	"path"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Driver says who makes cgroups below the pods', and with that how they are named.
type Driver string

// The two drivers a container runtime may be configured for; kubelet and runtime must agree. With Systemd the slices
// are named as systemd names them, and on cgroup v2 systemd is told of them and their bounds before they are written to
// the kernel. On v1 it is not, and may undo the bounds when it reloads. Cgroupfs has no such second owner.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// name is the way from the cgroup root down to one cgroup, such as kubepods, burstable, pod<uid>.
type name []string

func rootName(prefix string) name {
	return append(split(prefix), "kubepods")
}

func split(p string) name {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

func (n name) child(part string) name {
	return append(n[:len(n):len(n)], part)
}

func className(root name, class v1.PodQOSClass) name {
	if class == v1.PodQOSGuaranteed {
		return root
	}
	return root.child(strings.ToLower(string(class)))
}

func podName(root name, class v1.PodQOSClass, uid types.UID) name {
	return className(root, class).child("pod" + string(uid))
}

// path is where the cgroup lies below a hierarchy's mount point. In systemd's naming a slice carries the names of
// all slices above it, joined by dashes, so dashes within a part become underscores.
func (n name) path(d Driver) string {
	if d != Systemd {
		return "/" + path.Join(n...)
	}
	out, joined := "/", ""
	for _, part := range n {
		joined = strings.TrimPrefix(joined+"-"+strings.ReplaceAll(part, "-", "_"), "-")
		out = path.Join(out, joined+".slice")
	}
	return out
}

// parent is the cgroup as the container runtime wants to be told of it: the path for cgroupfs, the slice for systemd.
func (n name) parent(d Driver) string {
	p := n.path(d)
	if d == Systemd {
		return path.Base(p)
	}
	return p
}

// podUID is the pod that a directory below a QoS class belongs to, or "" if it is no pod's.
func podUID(dir string, d Driver) types.UID {
	if d == Systemd {
		dir = strings.TrimSuffix(dir, ".slice")
		if i := strings.LastIndexByte(dir, '-'); i >= 0 {
			dir = dir[i+1:]
		}
		dir = strings.ReplaceAll(dir, "_", "-")
	}
	uid, ok := strings.CutPrefix(dir, "pod")
	if !ok {
		return ""
	}
	return types.UID(uid)
}
