// Package cri talks to a container runtime over its CRI socket.
//
// It owns the connection, a time limit for each kind of call, the translation of gRPC codes into
// the sentinels below, and the stream of runtime events in whichever form the runtime has it. It
// keeps no state about pods and logs nothing. Requests and answers are the messages of
// k8s.io/cri-api runtime v1; nothing of gRPC leaves this package.
package cri

import (
	"errors"
	"fmt"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage bounds an answer: a list of some thousand containers with their annotations.
const maxMessage = 16 << 20

// Config says where the runtime is.
type Config struct {
	// Endpoint is unix:///absolute/path, or the bare path.
	Endpoint string
	// ImageEndpoint serves the image calls; empty means Endpoint.
	ImageEndpoint string
	// Namespace is containerd's namespace for CRI objects, needed only for its own event stream and
	// tasks; empty means k8s.io.
	Namespace string
	// Observe hears of every call that has one answer, when it has ended: its name among upstream's runtime operations, how
	// long it took, and its error before it became one of ours. It is called from many goroutines; nil hears nothing.
	Observe func(operation string, took time.Duration, err error)
}

// Client is a connection to one runtime. All methods may be used concurrently, also while the
// runtime is down: calls then fail with ErrUnavailable, and succeed again once it is back.
type Client struct {
	conns     []*grpc.ClientConn
	runtime   runtimeapi.RuntimeServiceClient
	image     runtimeapi.ImageServiceClient
	events    eventsapi.EventsClient
	tasks     tasksapi.TasksClient
	namespace string
}

// New makes a client. It does not wait for the runtime to answer.
func New(cfg Config) (*Client, error) {
	c := &Client{namespace: cfg.Namespace}
	if c.namespace == "" {
		c.namespace = "k8s.io"
	}
	conn, err := dial(cfg.Endpoint, cfg.Observe)
	if err != nil {
		return nil, err
	}
	c.conns = append(c.conns, conn)
	image := conn
	if cfg.ImageEndpoint != "" && cfg.ImageEndpoint != cfg.Endpoint {
		if image, err = dial(cfg.ImageEndpoint, cfg.Observe); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		c.conns = append(c.conns, image)
	}
	c.runtime = runtimeapi.NewRuntimeServiceClient(conn)
	c.image = runtimeapi.NewImageServiceClient(image)
	c.events = eventsapi.NewEventsClient(conn)
	c.tasks = tasksapi.NewTasksClient(conn)
	return c, nil
}

// Close ends the connections; calls in flight fail.
func (c *Client) Close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

func dial(endpoint string, observe observer) (*grpc.ClientConn, error) {
	target, err := target(endpoint)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithIdleTimeout(0),
		grpc.WithChainUnaryInterceptor(observe.interceptors()...),
		// gRPC's own back-off grows to two minutes; a restarted runtime is back in 0.1 s.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to runtime %s: %w", endpoint, err)
	}
	return conn, nil
}

// target gives gRPC's form of a runtime endpoint. A relative path is refused here, because gRPC
// would complain about an "invalid authority" instead.
func target(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("runtime endpoint %q is not unix:///absolute/path", endpoint)
	}
	return "unix://" + path, nil
}
