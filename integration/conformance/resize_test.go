package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func resizeTests() map[string]test {
	return under("[sig-node] Pod InPlace Resize Container ", map[string]test{
		"burstable pods - extended 6 containers - various operations performed (including adding limits and requests) [MinimumKubeletVersion:1.34]": slowly(resizeSix),
		"burstable pods - extended resize with equivalents [MinimumKubeletVersion:1.34]":                                                            slowly(resizeToEquivalents),
		"resize pod via the replace endpoint [MinimumKubeletVersion:1.34]":                                                                          slowly(resizeByPut),
	})
}

// amounts is "cpu request, cpu limit, memory request, memory limit"; "-" is none.
func amounts(text string) corev1.ResourceRequirements {
	out := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	f := strings.Fields(text)
	for i, at := range []struct {
		list corev1.ResourceList
		name corev1.ResourceName
	}{{out.Requests, corev1.ResourceCPU}, {out.Limits, corev1.ResourceCPU}, {out.Requests, corev1.ResourceMemory}, {out.Limits, corev1.ResourceMemory}} {
		if f[i] != "-" {
			at.list[at.name] = resource.MustParse(f[i])
		}
	}
	return out
}

// resizing is one container before and after; restarts says that its policy asks for one.
type resizing struct {
	before, after string
	restarts      bool
}

func resizable(c *clustertest.Cluster, containers []resizing) *corev1.Pod {
	return c.Pod("resized", nil, func(p *corev1.Pod) {
		image := p.Spec.Containers[0].Image
		p.Spec.TerminationGracePeriodSeconds = ptr[int64](0)
		p.Spec.Containers = nil
		for i, r := range containers {
			policy := corev1.NotRequired
			if r.restarts {
				policy = corev1.RestartContainer
			}
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
				Name: "c" + strconv.Itoa(i+1), Image: image, Command: []string{"sh", "-c", "sleep 1000"}, Resources: amounts(r.before),
				ResizePolicy: []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: policy},
					{ResourceName: corev1.ResourceMemory, RestartPolicy: policy}},
			})
		}
	})
}

// wanted is the patch that brings the containers from before to after.
func wanted(t *testing.T, containers []resizing) []byte {
	t.Helper()
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	var list []container
	for i, r := range containers {
		list = append(list, container{"c" + strconv.Itoa(i+1), amounts(r.after)})
	}
	return must(json.Marshal(map[string]any{"spec": map[string]any{"containers": list}}))(t)
}

// resized waits until the status says that all of the resize is done, and then looks at the cgroups themselves.
func resized(t *testing.T, c *clustertest.Cluster, ns string, containers []resizing) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	c.Eventually(t, time.Minute, "the resize to be done", func(ctx context.Context) error {
		var err error
		if pod, err = c.Client.CoreV1().Pods(ns).Get(ctx, "resized", metav1.GetOptions{}); err != nil {
			return err
		}
		if pod.Status.ObservedGeneration != pod.Generation {
			return fmt.Errorf("generation %d of %d is observed", pod.Status.ObservedGeneration, pod.Generation)
		}
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.PodResizePending || cond.Type == corev1.PodResizeInProgress {
				return fmt.Errorf("%s is %s: %s %s", cond.Type, cond.Status, cond.Reason, cond.Message)
			}
		}
		for i, r := range containers {
			if err := isResized(&pod.Status.ContainerStatuses[i], r); err != nil {
				return fmt.Errorf("container %d: %w", i+1, err)
			}
		}
		return nil
	})
	for i, r := range containers {
		inCgroup(t, c, ns, "c"+strconv.Itoa(i+1), amounts(r.after))
	}
	return pod
}

func isResized(st *corev1.ContainerStatus, r resizing) error {
	want := amounts(r.after)
	restarts := int32(0)
	if r.restarts && r.after != r.before {
		restarts = 1
	}
	switch {
	case st.State.Running == nil:
		return fmt.Errorf("it does not run: %+v", st.State)
	case st.RestartCount != restarts:
		return fmt.Errorf("%d restarts, want %d", st.RestartCount, restarts)
	case st.Resources == nil || !equality.Semantic.DeepEqual(st.Resources.Requests, want.Requests) || !equality.Semantic.DeepEqual(st.Resources.Limits, want.Limits):
		return fmt.Errorf("status.resources are %+v, want %+v", st.Resources, want)
	case !equality.Semantic.DeepEqual(st.AllocatedResources, want.Requests):
		return fmt.Errorf("allocated are %v, want %v", st.AllocatedResources, want.Requests)
	}
	return nil
}

// inCgroup compares a container's cgroup, as it sees it itself, with its resources.
func inCgroup(t *testing.T, c *clustertest.Cluster, ns, container string, want corev1.ResourceRequirements) {
	t.Helper()
	read := func(paths ...string) string {
		var last error
		for _, p := range paths {
			out, err := c.Kubectl("exec", "-n", ns, "resized", "-c", container, "--", "cat", "/sys/fs/cgroup/"+p)
			if err == nil {
				return strings.TrimSpace(out)
			}
			last = err
		}
		t.Fatal(last)
		return ""
	}
	limit, bounded := want.Limits[corev1.ResourceMemory]
	got := read("memory/memory.limit_in_bytes", "memory.max")
	if n, err := strconv.ParseInt(got, 10, 64); bounded && (err != nil || n != limit.Value()) || !bounded && err == nil && n < 1<<60 {
		t.Errorf("container %s: memory limit %s, want %v", container, got, want.Limits)
	}
	cpu, bounded := want.Limits[corev1.ResourceCPU]
	quota := int64(-1)
	if bounded {
		quota = max(cpu.MilliValue()*100, 1000)
	}
	got = strings.Fields(read("cpu/cpu.cfs_quota_us", "cpu.max"))[0]
	if n, err := strconv.ParseInt(got, 10, 64); bounded && n != quota || !bounded && err == nil && n > 0 {
		t.Errorf("container %s: CPU quota %s, want %d", container, got, quota)
	}
}

// resizeSix changes six containers of a pod at once: some grow, some shrink, some get bounds that they had not, one stays.
func resizeSix(t *testing.T, c *clustertest.Cluster) {
	containers := []resizing{
		{"10m 20m 20Mi 30Mi", "15m 25m 20Mi 30Mi", false}, // CPU up
		{"20m 30m 20Mi 30Mi", "10m 20m 30Mi 40Mi", false}, // CPU down, memory up
		{"10m - 20Mi -", "10m 20m 20Mi 30Mi", false},      // limits come
		{"- - - -", "10m - 20Mi -", false},                // requests come
		{"20m 40m 20Mi 40Mi", "25m 35m 25Mi 35Mi", true},  // restarted for it
		{"10m 10m 20Mi 20Mi", "10m 10m 20Mi 20Mi", true},  // stays
	}
	ns := c.Namespace(t)
	c.RunPod(t, ns, resizable(c, containers))
	_, err := c.Client.CoreV1().Pods(ns).Patch(t.Context(), "resized", types.StrategicMergePatchType, wanted(t, containers), metav1.PatchOptions{}, "resize")
	ok(t, err)
	resized(t, c, ns, containers)
}

// resizeToEquivalents changes what the kernel cannot tell apart: the status has what was asked for.
func resizeToEquivalents(t *testing.T, c *clustertest.Cluster) {
	containers := []resizing{{"2m 10m - -", "1m 5m - -", false}}
	ns := c.Namespace(t)
	c.RunPod(t, ns, resizable(c, containers))
	_, err := c.Client.CoreV1().Pods(ns).Patch(t.Context(), "resized", types.StrategicMergePatchType, wanted(t, containers), metav1.PatchOptions{}, "resize")
	ok(t, err)
	resized(t, c, ns, containers)
}

func resizeByPut(t *testing.T, c *clustertest.Cluster) {
	containers := []resizing{{"10m 20m 20Mi 30Mi", "15m 30m 25Mi 35Mi", false}}
	ns := c.Namespace(t)
	c.RunPod(t, ns, resizable(c, containers))
	pods := c.Client.CoreV1().Pods(ns)
	c.Eventually(t, 10*time.Second, "the resize to be taken", func(ctx context.Context) error {
		pod := must(pods.Get(ctx, "resized", metav1.GetOptions{}))(t)
		pod.Spec.Containers[0].Resources = amounts(containers[0].after)
		_, err := pods.UpdateResize(ctx, "resized", pod, metav1.UpdateOptions{})
		return err // a conflict with the kubelet
	})
	pod := resized(t, c, ns, containers)
	byResize := &corev1.Pod{}
	ok(t, c.Client.CoreV1().RESTClient().Get().Namespace(ns).Resource("pods").Name("resized").SubResource("resize").Do(t.Context()).Into(byResize))
	if !equality.Semantic.DeepEqual(byResize.Spec, pod.Spec) || !equality.Semantic.DeepEqual(byResize.Status, pod.Status) {
		t.Errorf("the subresource gives %+v, the pod is %+v", byResize, pod)
	}
}
