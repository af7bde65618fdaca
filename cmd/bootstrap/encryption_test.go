package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestEncryptionKeyIsMadeOnceAndHidden(t *testing.T) {
	p := Paths{Root: t.TempDir()}
	if err := ensureEncryption(p, now); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{p.encryption(): 0o600, p.at(hostEncryption): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, error %v; want %v", path, info.Mode(), err, mode)
		}
	}
	first, _ := os.ReadFile(p.encryption())
	if err := ensureEncryption(p, now.AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(p.encryption()); string(again) != string(first) {
		t.Error("a second init replaced the key, and with it all secrets")
	}
	if err := os.WriteFile(p.encryption(), []byte("kind: EncryptionConfiguration\nresource: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ensureEncryption(p, now); err == nil {
		t.Error("a broken file passes")
	}
}

// Only the API server's pod may see the keys; and it must, or it would not start.
func TestEncryptionKeyIsMountedOnce(t *testing.T) {
	pods, err := staticPods(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range pods {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict(text, &pod); err != nil {
			t.Fatal(err)
		}
		mounts := slices.ContainsFunc(pod.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == hostEncryption && m.ReadOnly })
		if mounts != (name == "kube-apiserver") {
			t.Errorf("%s: mounts the keys: %v", name, mounts)
		}
	}
	if api := string(pods["kube-apiserver"]); !strings.Contains(api, "--encryption-provider-config="+hostEncryption+"/config.yaml") {
		t.Error("the API server is not told of the keys")
	}
}

// keyedServer reads its configuration whenever it is asked, and keeps by which key each object was written. It refuses
// what the real one could not do: reading what no key of its configuration opens.
type keyedServer struct {
	paths   Paths
	objects map[string]string // name: key
	steps   []string
	fail    string // resource whose rewriting fails
}

func (s *keyedServer) keys() []string {
	cfg, err := readEncryption(s.paths)
	if err != nil {
		return nil
	}
	var names []string
	for _, k := range cfg.Resources[0].Providers[0].Secretbox.Keys {
		names = append(names, k.Name)
	}
	return names
}

func (s *keyedServer) Loaded(context.Context, string) (bool, error) {
	keys := s.keys()
	s.steps = append(s.steps, strings.Join(keys, ","))
	for name, key := range s.objects {
		if !slices.Contains(keys, key) {
			return false, fmt.Errorf("%s cannot be read", name)
		}
	}
	return true, nil
}

func (s *keyedServer) Rewrite(_ context.Context, resource string) (int, error) {
	if s.fail == resource {
		return 0, errors.New("refused")
	}
	s.steps = append(s.steps, "rewrite "+resource)
	for name := range s.objects {
		s.objects[name] = s.keys()[0]
	}
	return len(s.objects), nil
}

func TestRotateKey(t *testing.T) {
	p := Paths{Root: t.TempDir()}
	if err := ensureEncryption(p, now); err != nil {
		t.Fatal(err)
	}
	s := &keyedServer{paths: p, objects: map[string]string{"a": "key-20260102030405", "b": "key-20260102030405"}}
	if err := rotateKey(t.Context(), io.Discard, p, s, now.AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	const was, is = "key-20260102030405", "key-20270102030405"
	want := []string{was + "," + is, is + "," + was, is + "," + was, "rewrite secrets", is}
	if !slices.Equal(s.steps, want) {
		t.Errorf("steps %q\nwant %q", s.steps, want)
	}
	// One that stops in the middle is ended by the next, whose own key is the last.
	s.fail = "secrets"
	if err := rotateKey(t.Context(), io.Discard, p, s, now.AddDate(2, 0, 0)); err == nil {
		t.Fatal("no error although nothing could be written")
	}
	s.fail = ""
	if err := rotateKey(t.Context(), io.Discard, p, s, now.AddDate(3, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if keys := s.keys(); !slices.Equal(keys, []string{"key-20290102030405"}) || s.objects["a"] != keys[0] {
		t.Errorf("at the end keys %v, objects %v", keys, s.objects)
	}
}

func TestRotateLeavesOthersProvidersAlone(t *testing.T) {
	p := Paths{Root: t.TempDir()}
	if err := os.MkdirAll(p.at(hostEncryption), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{identity: {}}]\n"
	if err := os.WriteFile(p.encryption(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := rotateKey(t.Context(), io.Discard, p, &keyedServer{paths: p}, now)
	if err == nil || !strings.Contains(err.Error(), "docs/encryption.md") {
		t.Errorf("got %v", err)
	}
	if after, _ := os.ReadFile(p.encryption()); string(after) != text {
		t.Error("the file was changed")
	}
}
