package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	apitypes "github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeRuntime is a runtime that knows a set of containers, on a real socket.
type fakeRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	eventsapi.UnimplementedEventsServer
	containers map[string]*runtimeapi.ContainerStatus
	hang       bool
	tasks      tasks
	config     string // in the verbose status
}

func (f *fakeRuntime) Status(_ context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	out := &runtimeapi.StatusResponse{}
	if r.Verbose {
		out.Info = map[string]string{"config": f.config}
	}
	return out, nil
}

func (f *fakeRuntime) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	st, ok := f.containers[r.ContainerId]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no container %q", r.ContainerId)
	}
	return &runtimeapi.ContainerStatusResponse{Status: st}, nil
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, uid := range []string{"u1", "u2"} {
		if want, ok := r.GetFilter().GetLabelSelector()["uid"]; !ok || want == uid {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: "sandbox-" + uid})
		}
	}
	return out, nil
}

func (f *fakeRuntime) StopContainer(_ context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if _, ok := f.containers[r.ContainerId]; !ok {
		return nil, status.Error(codes.NotFound, "gone")
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (f *fakeRuntime) Subscribe(_ *eventsapi.SubscribeRequest, s eventsapi.Events_SubscribeServer) error {
	for _, e := range []*apievents.TaskExit{{ContainerID: "c1", ID: "exec-7"}, {ContainerID: "c1", ID: "c1", ExitStatus: 137}} {
		body, err := proto.Marshal(e)
		if err != nil {
			return err
		}
		if err := s.Send(&apitypes.Envelope{Topic: "/tasks/exit", Event: &anypb.Any{Value: body}}); err != nil {
			return err
		}
	}
	return nil
}

func serve(t *testing.T, f *fakeRuntime) *Client {
	t.Helper()
	return serveObserved(t, f, nil)
}

func serveObserved(t *testing.T, f *fakeRuntime, observe func(string, time.Duration, error)) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, f)
	runtimeapi.RegisterImageServiceServer(s, f)
	eventsapi.RegisterEventsServer(s, f)
	tasksapi.RegisterTasksServer(s, &f.tasks)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	c, err := New(Config{Endpoint: "unix://" + path, Observe: observe})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A pod's own sandboxes are found without listing those of all pods, and what users are told is what the runtime said.
func TestListingAndWords(t *testing.T) {
	c := serve(t, &fakeRuntime{})
	if all, err := c.Sandboxes(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("all sandboxes: %v, %v", all, err)
	}
	if one, err := c.SandboxesWith(t.Context(), map[string]string{"uid": "u2"}); err != nil || len(one) != 1 || one[0].Id != "sandbox-u2" {
		t.Errorf("sandboxes of u2: %v, %v", one, err)
	}
	_, err := c.Container(t.Context(), "c2")
	if err == nil || Words(fmt.Errorf("look: %w", err)) != `no container "c2"` {
		t.Errorf("the runtime said %q", Words(err))
	}
}

func TestCodesBecomeSentinels(t *testing.T) {
	f := &fakeRuntime{containers: map[string]*runtimeapi.ContainerStatus{"c1": {Id: "c1"}}}
	c := serve(t, f)
	if st, err := c.Container(t.Context(), "c1"); err != nil || st.Id != "c1" {
		t.Fatalf("Container(c1) = %v, %v", st, err)
	}
	if _, err := c.Container(t.Context(), "c2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing container: %v, want ErrNotFound", err)
	}
	if err := c.StopContainer(t.Context(), "c2", time.Second); err != nil {
		t.Errorf("stopping what is gone: %v, want nil", err)
	}
	if _, err := c.CgroupDriver(t.Context()); !errors.Is(err, ErrUnimplemented) {
		t.Errorf("RuntimeConfig: %v, want ErrUnimplemented", err)
	}
	f.hang = true
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Container(ctx, "c1"); !errors.Is(err, ErrTimeout) {
		t.Errorf("hanging runtime: %v, want ErrTimeout", err)
	}
}

func TestRuntimeDown(t *testing.T) {
	c, err := New(Config{Endpoint: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Version(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no socket: %v, want ErrUnavailable", err)
	}
	if _, err := New(Config{Endpoint: "run/containerd.sock"}); err == nil {
		t.Error("relative endpoint accepted")
	}
}

// A runtime without GetContainerEvents is watched through containerd's stream, and an exec's exit
// is not taken for the container's.
func TestWatchFallsBack(t *testing.T) {
	c := serve(t, &fakeRuntime{})
	var got []Event
	err := c.Watch(t.Context(), func(e Event) {
		if e.Kind != Connected {
			got = append(got, e)
		}
	})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("end of stream: %v, want ErrUnavailable", err)
	}
	if len(got) != 1 || got[0] != (Event{ID: "c1", Kind: Stopped}) {
		t.Errorf("events %v, want one stop of c1", got)
	}
}

// Containerd 1.x tells of its cgroup driver only in its configuration.
func TestConfiguredDriver(t *testing.T) {
	config := func(options string) string {
		return `{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"runtimeType":"io.containerd.runc.v2","options":` + options + `},"other":{"runtimeType":"x"}}},"cni":{}}`
	}
	for _, tt := range []struct {
		name, config string
		driver       runtimeapi.CgroupDriver
		ok           bool
	}{
		{"systemd", config(`{"BinaryName":"","SystemdCgroup":true}`), runtimeapi.CgroupDriver_SYSTEMD, true},
		{"not said", config(`{}`), runtimeapi.CgroupDriver_CGROUPFS, true},
		{"no options", config(`null`), runtimeapi.CgroupDriver_CGROUPFS, true},
		{"another runtime by default", strings.Replace(config(`{"SystemdCgroup":true}`), `Name":"runc"`, `Name":"other"`, 1), 0, false},
		{"another form", `{"containerd":[]}`, 0, false},
		{"nothing", "", 0, false},
	} {
		if driver, ok := configuredDriver(tt.config); driver != tt.driver || ok != tt.ok {
			t.Errorf("%s: %v %v, want %v %v", tt.name, driver, ok, tt.driver, tt.ok)
		}
	}
}

func TestNetworkFolders(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		plugins      []string
		conf         string
	}{
		{"containerd 1.6", `{"containerd":{},"cni":{"binDir":"/usr/lib/cni","confDir":"/etc/cni/net.d","maxConfNum":1}}`, []string{"/usr/lib/cni"}, "/etc/cni/net.d"},
		{"containerd 2", `{"cni":{"binDir":"","binDirs":["/opt/a","/opt/b"],"confDir":"/etc/cni/other"}}`, []string{"/opt/a", "/opt/b"}, "/etc/cni/other"},
		{"another runtime", `{"sandboxImage":"x"}`, nil, ""},
		{"not JSON", `[crio]`, nil, ""},
		{"nothing", "", nil, ""},
	} {
		c := serve(t, &fakeRuntime{config: tt.config})
		plugins, conf, err := c.NetworkFolders(t.Context())
		if !slices.Equal(plugins, tt.plugins) || conf != tt.conf || errors.Is(err, ErrUnimplemented) != (tt.plugins == nil) {
			t.Errorf("%s: %v %q %v, want %v %q", tt.name, plugins, conf, err, tt.plugins, tt.conf)
		}
	}
}
