package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// paper is what was written to a caller.
type paper struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *paper) Flush() error { return nil }

func (p *paper) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

func logLine(second int, rest string) string {
	return time.Unix(1e9+int64(second), 5).UTC().Format(time.RFC3339Nano) + " " + rest + "\n"
}

func TestReadLog(t *testing.T) {
	text := logLine(1, "stdout F one") +
		logLine(2, "stdout P tw") + logLine(2, "stderr F err") + logLine(2, "stdout F o") +
		"torn\n" +
		logLine(3, "stdout F ") +
		logLine(4, "stdout F four  spaced") +
		"2001-09-09T01:46:45Z stdout F no newline yet"
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stamp := func(s int) string { return fmt.Sprintf("2001-09-09T01:46:4%d.000000005Z ", s) }
	for _, tt := range []struct {
		name string
		opts logOpts
		want string
	}{
		{"all", logOpts{tail: -1, limit: -1}, "one\ntwerr\no\n\nfour  spaced\n"},
		{"one stream", logOpts{tail: -1, limit: -1, stream: "stdout"}, "one\ntwo\n\nfour  spaced\n"},
		{"stamps, but not in the middle of a line", logOpts{tail: -1, limit: -1, stream: "stdout", timestamps: true},
			stamp(1) + "one\n" + stamp(2) + "two\n" + stamp(3) + "\n" + stamp(4) + "four  spaced\n"},
		{"no lines", logOpts{tail: 0, limit: -1}, ""},
		{"the last line", logOpts{tail: 1, limit: -1}, "four  spaced\n"},
		{"a line of two parts is one", logOpts{tail: 3, limit: -1, stream: "stdout"}, "o\n\nfour  spaced\n"},
		{"more lines than there are", logOpts{tail: 99, limit: -1, stream: "stderr"}, "err\n"},
		{"some bytes", logOpts{tail: -1, limit: 5}, "one\nt"},
		{"since", logOpts{tail: -1, limit: -1, since: time.Unix(1e9+4, 0)}, "four  spaced\n"},
	} {
		out := &paper{}
		if err := readLog(t.Context(), path, tt.opts, out); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, out.String()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, diff)
		}
	}
}

// TestTailAcrossBlocks compares with what reading everything gives, at lengths around that of a block.
func TestTailAcrossBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	for _, length := range []int{10, 65500, 65536 - 45, 140000} {
		var text strings.Builder
		for i := range 5 {
			text.WriteString(logLine(i, "stdout F "+strings.Repeat("x", length)+fmt.Sprint(i)))
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		all := &paper{}
		if err := readLog(t.Context(), path, logOpts{tail: -1, limit: -1}, all); err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(all.String(), "\n")
		for n := range 7 {
			want := strings.Join(lines[max(0, 5-n):], "")
			got := &paper{}
			if err := readLog(t.Context(), path, logOpts{tail: int64(n), limit: -1}, got); err != nil {
				t.Fatal(err)
			}
			if got.String() != want {
				t.Errorf("the last %d of lines of %d: want %d bytes, got %d", n, length, len(want), len(got.String()))
			}
		}
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	out := &paper{}
	saw := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); out.String() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("want %q, got %q", want, out.String())
			}
		}
	}
	var ended atomic.Bool
	add(logLine(1, "stdout F one"))
	done := make(chan error, 1)
	go func() {
		done <- readLog(t.Context(), path, logOpts{tail: -1, limit: -1, follow: true, ended: func(context.Context) bool { return ended.Load() }}, out)
	}()
	saw("one\n")
	whole := logLine(2, "stdout F two")
	add(whole[:len(whole)-2]) // half a line
	add(whole[len(whole)-2:])
	saw("one\ntwo\n")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	add(logLine(3, "stdout F three"))
	saw("one\ntwo\nthree\n")
	ended.Store(true)
	add(logLine(4, "stdout F four"))
	if err := <-done; err != nil {
		t.Error(err)
	}
	saw("one\ntwo\nthree\nfour\n")
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("2001-09-09T01:46:45Z stdout F text"))
	f.Add([]byte("a b P:x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, ok := parseLine(b); ok && len(l.text) > len(b) {
			t.Errorf("more text than there was: %q", l.text)
		}
	})
}
