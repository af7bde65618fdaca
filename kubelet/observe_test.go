package kubelet

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestNeverRan(t *testing.T) {
	const created, running, exited = runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED
	for _, tt := range []struct {
		name string
		st   *runtimeapi.ContainerStatus
		want bool
	}{
		{"created, never started", &runtimeapi.ContainerStatus{State: created}, true},
		{"start given up when the kubelet died", &runtimeapi.ContainerStatus{State: exited, ExitCode: 128, Message: "failed to create containerd task: context canceled: unknown"}, true},
		{"shim killed when the kubelet died", &runtimeapi.ContainerStatus{State: exited, ExitCode: 128, Message: "failed to create containerd task: failed to start shim: start failed: : signal: killed: unknown"}, true},
		{"could not be started", &runtimeapi.ContainerStatus{State: exited, ExitCode: 128, Message: "exec: no such file or directory"}, false},
		{"ran and said so", &runtimeapi.ContainerStatus{State: exited, StartedAt: 1, ExitCode: 1, Message: "context canceled"}, false},
		{"runs", &runtimeapi.ContainerStatus{State: running, StartedAt: 1}, false},
	} {
		if got := neverRan(tt.st); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
