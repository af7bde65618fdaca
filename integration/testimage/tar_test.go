package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pipe runs a tool with what it reads.
func pipe(in []byte, argv ...string) (out, errs []byte, code int) {
	var o, e bytes.Buffer
	code = run(&stdio{bytes.NewReader(in), &o, &e}, argv)
	return o.Bytes(), e.Bytes(), code
}

func TestTarThereAndBack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	old := time.Unix(1e9, 0)
	for path, content := range map[string]string{"d/run": "#!/bin/sh\n", "d/below/empty": ""} {
		path = filepath.Join(from, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("run", filepath.Join(from, "d/link")); err != nil {
		t.Fatal(err)
	}
	archive, errs, code := pipe(nil, "tar", "cf", "-", "-C", from, "d")
	if code != 0 {
		t.Fatalf("create: %d %s", code, errs)
	}
	for _, tt := range []struct {
		args string
		now  bool
	}{
		{"-xmf -", true},
		{"xf -", false},
		{"--no-same-permissions --no-same-owner -xmf -", true},
	} {
		dir := filepath.Join(to, strings.ReplaceAll(tt.args, " ", "_"))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time over what is there
			if _, errs, code := pipe(archive, strings.Fields("tar "+tt.args+" -C "+dir)...); code != 0 {
				t.Fatalf("tar %s: %d %s", tt.args, code, errs)
			}
		}
		info, err := os.Stat(filepath.Join(dir, "d/link"))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(info.Mode().Perm(), info.Size(), info.ModTime().Equal(old)); got != fmt.Sprint("-rwxr-x--- 10 ", !tt.now) {
			t.Errorf("tar %s: the link leads to %s", tt.args, got)
		}
		if _, err := os.Stat(filepath.Join(dir, "d/below/empty")); err != nil {
			t.Error(err)
		}
	}
}

func TestTarNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	archive, errs, code := pipe(nil, "tar", "cf", "-", file, "/does-not-exist")
	if code == 0 || !strings.Contains(string(errs), "/does-not-exist") {
		t.Errorf("a missing file: %d %s", code, errs)
	}
	h, err := tar.NewReader(bytes.NewReader(archive)).Next()
	if err != nil || "/"+h.Name != file {
		t.Errorf("an absolute path is called %+v, %v", h, err)
	}
}

func TestTarStaysInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for _, headers := range [][]tar.Header{
		{{Name: "../x", Typeflag: tar.TypeReg, Mode: 0o600}},
		{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)}, {Name: "l/outside", Typeflag: tar.TypeReg, Mode: 0o600}},
		{{Name: "pipe", Typeflag: tar.TypeFifo}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if _, errs, code := pipe(b.Bytes(), "tar", "xf", "-", "-C", t.TempDir()); code == 0 || len(errs) == 0 {
			t.Errorf("%v: code %d, said %q", headers, code, errs)
		}
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("written outside through a link")
	}
}

func TestTarArguments(t *testing.T) {
	for args, want := range map[string]string{
		"":           "one of c and x is needed",
		"cxf - a":    "one of c and x is needed",
		"cf -":       "nothing to archive",
		"xf - a":     "extracts only whole archives",
		"xzf -":      "no option -z",
		"xf":         "xf needs an argument",
		"xf - --gid": "no option --gid",
	} {
		if _, err := tarArguments(strings.Fields(args)); err == nil || err.Error() != want {
			t.Errorf("tar %s: %v, want %s", args, err, want)
		}
	}
}
