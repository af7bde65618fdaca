// Package image packs programs into OCI image archives, with no container
// daemon.
//
// The archives are reproducible: the same programs give the same bytes (file
// times are zero, order is fixed). Layers are not compressed, because an
// archive is read from the disk it lies on and unpacking is what a host waits
// for.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Spec says what goes into one archive.
type Spec struct {
	Names      []string          // without registry and tag, e.g. "pause"; all name the same image
	Files      map[string]string // path in the image -> file in the folder of programs
	Links      map[string]string // path in the image -> target of the symbolic link
	Dirs       []string
	Entrypoint []string
	Cmd        []string
	User       string
}

// Cluster lists the images that a cluster needs.
func Cluster() []Spec {
	server := map[string]string{}
	for _, n := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns"} {
		server["/usr/local/bin/"+n] = "orlop-server"
	}
	return []Spec{
		{Names: []string{"pause"}, Files: map[string]string{"/pause": "pause"}, Entrypoint: []string{"/pause"}, User: "65535:65535"},
		{
			Names: []string{"orlop-server"},
			Files: map[string]string{"/usr/local/bin/orlop-server": "orlop-server"},
			Links: server,
			Dirs:  []string{"/tmp", "/etc"},
			Cmd:   []string{"/usr/local/bin/orlop-server"},
		},
		{
			Names: []string{"orlop-agent"},
			Files: map[string]string{"/usr/local/bin/orlop-agent": "orlop-agent", "/opt/orlop/orlop-cni": "orlop-cni"},
			// Where a host's /usr is mounted, these make its programs find their libraries.
			Links:      map[string]string{"/host/bin": "usr/bin", "/host/sbin": "usr/sbin", "/host/lib": "usr/lib", "/host/lib64": "usr/lib64"},
			Dirs:       []string{"/tmp", "/etc", "/host/usr", "/host/run", "/host/etc"},
			Entrypoint: []string{"/usr/local/bin/orlop-agent"},
		},
	}
}

// Write packs s from the programs in bin into the OCI archive file, whole or
// not at all. The image is called registry/name:version under each of its names.
func (s Spec) Write(file, bin, registry, version, arch string) error {
	layer, err := s.layer(bin)
	if err != nil {
		return err
	}
	img, err := s.build(layer, arch)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mkimage")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	index, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	for _, n := range s.Names {
		ref, err := name.NewTag(registry + "/" + n + ":" + version)
		if err != nil {
			return err
		}
		// containerd takes the whole name from the first annotation; other
		// tools know only the second.
		if err := index.AppendImage(img, layout.WithAnnotations(map[string]string{
			"io.containerd.image.name":          ref.String(),
			"org.opencontainers.image.ref.name": ref.TagStr(),
		})); err != nil {
			return err
		}
	}
	return pack(file, dir)
}

func (s Spec) build(layer []byte, arch string) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, mutate.Addendum{
		Layer:     static.NewLayer(layer, types.OCIUncompressedLayer),
		MediaType: types.OCIUncompressedLayer,
		History:   v1.History{CreatedBy: "orlop"},
	})
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config = v1.Config{Entrypoint: s.Entrypoint, Cmd: s.Cmd, Env: []string{searchPath}, User: s.User}
	return mutate.ConfigFile(img, cfg)
}

// layer is the image's file tree as a tar, parents before children.
func (s Spec) layer(bin string) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	seen := map[string]bool{"/": true}
	var mkdir func(string) error
	mkdir = func(dir string) error {
		if seen[dir] {
			return nil
		}
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		seen[dir] = true
		mode := int64(0o755)
		if dir == "/tmp" {
			mode = 0o1777
		}
		return w.WriteHeader(header(dir+"/", tar.TypeDir, mode))
	}
	for _, dir := range s.Dirs {
		if err := mkdir(dir); err != nil {
			return nil, err
		}
	}
	for _, p := range sorted(s.Files) {
		content, err := os.ReadFile(filepath.Join(bin, s.Files[p]))
		if err != nil {
			return nil, fmt.Errorf("%w (build it first: make build)", err)
		}
		if err := mkdir(path.Dir(p)); err != nil {
			return nil, err
		}
		h := header(p, tar.TypeReg, 0o755)
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	for _, p := range sorted(s.Links) {
		if err := mkdir(path.Dir(p)); err != nil {
			return nil, err
		}
		h := header(p, tar.TypeSymlink, 0o777)
		h.Linkname = s.Links[p]
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

func header(p string, kind byte, mode int64) *tar.Header {
	return &tar.Header{Name: strings.TrimPrefix(p, "/"), Typeflag: kind, Mode: mode, ModTime: time.Unix(0, 0)}
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// pack writes dir as a tar to file, whole or not at all.
func pack(file, dir string) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".mkimage-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	w := tar.NewWriter(tmp)
	// WalkDir goes in lexical order, which makes the archive reproducible.
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		h := header(rel, tar.TypeReg, 0o644)
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
