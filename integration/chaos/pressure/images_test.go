package pressure

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// of runs another image under a policy, with pull secrets.
func of(image string, policy corev1.PullPolicy, secrets ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, policy
		for _, s := range secrets {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
		}
	}
}

// waits waits until the pod's container waits for a reason, and returns the message.
func waits(t *testing.T, ns, name, reason string) string {
	t.Helper()
	p := cluster.WaitPod(t, ns, name, "waiting for "+reason, func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
	})
	return p.Status.ContainerStatuses[0].State.Waiting.Message
}

func create(t *testing.T, ns string, p *corev1.Pod) {
	t.Helper()
	if _, err := cluster.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestPullPolicies(t *testing.T) {
	ns := cluster.Namespace(t)
	r := serveImages(t)
	image := r.push(t, "public/a:1")
	cluster.RunPod(t, ns, consumer("first", nil, of(image, corev1.PullIfNotPresent)))
	told(t, ns, "first", "Pulling", fmt.Sprintf("Pulling image %q", image))
	told(t, ns, "first", "Pulled", fmt.Sprintf("Successfully pulled image %q in ", image))
	once := r.asked("public/a")
	cluster.RunPod(t, ns, consumer("again", nil, of(image, corev1.PullIfNotPresent)))
	cluster.RunPod(t, ns, consumer("never", nil, of(image, corev1.PullNever)))
	told(t, ns, "again", "Pulled", fmt.Sprintf("Container image %q already present on machine", image))
	if now := r.asked("public/a"); now != once {
		t.Errorf("the registry was asked %d times more for an image that is there", now-once)
	}
	cluster.RunPod(t, ns, consumer("always", nil, of(image, corev1.PullAlways)))
	if r.asked("public/a") == once {
		t.Error("the registry was not asked for an image that is to be pulled always")
	}

	absent := r.address + "/public/absent:1"
	create(t, ns, consumer("absent", nil, of(absent, corev1.PullNever)))
	if got, want := waits(t, ns, "absent", "ErrImageNeverPull"), fmt.Sprintf("Container image %q is not present with pull policy of Never", absent); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	create(t, ns, consumer("bad", nil, of("public/A:1", corev1.PullIfNotPresent)))
	if got := waits(t, ns, "bad", "InvalidImageName"); !strings.Contains(got, `Failed to apply default image tag "public/A:1": couldn't parse image name "public/A:1"`) {
		t.Errorf("message %q", got)
	}
}

func TestPullSecretsAndBackOff(t *testing.T) {
	ns := cluster.Namespace(t)
	r := serveImages(t)
	image := r.push(t, "private/b:1")
	r.secret(t, ns, "wrong", "guess")
	r.secret(t, ns, "right", password)
	create(t, ns, consumer("without", nil, of(image, corev1.PullIfNotPresent)))
	waits(t, ns, "without", "ErrImagePull")
	if got := waits(t, ns, "without", "ImagePullBackOff"); !strings.HasPrefix(got, fmt.Sprintf("Back-off pulling image %q: ", image)) {
		t.Errorf("message %q", got)
	}
	told(t, ns, "without", "Failed", fmt.Sprintf("Failed to pull image %q: ", image))
	told(t, ns, "without", "Failed", "Error: ErrImagePull")
	told(t, ns, "without", "BackOff", fmt.Sprintf("Back-off pulling image %q", image))
	cluster.RunPod(t, ns, consumer("with", nil, of(image, corev1.PullIfNotPresent, "wrong", "right")))
	// The image is there now, and still not for the one without.
	before := r.asked("private/b")
	cluster.Eventually(t, 30*time.Second, "the one without to be tried again", func(context.Context) error {
		if r.asked("private/b") == before {
			return errors.New("the registry is not asked")
		}
		return nil
	})
	waits(t, ns, "without", "ImagePullBackOff")
}

// One slow registry holds up nobody who pulls another image; serialized pulls come one after the other.
// A private image that one pod brought here is not for another without the secret; one that came by other ways is for all,
// unless the configuration says so. That outlives the kubelet.
func TestPrivateImagesStayPrivate(t *testing.T) {
	ns := cluster.Namespace(t)
	r := serveImages(t)
	image := r.push(t, "private/kept:1")
	r.secret(t, ns, "right", password)
	running := func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }
	create(t, ns, consumer("first", nil, of(image, corev1.PullIfNotPresent, "right")))
	cluster.WaitPod(t, ns, "first", "running", running)
	create(t, ns, consumer("thief", nil, of(image, corev1.PullIfNotPresent)))
	waits(t, ns, "thief", "ErrImagePull")
	create(t, ns, consumer("offline-thief", nil, of(image, corev1.PullNever)))
	waits(t, ns, "offline-thief", "ErrImageNeverPull")
	restart(t)
	create(t, ns, consumer("second", nil, of(image, corev1.PullNever, "right")))
	cluster.WaitPod(t, ns, "second", "running", running)
	create(t, ns, consumer("late-thief", nil, of(image, corev1.PullNever)))
	waits(t, ns, "late-thief", "ErrImageNeverPull")
	configure(t, "imagePullCredentialsVerificationPolicy: AlwaysVerify")
	create(t, ns, consumer("preloaded", nil, func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever }))
	waits(t, ns, "preloaded", "ErrImageNeverPull")
	configure(t, "imagePullCredentialsVerificationPolicy: NeverVerify")
	cluster.WaitPod(t, ns, "late-thief", "running", running)
}

func TestParallelPulls(t *testing.T) {
	ns := cluster.Namespace(t)
	r := serveImages(t)
	gate := make(chan struct{})
	r.mu.Lock()
	r.gate = gate
	r.mu.Unlock()
	open := func() {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
	t.Cleanup(open)
	pods := func(kind string) {
		for i := range 3 {
			image := r.push(t, fmt.Sprintf("%s/%d:1", kind, i))
			create(t, ns, consumer(fmt.Sprintf("%s-%d", kind, i), nil, of(image, corev1.PullIfNotPresent)))
		}
	}
	asked := func(kind string) (n int) {
		for i := range 3 {
			if r.asked(fmt.Sprintf("%s/%d", kind, i)) > 0 {
				n++
			}
		}
		return n
	}
	pods("side")
	cluster.Eventually(t, 30*time.Second, "three pulls at once", func(context.Context) error {
		if n := asked("side"); n != 3 {
			return fmt.Errorf("%d images are asked for", n)
		}
		return nil
	})
	configure(t, "serializeImagePulls: true")
	before := asked("turn")
	pods("turn")
	time.Sleep(3 * time.Second)
	if n := asked("turn"); before != 0 || n > 1 {
		t.Errorf("serialized, and %d images are asked for at once", n)
	}
	open()
	for i := range 3 {
		for _, kind := range []string{"side", "turn"} {
			cluster.WaitPod(t, ns, fmt.Sprintf("%s-%d", kind, i), "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
		}
	}
}

// present says which images with a part in their name the runtime has.
func present(t *testing.T, part string) string {
	t.Helper()
	return sh(t, "ctr -n k8s.io images ls -q | grep "+part+" | grep -v sha256: || true")
}

func TestOldImagesGo(t *testing.T) {
	ns := cluster.Namespace(t)
	r := serveImages(t)
	used, unused := r.push(t, "gc/used:1"), r.push(t, "gc/unused:1")
	cluster.RunPod(t, ns, consumer("used", nil, of(used, corev1.PullIfNotPresent)))
	cluster.RunPod(t, ns, consumer("unused", nil, of(unused, corev1.PullIfNotPresent)))
	zero := int64(0)
	if err := cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "unused", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	configure(t, "imageMinimumGCAge: 1s\nimageMaximumGCAge: 4s")
	cluster.Eventually(t, 60*time.Second, "the unused image to go", func(context.Context) error {
		if have := present(t, "gc/unused"); have != "" {
			return fmt.Errorf("there is %s", have)
		}
		return nil
	})
	if present(t, "gc/used") == "" {
		t.Error("an image in use is gone")
	}
	if present(t, "localhost/pause") == "" || present(t, "localhost/orlop-testimage") == "" {
		t.Error("images of this machine are gone, and no registry has them")
	}
	stays(t, ns, "used")
}

// When the disk of images is short, unused images go at once, before any pod; a pod that must go is told why.
func TestImagesGoBeforePods(t *testing.T) {
	ns := cluster.Namespace(t)
	r := serveImages(t)
	image := r.push(t, "full/a:1")
	cluster.RunPod(t, ns, consumer("user", nil, of(image, corev1.PullIfNotPresent)))
	zero := int64(0)
	if err := cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "user", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	cluster.RunPod(t, ns, consumer("p", nil))
	configure(t, "evictionHard: {imagefs.available: 99.9%, nodefs.available: 0%}")
	evicted(t, ns, "p", "The node was low on resource: ephemeral-storage. ")
	if have := present(t, "full/a"); have != "" {
		t.Errorf("a pod went, and the unused image %s is there", have)
	}
	told(t, metav1.NamespaceDefault, cluster.Nodes[0], "EvictionThresholdMet", "Attempting to reclaim ephemeral-storage")
	condition(t, corev1.NodeDiskPressure, corev1.ConditionTrue)
	cluster.Eventually(t, 30*time.Second, "the node's taint", func(ctx context.Context) error {
		n, err := cluster.Client.CoreV1().Nodes().Get(ctx, cluster.Nodes[0], metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, taint := range n.Spec.Taints {
			if taint.Key == corev1.TaintNodeDiskPressure && taint.Effect == corev1.TaintEffectNoSchedule {
				return nil
			}
		}
		return fmt.Errorf("taints are %v", n.Spec.Taints)
	})
	// The node's own programs are spared: it could not recover without them.
	pods, err := cluster.Client.CoreV1().Pods(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.Status.Reason == "Evicted" {
			t.Errorf("%s was evicted: %s", p.Name, p.Status.Message)
		}
	}
}
