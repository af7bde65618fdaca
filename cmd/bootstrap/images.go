package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cmd/bootstrap/image"
)

// dialCRI connects to the container runtime at socket (unix:///path).
func dialCRI(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Images of the cluster, by who runs them.
const (
	serverImage = "orlop-server" // static pods and cluster DNS
	agentImage  = "orlop-agent"  // every node
)

// ensureImages makes images of the cluster known to the runtime: from the
// archives beside the program, else packed from the programs themselves. With
// an image repository of the user's own, the runtime pulls them as any other.
func ensureImages(ctx context.Context, out io.Writer, c Config, programs string, wanted ...string) error {
	conn, err := dialCRI(c.CRISocket)
	if err != nil {
		return err
	}
	defer conn.Close()
	images := runtimeapi.NewImageServiceClient(conn)
	for _, spec := range image.Cluster() {
		name := c.image(spec.Names[0])
		// Pause is never wanted: the runtime's own configuration says which image that is.
		if !slices.Contains(wanted, spec.Names[0]) {
			continue
		}
		status, err := images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil {
			return fmt.Errorf("ask %s for image %s: %w", c.CRISocket, name, err)
		}
		if status.Image != nil {
			continue
		}
		if c.ImageRepository != defaultImageRepository {
			say(out, "preflight", "Pulling "+name)
			if _, err := images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}}); err != nil {
				return fmt.Errorf("pull %s: %w", name, err)
			}
			continue
		}
		say(out, "preflight", "Importing "+name)
		if err := importImage(ctx, spec, c, programs); err != nil {
			return fmt.Errorf("import image %s: %w", name, err)
		}
	}
	return nil
}

func importImage(ctx context.Context, spec image.Spec, c Config, programs string) error {
	archive := filepath.Join(programs, "images", spec.Names[0]+".tar")
	if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) {
		dir, err := os.MkdirTemp("", "orlop-image-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		archive = filepath.Join(dir, "image.tar")
		if err := spec.Write(archive, programs, defaultImageRepository, c.Version, runtime.GOARCH); err != nil {
			return err
		}
	}
	socket := strings.TrimPrefix(c.CRISocket, "unix://")
	msg, err := exec.CommandContext(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive).CombinedOutput()
	if ctx.Err() != nil { // it was killed, which says nothing of why
		return fmt.Errorf("ctr images import: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("ctr images import: %w: %s", err, strings.TrimSpace(string(msg)))
	}
	return nil
}
