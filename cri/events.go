package cri

import (
	"context"
	"errors"

	apievents "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Event says that something happened to a container or sandbox. It is a hint to look, not a fact
// to keep: containerd's CRI plugin learns of an exit at the same moment, and may for some
// milliseconds still call the container running.
type Event struct {
	// ID is of a container or of a sandbox.
	ID string
	// Kind is what happened.
	Kind EventKind
}

// EventKind is what happened to a container or sandbox.
type EventKind int

// Kinds of event.
const (
	// Connected: the stream is open. What happened before was not reported, so list everything.
	Connected EventKind = iota
	Stopped
	Deleted
	OutOfMemory
)

func (k EventKind) String() string {
	return [...]string{"connected", "stopped", "deleted", "out of memory"}[k]
}

// Watch calls handle for every event, one at a time, until ctx ends or the stream breaks, and says
// why. It uses the CRI's event stream where the runtime has it and containerd's own elsewhere; a
// runtime with neither gives ErrUnimplemented.
func (c *Client) Watch(ctx context.Context, handle func(Event)) error {
	err := c.watchCRI(ctx, handle)
	if errors.Is(err, ErrUnimplemented) {
		err = c.watchContainerd(ctx, handle)
	}
	return err
}

func (c *Client) watchCRI(ctx context.Context, handle func(Event)) error {
	stream, err := c.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return wrap("watch runtime events", "", err)
	}
	// A runtime without the call says so only at the first Recv, so Connected is told either
	// by a first event or by the other stream; a runtime with it sends a header at once or
	// nothing until the first event, and Connected early is harmless.
	handle(Event{Kind: Connected})
	for {
		r, err := stream.Recv()
		if err != nil {
			return wrap("watch runtime events", "", ended(err))
		}
		switch r.ContainerEventType {
		case runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT:
			handle(Event{ID: r.ContainerId, Kind: Stopped})
		case runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT:
			handle(Event{ID: r.ContainerId, Kind: Deleted})
		}
	}
}

func (c *Client) watchContainerd(ctx context.Context, handle func(Event)) error {
	ns := `namespace=="` + c.namespace + `"`
	stream, err := c.events.Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{
		ns + `,topic=="/tasks/exit"`, ns + `,topic=="/tasks/oom"`, ns + `,topic=="/containers/delete"`,
	}})
	if err != nil {
		return wrap("watch containerd events", "", err)
	}
	handle(Event{Kind: Connected})
	for {
		env, err := stream.Recv()
		if err != nil {
			return wrap("watch containerd events", "", ended(err))
		}
		if ev, ok := fromContainerd(env.GetTopic(), env.GetEvent().GetValue()); ok {
			handle(ev)
		}
	}
}

// fromContainerd reads one of containerd's own events. The exit of an exec'd process is not an
// event of its container.
func fromContainerd(topic string, body []byte) (Event, bool) {
	switch topic {
	case "/tasks/exit":
		var e apievents.TaskExit
		if proto.Unmarshal(body, &e) != nil || e.ID != e.ContainerID {
			return Event{}, false
		}
		return Event{ID: e.ContainerID, Kind: Stopped}, true
	case "/tasks/oom":
		var e apievents.TaskOOM
		if proto.Unmarshal(body, &e) != nil {
			return Event{}, false
		}
		return Event{ID: e.ContainerID, Kind: OutOfMemory}, true
	case "/containers/delete":
		var e apievents.ContainerDelete
		if proto.Unmarshal(body, &e) != nil {
			return Event{}, false
		}
		return Event{ID: e.ID, Kind: Deleted}, true
	}
	return Event{}, false
}
