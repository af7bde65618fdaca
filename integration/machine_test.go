package integration

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// machine is what a cluster could leave behind, by kind. What belongs to clusters of others that
// run at the same time is left out.
func machine(t *testing.T) map[string][]string {
	t.Helper()
	others := otherClusters()
	state := map[string][]string{}
	add := func(kind string, lines ...string) {
		for _, l := range lines {
			if l != "" && !slices.ContainsFunc(others, func(name string) bool { return belongs(l, name) }) {
				state[kind] = append(state[kind], l)
			}
		}
	}
	command := func(script string) []string {
		out, err := exec.Command("sh", "-c", script).Output()
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	add("network namespaces", command("ip netns list")...)
	add("links", command("ip -o link | cut -d: -f2")...)
	add("routes and rules", command("ip route; ip rule; ip -o addr | awk '{print $2, $4}'; nft list ruleset 2>/dev/null || true")...)
	for _, l := range command("ss -Hltnup") {
		add("listening ports", listener(l))
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	add("mounts", strings.Split(string(mounts), "\n")...)
	add("cgroups", foldersBelow("/sys/fs/cgroup", 6)...)
	add("pins", foldersBelow("/sys/fs/bpf", 3)...)
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		for _, folder := range foldersBelow(dir, 1) {
			// Logs of clusters that others failed to start.
			if name, ok := strings.CutPrefix(folder, "/var/log/orlop-"); !ok || slices.Contains(ourClusters(), name) {
				add("folders", folder)
			}
		}
	}
	for _, dir := range []string{"/run/orlop", "/var/lib/orlop"} {
		add("folders", foldersBelow(dir, 2)...)
	}
	for _, point := range mountPoints() {
		add("folders", foldersBelow(point, 3)...)
	}
	for _, kind := range []string{"prog", "map", "link"} {
		add("BPF", bpfObjects(t, kind)...)
	}
	for pid, name := range processes() {
		for _, ours := range []string{"orlop", "containerd", "pause", "etcd", "kube-", "coredns", "testimage", "runc"} {
			cgroup, err := os.ReadFile("/proc/" + pid + "/cgroup")
			if err != nil || !strings.HasPrefix(name, ours) || len(others) > 0 && !strings.Contains(string(cgroup), "/orlop-") {
				continue // gone, or a command that somebody gave to another cluster
			}
			add("processes", name+" "+pid+" "+strings.ReplaceAll(string(cgroup), "\n", " "))
		}
	}
	return state
}

// mountPoints are the folders that all clusters of a machine share.
func mountPoints() []string {
	return []string{"/etc/kubernetes", "/etc/cni", "/opt/cni", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/etcd",
		"/var/lib/cni", "/var/log/pods", "/var/log/containers", "/var/lib/orlop", "/run/orlop"}
}

// shared says whether what is new on the machine may be there for clusters of others: what they
// share, and BPF objects, which do not say whose they are.
func shared(what, line string) bool {
	return what == "BPF" || what == "folders" && slices.Contains(mountPoints(), line)
}

// otherClusters are those that no test of this package makes.
func otherClusters() []string {
	var names []string
	for _, root := range []string{"/var/lib/orlop", "/run/orlop"} {
		entries, _ := os.ReadDir(root)
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(ourClusters(), e.Name()) && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names
}

func ourClusters() []string { return []string{"trace", "trace-b"} }

// belongs says whether a path, or a line that has one, lies in something of the cluster.
func belongs(line, cluster string) bool {
	for _, of := range []string{"/orlop-" + cluster, "/orlop/" + cluster} {
		if i := strings.Index(line, of); i >= 0 {
			rest := line[i+len(of):]
			if rest == "" || strings.ContainsRune("/ \t.", rune(rest[0])) {
				return true
			}
		}
	}
	return false
}

var pidOf = regexp.MustCompile(`pid=(\d+)`)

// listener is a line of ss with its owner's cgroup. Sockets of other tests are none of ours.
func listener(line string) string {
	line = strings.Join(strings.Fields(line), " ") // the columns are as wide as the widest
	m := pidOf.FindStringSubmatch(line)
	if m == nil {
		return line
	}
	if exe, err := os.Readlink("/proc/" + m[1] + "/exe"); err != nil || strings.HasSuffix(exe, ".test") {
		return ""
	}
	cgroup, _ := os.ReadFile("/proc/" + m[1] + "/cgroup")
	return line + " " + strings.ReplaceAll(string(cgroup), "\n", " ")
}

// processes are the names of all, by their ids.
func processes() map[string]string {
	all := map[string]string{}
	procs, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range procs {
		if comm, err := os.ReadFile(p); err == nil {
			all[filepath.Base(filepath.Dir(p))] = strings.TrimSpace(string(comm))
		}
	}
	return all
}

// bpfObjects lists all BPF objects of a kind on the machine: prog, map or link.
func bpfObjects(t *testing.T, kind string) []string {
	t.Helper()
	out, err := exec.Command("bpftool", kind, "list").Output()
	if err != nil {
		t.Fatalf("list BPF objects: bpftool %s list: %v", kind, err)
	}
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^(\d+): `).FindAllStringSubmatch(string(out), -1) {
		all = append(all, kind+" "+m[1])
	}
	return all
}

var bpfID = regexp.MustCompile(`(?m)^(prog|map|link)_id:\s*(\d+)`)

// bpfOf lists the BPF objects that processes of a cluster have open.
func bpfOf(cluster string) []string {
	var all []string
	for pid := range processes() {
		cgroup, err := os.ReadFile("/proc/" + pid + "/cgroup")
		if err != nil || !belongs(strings.ReplaceAll(string(cgroup), "\n", " "), cluster) {
			continue
		}
		infos, _ := filepath.Glob("/proc/" + pid + "/fdinfo/*")
		for _, f := range infos {
			b, _ := os.ReadFile(f)
			for _, m := range bpfID.FindAllStringSubmatch(string(b), -1) {
				if o := m[1] + " " + m[2]; !slices.Contains(all, o) {
					all = append(all, o)
				}
			}
		}
	}
	return all
}

// noTrace wants the machine as it was, and none of the BPF objects there any more. The kernel
// takes some time to take namespaces and cgroups down.
func noTrace(t *testing.T, before map[string][]string, bpf ...string) {
	t.Helper()
	var left []string
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left = nil
		others := otherClusters()
		for what, now := range machine(t) {
			for _, line := range difference(now, before[what]) {
				if len(others) == 0 || !shared(what, line) {
					left = append(left, what+": "+line)
				}
			}
		}
		for _, kind := range []string{"prog", "map", "link"} {
			for _, o := range bpfObjects(t, kind) {
				if slices.Contains(bpf, o) {
					left = append(left, "BPF of the cluster: "+o)
				}
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	slices.Sort(left)
	for _, l := range left {
		t.Errorf("left behind in %s", l)
	}
}

func foldersBelow(root string, depth int) []string {
	var out []string
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if strings.Count(strings.TrimPrefix(path, root), "/") > depth {
			return fs.SkipDir
		}
		if d.IsDir() {
			out = append(out, path)
		}
		return nil
	})
	return out
}

// difference is what a has and b has not.
func difference(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

func kill9(t *testing.T, pid int) {
	t.Helper()
	if err := exec.Command("kill", "-9", strconv.Itoa(pid)).Run(); err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
}
