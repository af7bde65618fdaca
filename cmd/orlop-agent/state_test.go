package main

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy/nft"
)

func someState(t testing.TB) []byte {
	stores := map[byte]cache.Store{}
	for kind, obj := range map[byte]any{
		kindNode:    node("a", "10.244.0.0/24", "192.0.2.1"),
		kindService: everyService(),
		kindSlice:   everySlice(),
	} {
		stores[kind] = cache.NewStore(cache.MetaNamespaceKeyFunc)
		kept, err := (&watch{node: "a"}).pack(obj)
		if err == nil {
			err = stores[kind].Add(kept)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := encodeState(&b, "boot", stores); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLastStateIsWholeOrRefused(t *testing.T) {
	content := someState(t)
	got, err := decodeState(content)
	if err != nil || got.boot != "boot" || len(got.nodes) != 1 || len(got.packed) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if d := cmp.Diff(node("a", "10.244.0.0/24", "192.0.2.1"), got.nodes[0]); d != "" {
		t.Error(d)
	}
	w := &watch{node: "a"}
	for i, obj := range []any{everyService(), everySlice()} {
		if want, err := w.pack(obj); err != nil || *want.(*packed) != *got.packed[i] {
			t.Errorf("%+v, want %+v, %v", got.packed[i], want, err)
		}
	}
	for i := range content { // a file that a power cut has torn, and one with a flipped bit
		if _, err := decodeState(content[:i]); err == nil {
			t.Fatalf("the first %d of %d bytes are taken", i, len(content))
		}
		torn := bytes.Clone(content)
		torn[i] ^= 4
		if _, err := decodeState(torn); err == nil {
			t.Fatalf("a flipped bit in byte %d is taken", i)
		}
	}
}

func FuzzLastState(f *testing.F) {
	f.Add(someState(f))
	f.Fuzz(func(_ *testing.T, content []byte) { _, _ = decodeState(content) })
}

// A node that boots while the API server is away serves what it saw last, and lets nothing go when it is back.
func TestKernelBootsWithTheAPIAway(t *testing.T) {
	ns, outside, dir, _ := hosted(t)
	proc := t.TempDir()
	boot := filepath.Join(proc, "kernel", "random", "boot_id")
	if err := errors.Join(os.MkdirAll(filepath.Dir(boot), 0o755), os.WriteFile(boot, []byte("one\n"), 0o600), os.Symlink("/proc/sys/net", filepath.Join(proc, "net"))); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ORLOP_TEST_PROC", proc)
	serves := func() bool { return answer(outside, "192.0.2.1:30080", "/") == http.StatusOK }
	agent := startAgent(t, ns, dir)
	waitFor(t, "service and last state", func() bool {
		_, err := os.Stat(filepath.Join(dir, "data", stateName))
		return err == nil && serves()
	})
	_ = agent.Process.Kill()
	_ = agent.Wait()

	// A new kernel has nothing, and another boot id.
	o := options{}.in(dir)
	if err := ns.Do(func() error {
		return errors.Join(socklb.Remove(o.pinDir), nft.Remove(), os.WriteFile(boot, []byte("two\n"), 0o600))
	}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "no service without an agent: else the test shows nothing", func() bool { return !serves() }) // the kernel detaches programs after the last reference, not with it
	t.Setenv("ORLOP_TEST_AWAY", "yes")
	agent = startAgent(t, ns, dir)
	waitFor(t, "service with the API away", serves)
	waitFor(t, "healthy agent", func() bool { return healthy(ns) })
	_ = agent.Process.Kill()
	_ = agent.Wait()
}

// In mode userspace nothing is in the kernel: an agent that starts again while the API server is away serves what was seen last, too.
func TestKernelUserspaceStartsWithTheAPIAway(t *testing.T) {
	ns, outside, dir, _ := hosted(t)
	t.Setenv("ORLOP_TEST_MODE", modeUserspace)
	serves := func() bool { return answer(outside, "192.0.2.1:30080", "/") == http.StatusOK }
	agent := startAgent(t, ns, dir)
	waitFor(t, "service and last state", func() bool {
		_, err := os.Stat(filepath.Join(dir, "data", stateName))
		return err == nil && serves()
	})
	_ = agent.Process.Kill()
	_ = agent.Wait()
	waitFor(t, "no service without an agent: else the test shows nothing", func() bool { return !serves() })
	t.Setenv("ORLOP_TEST_AWAY", "yes")
	agent = startAgent(t, ns, dir)
	waitFor(t, "service with the API away", serves)
	waitFor(t, "healthy agent", func() bool { return healthy(ns) })
	_ = agent.Process.Kill()
	_ = agent.Wait()
}
