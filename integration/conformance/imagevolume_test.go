package conformance

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func imageVolumeTests() map[string]test {
	return map[string]test{
		"[sig-node] ImageVolume should succeed with pod and pull policy of Always [LinuxOnly] [MinimumKubeletVersion:1.35]": {serial: true, run: imageVolume}, // its build needs all processors
	}
}

// imageVolume runs on a cluster of its own, because containerd 1.x mounts no images. Its node pulls from a registry in this
// process.
func imageVolume(t *testing.T, _ *clustertest.Cluster) {
	containerd := must(clustertest.Containerd2())(t)
	images, port := serveImages(t)
	c, err := clustertest.Up("conf-image", 1, "--containerd", containerd, "--registry", port)
	if c != nil {
		t.Cleanup(func() {
			if err := c.Down(); err != nil {
				t.Error(err)
			}
		})
	}
	ok(t, err)
	ns := c.Namespace(t)

	first := images.push(t, "kitten:1", "meow")
	look := "cat /volume/data/sound; touch /volume/data/new || echo refused; cat /part/sound; sleep 600"
	c.RunPod(t, ns, c.Pod("first", []string{"sh", "-c", look}, imageMounted(images.name("kitten:1"))))
	c.Eventually(t, 30*time.Second, "what the container sees", func(context.Context) error {
		if got := logs(t, c, ns, "first"); !strings.HasPrefix(got, "meow\n") || !strings.Contains(got, "refused\nmeow\n") {
			return fmt.Errorf("it printed %q", got)
		}
		return nil
	})
	pod := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "first", metav1.GetOptions{}))(t)
	for _, m := range pod.Status.ContainerStatuses[0].VolumeMounts {
		if m.Name == "image" && (m.VolumeStatus == nil || m.VolumeStatus.Image == nil || !strings.HasSuffix(m.VolumeStatus.Image.ImageRef, first)) {
			t.Errorf("the status of the mount at %s does not tell the image's digest %s: %+v", m.MountPath, first, m.VolumeStatus)
		}
	}

	// Always: what the registry has now, although the node has an image of that name; and what has been mounted stays.
	images.push(t, "kitten:1", "purr")
	c.RunPod(t, ns, c.Pod("second", []string{"sh", "-c", look}, imageMounted(images.name("kitten:1"))))
	c.Eventually(t, 30*time.Second, "what the second container sees", func(context.Context) error {
		if got := logs(t, c, ns, "second"); !strings.HasPrefix(got, "purr\n") {
			return fmt.Errorf("it printed %q", got)
		}
		return nil
	})
	if got, err := c.InPod(ns, "first", "cat", "/volume/data/sound"); err != nil || strings.TrimSpace(got) != "meow" {
		t.Errorf("the first container sees %q now (%v)", got, err)
	}

	// What is not there is told like an image of the container's own that is not there.
	createPod(t, c, ns, c.Pod("absent", []string{"pause"}, imageMounted(images.name("puppy:1"))))
	c.WaitPod(t, ns, "absent", "waiting for an image", func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff") {
				return strings.Contains(w.Message, images.name("puppy:1"))
			}
		}
		return false
	})
}

// imageMounted mounts an image as a whole, and a part of it.
func imageMounted(reference string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "image", VolumeSource: corev1.VolumeSource{
			Image: &corev1.ImageVolumeSource{Reference: reference, PullPolicy: corev1.PullAlways}}})
		c := &p.Spec.Containers[0]
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "image", MountPath: "/volume"},
			corev1.VolumeMount{Name: "image", MountPath: "/part", SubPath: "data"})
	}
}

// imageServer is a registry on the machine's loopback.
type imageServer struct{ address, port string }

func serveImages(t *testing.T) (imageServer, string) {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	ok(t, err)
	return imageServer{l.Addr().String(), port}, port
}

// name is how hosts of a local cluster call an image here.
func (s imageServer) name(image string) string { return "host.orlop.internal:" + s.port + "/" + image }

// push stores an image that has nothing but a file, and gives its digest.
func (s imageServer) push(t *testing.T, image, sound string) string {
	t.Helper()
	img := must(crane.Image(map[string][]byte{"data/sound": []byte(sound + "\n")}))(t)
	ref := must(name.ParseReference(s.address+"/"+image, name.Insecure))(t)
	ok(t, remote.Write(ref, img))
	digest := must(img.Digest())(t)
	return digest.String()
}
