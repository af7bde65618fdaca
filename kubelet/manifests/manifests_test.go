package manifests

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

const good = `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {a: b}}
spec:
  containers:
  - {name: c, image: "localhost/x:1", livenessProbe: {httpGet: {port: 80}}, resources: {limits: {cpu: 1}}}
`

func TestParse(t *testing.T) {
	p, err := parse([]byte(good), "/m/web.yaml", "n1")
	if err != nil {
		t.Fatal(err)
	}
	c := p.Spec.Containers[0]
	if p.Name != "web-n1" || p.Namespace != "default" || p.Spec.NodeName != "n1" || p.Spec.RestartPolicy != v1.RestartPolicyAlways {
		t.Errorf("pod %+v", p)
	}
	if c.LivenessProbe.PeriodSeconds != 10 || c.LivenessProbe.HTTPGet.Path != "/" || c.ImagePullPolicy != v1.PullIfNotPresent || c.Resources.Requests.Cpu().Value() != 1 {
		t.Errorf("container not defaulted: %+v", c)
	}
	if len(p.UID) != 32 || p.Annotations[AnnConfigHash] != string(p.UID) {
		t.Errorf("identity %q, annotations %v", p.UID, p.Annotations)
	}
	again, _ := parse([]byte(good), "/m/web.yaml", "n1")
	other, _ := parse([]byte(strings.Replace(good, "x:1", "x:2", 1)), "/m/web.yaml", "n1")
	if again.UID != p.UID || other.UID == p.UID {
		t.Error("identity must follow the contents")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"empty":         {" \n", "empty"},
		"other kind":    {"apiVersion: v1\nkind: Secret\n", "not a Pod"},
		"unknown field": {strings.Replace(good, "labels:", "lables:", 1), "lables"},
		"no containers": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "must not be empty"},
		"secret volume": {good + "  volumes: [{name: s, secret: {secretName: x}}]\n", "cannot refer to API objects"},
		"no such mount": {strings.Replace(good, "name: c,", "name: c, volumeMounts: [{name: zz, mountPath: /z}],", 1), "zz"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse([]byte(tt.text), "f", "n"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"b"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parse(text, "f", "n")
		if err == nil && (p.UID == "" || p.Name == "") {
			t.Errorf("accepted a pod without identity: %+v", p)
		}
	})
}

func TestFollowsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	sets := make(chan []*v1.Pod, 10)
	s, err := New(Config{Dir: dir, Node: "n", Resync: 20 * time.Millisecond}, func(p []*v1.Pod) { sets <- p }, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	next := func() []*v1.Pod {
		t.Helper()
		select {
		case p := <-sets:
			return p
		case <-time.After(10 * time.Second):
			t.Fatal("no pods told")
			return nil
		}
	}
	if got := next(); len(got) != 0 {
		t.Fatalf("first %v", got)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("web.yaml", good)
	first := next()
	if len(first) != 1 {
		t.Fatalf("after write: %v", first)
	}
	write("web.yaml", "kind: [") // broken: the pod stays
	write("notes.txt", good)
	write("web.yaml", strings.Replace(good, "x:1", "x:2", 1))
	if got := next(); len(got) != 1 || got[0].UID == first[0].UID {
		t.Fatalf("after change: %v", got)
	}
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := next(); len(got) != 0 {
		t.Fatalf("after removal: %v", got)
	}
	cancel()
	<-done
}
