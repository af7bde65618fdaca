package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// event is a frame of a watch, as the API server writes it.
func event(t *testing.T, what watch.EventType, obj runtime.Object) []byte {
	t.Helper()
	var encoded bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(obj, &encoded); err != nil {
		t.Fatal(err)
	}
	e := metav1.WatchEvent{Type: string(what), Object: runtime.RawExtension{Raw: encoded.Bytes()}}
	content, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), content...)
}

func TestEachPod(t *testing.T) {
	pod := func(name, node string) *corev1.Pod {
		p := benchPod(1)
		p.APIVersion, p.Kind, p.Name, p.Spec.NodeName = "v1", "Pod", name, node
		return p
	}
	stream := slices.Concat(
		event(t, watch.Added, pod("a", "")),
		event(t, watch.Modified, pod("a", "node-1")),
		event(t, watch.Deleted, pod("b", "node-2")),
		event(t, watch.Bookmark, pod("", "")),
		event(t, watch.Added, pod("c", "node-3")))
	var got []string
	see := func(name, node string, encoded []byte) {
		var p corev1.Pod
		if err := p.Unmarshal(encoded); err != nil || p.Name != name || p.Spec.NodeName != node || len(p.Spec.Containers) == 0 {
			t.Errorf("%s on %s is encoded as %s on %s: %v", name, node, p.Name, p.Spec.NodeName, err)
		}
		got = append(got, name+"@"+node)
	}
	if err := eachPod(bytes.NewReader(stream), see); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
	if want := []string{"a@", "a@node-1", "c@node-3"}; !slices.Equal(got, want) {
		t.Errorf("saw %q, want %q", got, want)
	}
	failed := event(t, watch.Error, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}})
	for name, bad := range map[string][]byte{"an error": failed, "half an event": stream[:40], "noise": {0, 0, 0, 3, 255, 255, 255}, "too much": {255, 255, 255, 255}} {
		if err := eachPod(bytes.NewReader(bad), func(string, string, []byte) { t.Errorf("%s: a pod", name) }); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
