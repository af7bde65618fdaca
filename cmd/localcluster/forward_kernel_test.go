package localcluster

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

// echoCommand makes the test binary a server that tells each caller its host's name and the
// caller's address, then sends back what it gets.
const echoCommand = "test-echo"

func echo(_ context.Context, args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			host, _ := os.Hostname()
			from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s ", host, from)
			io.Copy(c, c)
		}()
	}
}

func say(t *testing.T, port uint16, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestKernelForwarder(t *testing.T) {
	c := testCluster(t, 2)
	server := httptest.NewServer(registry.New(registry.Logger(stdlog.New(io.Discard, "", 0))))
	defer server.Close()
	u, _ := url.Parse(server.URL)
	port, _ := strconv.ParseUint(u.Port(), 10, 16)

	c.Offline, c.Registries = false, []uint16{uint16(port)}
	c.APIPort = mustFreePort(t)
	c.Publish = []layout.Publish{{HostPort: mustFreePort(t), NodePort: 30080}}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	if err := startForwarder(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	boot := func(ctx context.Context, h layout.Host) error { return bootHost(ctx, c, h) }
	if err := eachHost(t.Context(), c.Hosts, boot); err != nil {
		t.Fatal(err)
	}
	inHost(t, c, 0, "setsid "+c.Exe+" "+echoCommand+" :6443 >/dev/null 2>&1 </dev/null &")
	inHost(t, c, 1, "setsid "+c.Exe+" "+echoCommand+" :30080 >/dev/null 2>&1 </dev/null &")
	inHost(t, c, 0, "while ! grep -q :192B /proc/net/tcp6; do sleep 0.01; done")
	inHost(t, c, 1, "while ! grep -q :7580 /proc/net/tcp6; do sleep 0.01; done")

	first, second := c.Hosts[0], c.Hosts[1]
	if got, want := say(t, c.APIPort, "hello"), first.Name+" "+first.Addr.String()+" hello"; got != want {
		t.Errorf("the API's port answers %q, want %q", got, want)
	}
	// The first host refuses, so the second is asked.
	if got, want := say(t, c.Publish[0].HostPort, "hello"), second.Name+" "+second.Addr.String()+" hello"; got != want {
		t.Errorf("the published port answers %q, want %q", got, want)
	}
	pull(t, c, u.Host, fmt.Sprintf("%s:%d", layout.MachineName, port))

	if err := startForwarder(t.Context(), c); err != nil {
		t.Fatal("a second forwarder takes the place of the first:", err)
	}
	if got := say(t, c.APIPort, "again"); !strings.HasSuffix(got, " again") {
		t.Errorf("after a restart the API's port answers %q", got)
	}
}

// pull pushes an image to the registry as the machine calls it, and has containerd pull it under
// the name that hosts use.
func pull(t *testing.T, c *layout.Cluster, pushTo, pullFrom string) {
	t.Helper()
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	conf.Architecture, conf.OS = "amd64", "linux"
	if img, err = mutate.ConfigFile(img, conf); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(pushTo+"/some/image:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	st, err := control.Ask(t.Context(), layout.Socket(c.Name, c.Hosts[0].Name))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(fmt.Sprintf("unix:///proc/%d/root/run/containerd/containerd.sock", st.Pid),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = runtimeapi.NewImageServiceClient(conn).PullImage(t.Context(), &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: pullFrom + "/some/image:1"},
	})
	if err != nil {
		t.Errorf("pull through the proxy: %v", err)
	}
}

func mustFreePort(t *testing.T) uint16 {
	t.Helper()
	p, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
