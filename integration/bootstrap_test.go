package integration

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestResetAndJoinAgain takes a node back to a bare host, and makes it a node
// again by the line that the control plane prints.
func TestResetAndJoinAgain(t *testing.T) {
	o := newOrlop(t)
	o.must(t, "down", "--name", "boot")
	t.Cleanup(func() { o.run("down", "--name", "boot") })
	o.must(t, "up", "--name", "boot", "--nodes", "2", "--wait", "4m")
	program := filepath.Join(o.bin, "orlop")
	on := func(host string, command ...string) string {
		t.Helper()
		return o.must(t, append([]string{"exec", "--name", "boot", host, "--"}, command...)...)
	}

	on("boot-2", program, "reset", "--force")
	left := on("boot-2", "sh", "-c", `ctr -n k8s.io containers ls -q; nft list tables; ls -A /etc/kubernetes /var/lib/kubelet /etc/cni/net.d /sys/fs/bpf/orlop 2>/dev/null | grep -v ':$'
		ip -o link show type veth | grep -v ' eth0@'; ip -o link show type bridge; ip route show proto 79; true`)
	if strings.TrimSpace(left) != "" {
		t.Errorf("reset left behind:\n%s", left)
	}
	on("boot-2", program, "reset", "--force") // twice is as good as once

	o.must(t, "kubectl", "--name", "boot", "delete", "node", "boot-2")
	line := strings.Fields(strings.TrimSpace(on("boot-1", program, "token", "create", "--print-join-command")))
	if len(line) != 7 || line[0] != "orlop" || line[1] != "join" {
		t.Fatalf("the join line is %q", line)
	}
	on("boot-2", append([]string{program}, line[1:]...)...)
	for end := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		out, code := o.run("kubectl", "--name", "boot", "get", "node", "boot-2", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if code == 0 && out == "True" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("boot-2 is not ready again: %s", out)
		}
	}
	if out, code := o.run("exec", "--name", "boot", "boot-2", "--", program, "join", "192.168.77.11:6443", "--token", "abcdef.0123456789abcdef", "--discovery-token-ca-cert-hash", "sha256:00"); code != 3 || !strings.Contains(out, "already exists") {
		t.Errorf("joining a node again: exit code %d, want 3:\n%s", code, out)
	}
}
