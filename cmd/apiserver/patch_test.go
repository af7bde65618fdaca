package apiserver

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Without the recovery these requests kill their connection, and the server's log gets a stack.
func TestPatchesThatPanicAreRefused(t *testing.T) {
	ns := namespace(t, "patchpanic")
	p := pod("p", nil)
	p.Finalizers = []string{"none.example/f"}
	pods := shared.client.CoreV1().Pods(ns)
	if _, err := pods.Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind        types.PatchType
		patch, want string
	}{
		{types.JSONPatchType, `[{"op":"test","path":"/metadata/finalizers","value":[null]}]`, "the body cannot be merged: runtime error: invalid memory address or nil pointer dereference"},
		{types.StrategicMergePatchType, `{"spec":{"containers":[{"name":{}}]}}`, "the body cannot be merged: runtime error: comparing uncomparable type map[string]interface {}"},
		{types.StrategicMergePatchType, `{"spec":{"containers":[{"name":"c","image":"other"}]}}`, ""},
	} {
		_, err := pods.Patch(t.Context(), "p", tt.kind, []byte(tt.patch), metav1.PatchOptions{})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.patch, err, tt.want)
		}
	}
	revision := []byte(`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"c"},"revision":1,"data":1e400}`)
	err := shared.client.AppsV1().RESTClient().Post().Namespace(ns).Resource("controllerrevisions").SetHeader("Content-Type", "application/json").Body(revision).Do(t.Context()).Error()
	if err == nil || !strings.Contains(err.Error(), "the body cannot be merged: error decoding number from json") {
		t.Errorf("a number without a float: %v", err)
	}
}

func TestOnlyPanicsOfMergeLibrariesAreAnswered(t *testing.T) {
	const above = "goroutine 1 [running]:\nfinisher.finishRequest.func1.1()\n\tfinisher.go:105 +0xa5\npanic({0x1, 0x2})\n\tpanic.go:860 +0x13a\n"
	for _, tt := range []struct {
		stack string
		want  bool
	}{
		{above + "gopkg.in/evanphx/json-patch%2ev4.(*lazyNode).equal(0x0, 0x0)\n\tpatch.go:183", true},
		{above + "k8s.io/apimachinery/pkg/util/strategicpatch.findMapInSliceBasedOnKeyValue()\n\tpatch.go:1662", true},
		{above + "github.com/orlop-io/orlop/cmd/apiserver/validation.pod()\n\tpod.go:1\nk8s.io/apimachinery/pkg/util/strategicpatch.x()", false},
		{above, false}, {"", false},
	} {
		if got := mergePanic("runtime error: x\n" + tt.stack); (got != nil) != tt.want {
			t.Errorf("%q: %v, want an answer: %v", tt.stack, got, tt.want)
		}
	}
}
