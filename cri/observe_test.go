package cri

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each call is heard of once, under upstream's name, with what the runtime said: also where the client makes success of it.
func TestObserve(t *testing.T) {
	var heard []string
	c := serveObserved(t, &fakeRuntime{containers: map[string]*runtimeapi.ContainerStatus{"c1": {Id: "c1"}}}, func(op string, took time.Duration, err error) {
		heard = append(heard, fmt.Sprint(op, " ", took > 0, " ", err != nil))
	})
	ctx := t.Context()
	_, err := c.Container(ctx, "c1")
	_, listErr := c.Sandboxes(ctx)
	if err != nil || listErr != nil {
		t.Fatal(err, listErr)
	}
	if err := c.StopContainer(ctx, "gone", 0); err != nil {
		t.Error(err)
	}
	if _, err := c.Images(ctx); err == nil {
		t.Error("the runtime has no images, but lists them")
	}
	want := []string{"container_status true false", "list_podsandbox true false", "stop_container true true", "list_images true true"}
	if d := cmp.Diff(want, heard); d != "" {
		t.Errorf("heard (-want +got):\n%s", d)
	}
}

func TestOperationNames(t *testing.T) {
	for method, want := range map[string]string{
		"/runtime.v1.RuntimeService/RunPodSandbox": "run_podsandbox", "/runtime.v1.RuntimeService/PodSandboxStatus": "podsandbox_status",
		"/runtime.v1.RuntimeService/ListPodSandboxStats": "list_podsandbox_stats", "/runtime.v1.RuntimeService/UpdateContainerResources": "update_container",
		"/runtime.v1.RuntimeService/ReopenContainerLog": "reopen_container_log", "/runtime.v1.RuntimeService/Version": "version",
		"/runtime.v1.RuntimeService/ExecSync": "exec_sync", "/runtime.v1.RuntimeService/UpdateRuntimeConfig": "update_runtime_config",
		"/runtime.v1.ImageService/ImageFsInfo": "image_fs_info", "/runtime.v1.ImageService/PullImage": "pull_image",
	} {
		if got := operation(method); got != want {
			t.Errorf("%s is %q, want %q", method, got, want)
		}
	}
}
