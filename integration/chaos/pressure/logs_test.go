package pressure

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Logs are moved aside while a container writes and somebody reads: no line is lost or comes twice, and no more files are
// kept than may be.
func TestLogRotation(t *testing.T) {
	ns := cluster.Namespace(t)
	configure(t, "containerLogMaxSize: 40Ki\ncontainerLogMaxFiles: 3\ncontainerLogMonitorInterval: 3s")
	cluster.RunPod(t, ns, consumer("p", []string{"--log=4000", "--every=2ms"}))
	ctx, cancel := context.WithTimeout(t.Context(), 16*time.Second)
	defer cancel()
	stream, err := cluster.Client.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	next := -1
	for lines := bufio.NewScanner(stream); lines.Scan(); {
		n, err := strconv.Atoi(strings.TrimRight(lines.Text(), "."))
		if err != nil {
			t.Fatalf("line %q", lines.Text())
		}
		if next >= 0 && n != next {
			t.Fatalf("line %d came where %d should", n, next)
		}
		next = n + 1
	}
	if next < 1000 {
		t.Errorf("only %d lines were read", next)
	}
	files := strings.Fields(sh(t, "ls /var/log/pods/"+ns+"_p_*/c/"))
	if len(files) != 3 || !strings.HasSuffix(strings.Join(files, " "), ".gz") && !strings.Contains(strings.Join(files, " "), ".gz ") {
		t.Errorf("files are %v, want the log, the last one, and one packed", files)
	}
}

// A crashing container leaves the logs of its last two instances, not of all.
func TestOldLogsGo(t *testing.T) {
	ns := cluster.Namespace(t)
	configure(t, "crashLoopBackOff: {maxContainerRestartPeriod: 1s}")
	p := consumer("p", nil)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	p.Spec.Containers[0].Args = []string{"sh", "-c", "echo here; exit 1"}
	create(t, ns, p)
	cluster.WaitPod(t, ns, "p", "restarted ten times", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount >= 10
	})
	cluster.Eventually(t, 90*time.Second, "old logs to go", func(context.Context) error {
		files := strings.Fields(sh(t, "ls /var/log/pods/"+ns+"_p_*/c/"))
		if slices.Contains(files, "0.log") || slices.Contains(files, "1.log") {
			return fmt.Errorf("files are %v", files)
		}
		return nil
	})
	if out, err := cluster.Kubectl("logs", "-n", ns, "p", "--previous"); err != nil || !strings.Contains(out, "here") {
		t.Errorf("the log of the last instance: %q, %v", out, err)
	}
}
