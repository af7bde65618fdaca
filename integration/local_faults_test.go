package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// output collects what a process prints, for a reader that does not wait for its end.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// signalUp starts a cluster and sends `orlop up` a signal some time after it has printed a line
// with seen. It returns the exit code and what was printed.
func signalUp(t *testing.T, o orlop, sig syscall.Signal, seen string, later time.Duration) (int, string) {
	t.Helper()
	var out output
	cmd := o.command(nil, "up", "--name", "trace", "--nodes", "2", "--wait", "60s")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begun := func() bool {
		_, err := os.Stat("/var/lib/orlop/trace/cluster.json")
		return err == nil && strings.Contains(out.String(), seen)
	}
	for end := time.Now().Add(60 * time.Second); !begun(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("up never prints %q", seen)
			break
		}
	}
	time.Sleep(later)
	if err := cmd.Process.Signal(sig); err != nil {
		t.Errorf("up had ended: %v", err)
	}
	_ = cmd.Wait() // the exit code says it
	return cmd.ProcessState.ExitCode(), out.String()
}

func TestInterruptedUp(t *testing.T) {
	o := newOrlop(t)
	o.must(t, "down", "--name", "trace")
	before := machine(t)
	t.Cleanup(func() { o.run("down", "--name", "trace") })
	for _, name := range []string{"mountpoints.json", "mountpoints.json.new"} { // killed while it wrote
		err := os.MkdirAll("/var/lib/orlop", 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join("/var/lib/orlop", name), nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		o.must(t, "down", "--name", "trace")
		noTrace(t, before)
	}
	for _, tt := range []struct {
		name, seen string
		later      time.Duration
	}{
		{"at once", "", 0}, {"hosts", "", 60 * time.Millisecond}, {"images", "[hosts]", 300 * time.Millisecond},
		{"control plane", "[images]", time.Second}, {"join", "[control-plane]", 50 * time.Millisecond},
	} {
		t.Run("Ctrl-C, "+tt.name, func(t *testing.T) {
			code, out := signalUp(t, o, syscall.SIGINT, tt.seen, tt.later)
			if code != 1 || !strings.Contains(out, "interrupted") || !strings.Contains(out, "logs: /var/log/orlop-trace") {
				t.Errorf("exit code %d:\n%s", code, out)
			}
			if _, err := os.Stat("/var/log/orlop-trace/up.log"); err != nil {
				t.Error(err)
			}
			o.must(t, "down", "--name", "trace") // takes the logs
			noTrace(t, before)
		})
		if tt.name == "control plane" {
			continue // slow; one that is killed later, when it joins, has as much to leave behind
		}
		t.Run("kill -9, "+tt.name, func(t *testing.T) {
			signalUp(t, o, syscall.SIGKILL, tt.seen, tt.later)
			o.must(t, "down", "--name", "trace")
			noTrace(t, before)
		})
	}
	if entries, err := os.ReadDir(o.home); err != nil || len(entries) > 0 {
		t.Errorf("left in the home folder: %v, %v", entries, err)
	}
}

func TestFailingStep(t *testing.T) {
	o := newOrlop(t)
	o.must(t, "down", "--name", "trace")
	before := machine(t)
	t.Cleanup(func() { o.run("down", "--name", "trace") })
	broken := orlop{bin: t.TempDir(), home: o.home}
	for _, p := range []string{"orlop", "orlop-kubelet", "images"} {
		if out, err := exec.Command("cp", "-r", filepath.Join(o.bin, p), broken.bin).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	agent := filepath.Join(broken.bin, "images", "orlop-agent.tar")
	content, err := os.ReadFile(agent)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 0xff // in the middle of a layer
	if err := os.WriteFile(agent, content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := broken.run("up", "--name", "trace", "--nodes", "2")
	if code != 1 || !strings.Contains(out, "orlop-agent") || !strings.Contains(out, "logs: /var/log/orlop-trace") {
		t.Errorf("a broken image: exit code %d:\n%s", code, out)
	}
	o.must(t, "down", "--name", "trace")
	noTrace(t, before)

	if out, code := o.run("up", "--name", "trace", "--wait", "1s"); code != 4 || !strings.Contains(out, "not ready within 1s") {
		t.Errorf("too little time: exit code %d:\n%s", code, out)
	}
	if err := os.WriteFile(agent, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := broken.run("up", "--name", "trace"); code != 3 || !strings.Contains(out, "not of this program's version") {
		t.Errorf("a foreign image: exit code %d:\n%s", code, out)
	}
	if err := os.Remove(agent); err != nil {
		t.Fatal(err)
	}
	if out, code := broken.run("up", "--name", "trace"); code != 3 || !strings.Contains(out, "make build images") {
		t.Errorf("an image is missing: exit code %d:\n%s", code, out)
	}
	o.must(t, "down", "--name", "trace")
	noTrace(t, before)
}
