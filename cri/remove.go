package cri

import (
	"context"
	"errors"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveSandbox removes a sandbox and all containers in it. A sandbox that is gone is success.
func (c *Client) RemoveSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	err := c.removeSandbox(ctx, id)
	if !errors.Is(err, errHeld) {
		return gone(err)
	}
	r, listErr := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	if listErr != nil {
		return errors.Join(err, wrap("list containers of sandbox", id, listErr))
	}
	for _, held := range r.Containers {
		if removeErr := c.RemoveContainer(ctx, held.Id); removeErr != nil {
			return removeErr
		}
	}
	return gone(c.removeSandbox(ctx, id))
}

func (c *Client) removeSandbox(ctx context.Context, id string) error {
	_, err := c.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return wrap("remove sandbox", id, err)
}

// RemoveContainer removes a container, killing it if need be. One that is gone is success.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	err := c.removeContainer(ctx, id)
	if !errors.Is(err, errHeld) {
		return gone(err)
	}
	if taskErr := c.dropTask(ctx, id); taskErr != nil {
		return errors.Join(err, taskErr)
	}
	return gone(c.removeContainer(ctx, id))
}

func (c *Client) removeContainer(ctx context.Context, id string) error {
	_, err := c.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return wrap("remove container", id, err)
}

// dropTask ends and deletes containerd's task of a container that its CRI part believes never to have run. That is what a
// start leaves whose caller died at the wrong moment: nothing in the CRI gets rid of such a task, and it keeps its
// container and sandbox, and if it runs its processes, until containerd is restarted. A runtime that is not containerd
// has no tasks.
func (c *Client) dropTask(ctx context.Context, id string) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", c.namespace)
	const kill = 9
	// A task that has ended cannot be killed, and that there is none shows below.
	_, _ = c.tasks.Kill(ctx, &tasksapi.KillRequest{ContainerID: id, Signal: kill, All: true})
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := c.tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: id})
		if err := gone(wrap("delete task", id, err)); !errors.Is(err, errHeld) { // it is until its process has ended
			return err
		}
		select {
		case <-ctx.Done():
			return wrap("delete task", id, err)
		case <-time.After(wait):
		}
	}
}
