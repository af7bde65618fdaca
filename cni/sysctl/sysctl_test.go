package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLedger(t *testing.T) {
	l := Ledger{Dir: filepath.Join(t.TempDir(), Folder), Root: t.TempDir()}
	write := func(key, value string) {
		t.Helper()
		path := filepath.Join(l.Root, key)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	changes := func() string {
		t.Helper()
		list, err := l.Changes()
		must(err)
		var out []string
		for _, c := range list {
			out = append(out, c.String())
		}
		return strings.Join(out, "\n")
	}
	write("kernel/random/boot_id", "one")
	write("net/a", "0")
	write("net/b", "1")
	write("net/c", "7")

	must(l.Set("net/b", "1"))
	if _, err := os.Stat(l.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a setting that was right has been noted: %v", err)
	}
	must(l.Set("net/a", "1"))
	must(l.Set("net/a", "2")) // what it was before both is what counts
	must(l.Set("net/c", "8"))
	write("net/c", "9") // somebody else
	if err := l.Set("net/none", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such setting: %v", err)
	}
	want := "set sysctl net.a from 2 back to 0\nleave sysctl net.c at 9: it was set to 8 here, and changed since"
	if got := changes(); got != want {
		t.Errorf("changes:\n%s\nwant:\n%s", got, want)
	}
	list, err := l.Changes()
	must(err)
	for _, c := range list {
		must(l.Undo(c))
	}
	for key, want := range map[string]string{"net/a": "0", "net/b": "1", "net/c": "9"} {
		if got, err := l.Value(key); err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", key, got, err, want)
		}
	}

	must(l.Set("net/a", "1"))
	write("kernel/random/boot_id", "two") // and with it the settings of the new kernel
	write("net/a", "5")
	if got := changes(); got != "" {
		t.Errorf("changes of another boot: %s", got)
	}
	must(l.Set("net/a", "1"))
	must(os.WriteFile(filepath.Join(l.Dir, temporary+"x"), []byte(`{"key`), 0o600)) // of a process that was killed
	if got, want := changes(), "set sysctl net.a from 1 back to 5"; got != want {
		t.Errorf("changes %q, want %q", got, want)
	}
}
