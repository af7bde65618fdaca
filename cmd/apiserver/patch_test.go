package apiserver

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestTestsForNull(t *testing.T) {
	for patch, want := range map[string]bool{
		`[{"op":"test","path":"/a","value":[null]}]`:                                                    true,
		`[{"op":"add","path":"/b","value":1},{"op":"test","path":"/a","value":{"b":[{"c":[1,null]}]}}]`: true,
		`[{"op":"test","path":"/a","value":null}]`:                                                      false,
		`[{"op":"test","path":"/a","value":{"b":null,"c":[1]}}]`:                                        false,
		`[{"op":"replace","path":"/a","value":[null]}]`:                                                 false,
		`[{"op":1}]`: false, `null`: false, ``: false, `{"op":"test","value":[null]}`: false,
	} {
		if got := testsForNull([]byte(patch)); got != want {
			t.Errorf("%s: %v, want %v", patch, got, want)
		}
	}
}

// Without the check this request kills its connection, and the server's log gets a stack.
func TestPatchThatTestsForNullIsRefused(t *testing.T) {
	ns := namespace(t, "nulltest")
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Finalizers: []string{"none.example/f"}}}
	maps := shared.client.CoreV1().ConfigMaps(ns)
	if _, err := maps.Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := maps.Patch(t.Context(), "c", types.JSONPatchType, []byte(`[{"op":"test","path":"/metadata/finalizers","value":[null]}]`), metav1.PatchOptions{})
	if err == nil || !strings.Contains(err.Error(), "cannot test for a list with null in it") {
		t.Errorf("got %v", err)
	}
	if _, err := maps.Patch(t.Context(), "c", types.JSONPatchType, []byte(`[{"op":"test","path":"/metadata/finalizers","value":["none.example/f"]},{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a good patch: %v", err)
	}
}
