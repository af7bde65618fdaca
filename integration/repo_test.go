package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/orlop-io/orlop/"

// pkg is what `go list -json` says of a package, as far as the arrows need it.
type pkg struct {
	ImportPath, Doc, Name, Dir string
	Imports                    []string
	GoFiles                    []string
}

// allowed says whether package from may import package to; both are paths
// below the module. An arrow is a permission: adding one is a design decision.
func allowed(from, to string) bool {
	area := func(p string) string { first, _, _ := strings.Cut(p, "/"); return first }
	component := func(p string) string {
		parts := strings.SplitN(p, "/", 3)
		if len(parts) < 2 || parts[0] != "cmd" || strings.HasPrefix(parts[1], "orlop") {
			return ""
		}
		return parts[1]
	}
	switch {
	case strings.HasPrefix(to, "cmd/orlop") || strings.HasPrefix(to, "integration/cmd/"):
		return false // mains are imported by none
	case strings.HasPrefix(from, "cmd/orlop") || strings.HasPrefix(from, "integration/cmd/"):
		return true // mains may import all
	case area(from) == area(to) && area(from) != "cmd":
		return true
	case component(from) != "" && component(from) == component(to):
		return true
	case to == "static-manifests":
		return component(from) == "bootstrap" || component(from) == "localcluster"
	case to == "cmd/elected": // a leaf of leader election, for the two that elect
		return component(from) == "controllers" || component(from) == "scheduler"
	case to == "cmd/memory": // a leaf of staying small while calm, for all programs that run for long
		return component(from) == "elected" || component(from) == "apiserver" || component(from) == "etcd" || component(from) == "scheduler"
	case to == "cmd/quota": // a leaf of what objects use, for the two that count
		return component(from) == "apiserver" || component(from) == "controllers"
	}
	switch area(from) {
	case "kubelet":
		return area(to) == "cri"
	case "proxy", "cni":
		return area(to) == "bpf"
	}
	return false
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if ours && !allowed(from, to) {
				t.Errorf("%s imports %s: no such arrow (a new one needs a commit of its own)", from, to)
			}
			if imp == "k8s.io/kubernetes" || strings.HasPrefix(imp, "k8s.io/kubernetes/") {
				t.Errorf("%s imports %s: the published libraries only", from, imp)
			}
		}
	}
}

func TestArrowsRefuse(t *testing.T) {
	for _, arrow := range [][2]string{
		{"kubelet", "cni"}, {"kubelet/server", "proxy"}, {"cni/ipam", "kubelet"}, {"proxy", "cni/routes"}, {"cri", "kubelet"},
		{"bpf", "proxy"}, {"cmd/apiserver", "cmd/controllers"}, {"cmd/scheduler/queue", "kubelet"}, {"integration", "cri"},
		{"cmd/bootstrap", "cmd/orlop"}, {"static-manifests", "cri"},
	} {
		if allowed(arrow[0], arrow[1]) {
			t.Errorf("%s may import %s", arrow[0], arrow[1])
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// The plugin's start is part of every pod's start, so its weight is watched.
func TestCNIPluginStaysLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module+"cmd/orlop-cni").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{"k8s.io/client-go", "google.golang.org/grpc", "github.com/cilium/ebpf"} {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("orlop-cni links %s", dep)
			}
		}
	}
}

// A library that is linked costs each node room and memory, so what the programs may weigh is bounded, in MB.
func TestProgramsStaySmall(t *testing.T) {
	o := newOrlop(t)
	for program, most := range map[string]float64{"orlop": 80, "orlop-server": 120, "orlop-kubelet": 50, "orlop-agent": 45, "orlop-cni": 6, "pause": 0.02} {
		file, err := os.Stat(filepath.Join(o.bin, program))
		if err != nil {
			t.Error(err)
		} else if has := float64(file.Size()) / 1e6; has > most {
			t.Errorf("%s has %.2f MB, wanted are %v", program, has, most)
		}
	}
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Name,Dir,Imports,GoFiles", "./...")
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
