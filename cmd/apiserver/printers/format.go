package printers

import (
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	none  = "<none>"
	unset = "<unset>"
)

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// deref is the text of an optional value, or absent if there is none.
func deref[T any](p *T, absent string) string {
	if p == nil {
		return absent
	}
	return fmt.Sprint(*p)
}

func boolText(b *bool) string {
	switch {
	case b == nil:
		return unset
	case *b:
		return "True"
	default:
		return "False"
	}
}

func number(p *int32) int64 {
	if p == nil {
		return 0
	}
	return int64(*p)
}

// atMost joins the first limit items and says how many were left out; nothing gives empty.
func atMost(items []string, limit int, separator, empty string) string {
	switch {
	case len(items) == 0:
		return empty
	case len(items) > limit:
		return fmt.Sprintf("%s + %d more...", strings.Join(items[:limit], separator), len(items)-limit)
	default:
		return strings.Join(items, separator)
	}
}

// layout names a pod template's containers and their images.
func layout(containers []corev1.Container) (names, images string) {
	var n, i []string
	for _, c := range containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, known := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		for _, m := range modes {
			if m == known.mode {
				out = append(out, known.short)
				break
			}
		}
	}
	return strings.Join(out, ",")
}

func storage(l corev1.ResourceList) string {
	q := l[corev1.ResourceStorage]
	return q.String()
}

func sortedUnique(items []string) []string {
	sort.Strings(items)
	out := items[:0]
	for i, s := range items {
		if i == 0 || s != items[i-1] {
			out = append(out, s)
		}
	}
	return out
}

func hostPort(ip string, port int32) string { return net.JoinHostPort(ip, strconv.Itoa(int(port))) }
