package staticmanifests

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

var update = flag.Bool("update", false, "write the plain manifests anew")

// header is what the rendered files begin with: comments do not survive rendering.
const header = `# Made from static-manifests/install/overlays by go test ./static-manifests -update; DO NOT EDIT.
#
# The API server's address is read from the ConfigMap kube-system/orlop-agent, key kubeconfig.conf, because the Service "kubernetes" does not
# work before the agent does. The pods' range is read from kubeadm's ConfigMap where there is one; elsewhere give --cluster-cidr.
#
`

// privileges say why each is there, for whoever has to allow them.
var privileges = map[string]string{
	"BPF":       "programs and maps",
	"PERFMON":   "the verifier, of programs that compare packet pointers",
	"NET_ADMIN": "links, routes, nftables, attaching programs",

	"NET_BIND_SERVICE": "listening at Services' ports, in proxy mode userspace",
	"NET_RAW":          "iptables of the legacy flavour, in proxy mode iptables",
	"SYS_ADMIN":        "going to pods' network namespaces, only there: to end sockets whose endpoint is gone, and to know those of pods that opt out; without it sockets stay, and are all translated",
	"SYS_CHROOT":       "running the host's iptables, in proxy mode iptables",
}

func TestPlainManifestsAreWhatOverlaysRender(t *testing.T) {
	for overlay, file := range map[string]string{"both": "orlop-agent.yaml", "proxy-only": "proxy-only.yaml", "cni-only": "cni-only.yaml"} {
		rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join("install", "overlays", overlay))
		if err != nil {
			t.Fatal(err)
		}
		text, err := rendered.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		want := append([]byte(header+explain(t, string(text))), text...)
		path := filepath.Join("install", file)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) {
			t.Errorf("%s is not what overlays/%s renders; go test ./static-manifests -update writes it\n%s", path, overlay, cmp.Diff(string(want), string(got)))
		}
	}
}

// explain says what the container that stays may do, and what for.
func explain(t *testing.T, manifest string) string {
	t.Helper()
	_, after, ok := strings.Cut(manifest, "          capabilities:\n            add:\n")
	if !ok {
		t.Fatal("no capabilities")
	}
	var b strings.Builder
	b.WriteString("# The agent is not privileged. Its capabilities are for:\n")
	for line := range strings.Lines(after) {
		name, is := strings.CutPrefix(line, "            - ")
		if !is {
			break
		}
		name = strings.TrimSpace(name)
		why := privileges[name]
		if why == "" {
			t.Errorf("nothing says what %s is for", name)
		}
		b.WriteString("#   " + name + ": " + why + "\n")
	}
	if strings.Contains(manifest, "name: mounts") {
		b.WriteString("# The init container is: it mounts a BPF file system and cgroup v2 on nodes that have none, and ends.\n")
	}
	return b.String()
}
