package cri

import (
	"context"
	"slices"
	"testing"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tasks are containerd's, by container; true is one that runs.
type tasks struct {
	tasksapi.UnimplementedTasksServer
	left map[string]bool
}

func mine(ctx context.Context) error {
	if md, _ := metadata.FromIncomingContext(ctx); !slices.Equal(md.Get("containerd-namespace"), []string{"k8s.io"}) {
		return status.Error(codes.FailedPrecondition, "namespace is required")
	}
	return nil
}

func (s *tasks) Kill(ctx context.Context, r *tasksapi.KillRequest) (*emptypb.Empty, error) {
	if err := mine(ctx); err != nil {
		return nil, err
	}
	if !s.left[r.ContainerID] {
		return nil, status.Error(codes.NotFound, "process already finished")
	}
	s.left[r.ContainerID] = false
	return &emptypb.Empty{}, nil
}

func (s *tasks) Delete(ctx context.Context, r *tasksapi.DeleteTaskRequest) (*tasksapi.DeleteResponse, error) {
	if err := mine(ctx); err != nil {
		return nil, err
	}
	if runs, ok := s.left[r.ContainerID]; runs {
		return nil, status.Error(codes.FailedPrecondition, "cannot delete a running process")
	} else if !ok {
		return nil, status.Error(codes.NotFound, "no such task")
	}
	delete(s.left, r.ContainerID)
	return &tasksapi.DeleteResponse{}, nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	out := &runtimeapi.ListContainersResponse{}
	if r.GetFilter().GetPodSandboxId() == "s" {
		for id := range f.containers {
			out.Containers = append(out.Containers, &runtimeapi.Container{Id: id})
		}
	}
	return out, nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if _, ok := f.tasks.left[r.ContainerId]; ok {
		return nil, status.Errorf(codes.FailedPrecondition, "cannot delete running task %s: failed precondition", r.ContainerId)
	}
	delete(f.containers, r.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (f *fakeRuntime) RemovePodSandbox(ctx context.Context, _ *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	for id := range f.containers {
		if _, err := f.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// A start that was cut off can leave a task that the CRI part of containerd does not know.
func TestRemoveTakesTasksAlong(t *testing.T) {
	for name, tt := range map[string]struct {
		left   map[string]bool
		remove func(*Client) error
	}{
		"container with a task that ended": {map[string]bool{"c1": false}, func(c *Client) error { return c.RemoveContainer(t.Context(), "c1") }},
		"container with a task that runs":  {map[string]bool{"c1": true}, func(c *Client) error { return c.RemoveContainer(t.Context(), "c1") }},
		"sandbox of such containers":       {map[string]bool{"c1": true, "c2": false}, func(c *Client) error { return c.RemoveSandbox(t.Context(), "s") }},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeRuntime{containers: map[string]*runtimeapi.ContainerStatus{}, tasks: tasks{left: tt.left}}
			for id := range tt.left {
				f.containers[id] = &runtimeapi.ContainerStatus{Id: id}
			}
			if err := tt.remove(serve(t, f)); err != nil {
				t.Error(err)
			}
			if len(f.containers)+len(f.tasks.left) > 0 {
				t.Errorf("left: containers %v, tasks %v", f.containers, f.tasks.left)
			}
		})
	}
}
