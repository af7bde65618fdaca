package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

// hanging is a source whose runtime, from some time on, never answers.
type hanging struct{ hangs bool }

func (h *hanging) Ready(context.Context) error {
	if h.hangs {
		return errors.New("container runtime is down")
	}
	return nil
}

func (h *hanging) Pressures() []v1.NodeConditionType { return nil }

func (h *hanging) Runtime(ctx context.Context) string {
	if h.hangs {
		<-ctx.Done()
		return ""
	}
	return "containerd://1.6.20"
}

func (h *hanging) Abilities() ([]v1.NodeRuntimeHandler, *v1.NodeFeatures) {
	return []v1.NodeRuntimeHandler{{Name: "runc"}}, nil
}

func (h *hanging) Images(ctx context.Context) []v1.ContainerImage {
	if h.hangs {
		<-ctx.Done()
		return nil
	}
	return []v1.ContainerImage{{Names: []string{"localhost/a:1"}}}
}

// That the runtime hangs is told; it is not waited for, and what it said before stays true.
func TestHangingRuntimeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
		var told struct{ Status v1.NodeStatus }
		client.PrependReactor("patch", "nodes", func(a ktesting.Action) (bool, runtime.Object, error) {
			p := a.(ktesting.PatchAction)
			if p.GetSubresource() != "status" {
				return false, nil, nil
			}
			told.Status = v1.NodeStatus{}
			return true, &v1.Node{}, json.Unmarshal(p.GetPatch(), &told)
		})
		src := &hanging{}
		n, err := New(Config{Name: "n", IPs: []string{"192.0.2.1"}}, Machine{}, src, func(bool, string, string) {}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []v1.ConditionStatus{v1.ConditionTrue, v1.ConditionFalse} {
			if err := n.once(t.Context(), client); err != nil {
				t.Fatalf("while the runtime hangs: %v, the status is not told: %v", src.hangs, err)
			}
			last := told.Status.Conditions[len(told.Status.Conditions)-1]
			if last.Type != v1.NodeReady || last.Status != want || told.Status.NodeInfo.ContainerRuntimeVersion != "containerd://1.6.20" || len(told.Status.Images) != 1 || len(told.Status.RuntimeHandlers) != 1 {
				t.Errorf("told %+v with runtime %q and %d images, want %s", last, told.Status.NodeInfo.ContainerRuntimeVersion, len(told.Status.Images), want)
			}
			src.hangs = true
		}
	})
}
