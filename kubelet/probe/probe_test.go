package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cri"
)

// node answers probes by a script, and writes down what happened when.
type node struct {
	mu     sync.Mutex
	begun  time.Time
	sick   map[string]bool // by the probe's command
	events []string
}

func (n *node) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, fmt.Sprintf("%v ", time.Since(n.begun))+fmt.Sprintf(format, args...))
}

func (n *node) set(what string, sick bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sick[what] = sick
}

func (n *node) attempt(_ context.Context, t target) answer {
	what := t.probe.Exec.Command[0]
	n.note("asked %s", what)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sick[what] {
		return answer{result: failure}
	}
	return answer{result: success}
}

func (n *node) ExecSync(context.Context, string, []string, time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	return nil, errors.New("not in this test")
}

func ask(what string, initial, period, failures int32) *v1.Probe {
	return &v1.Probe{
		ProbeHandler:        v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{what}}},
		InitialDelaySeconds: initial, PeriodSeconds: period, FailureThreshold: failures, SuccessThreshold: 1,
	}
}

func TestTimesAndVerdicts(t *testing.T) {
	for _, tt := range []struct {
		name      string
		container v1.Container
		state     Container
		sick      string
		script    func(*Probes, *node)
		want      []string
	}{
		{
			name:      "the first probe is made at its time, the verdict told once",
			container: v1.Container{ReadinessProbe: ask("ready", 3, 10, 1)},
			script:    func(*Probes, *node) { time.Sleep(15 * time.Second) },
			want:      []string{"3s asked ready", "3s Readiness true", "13s asked ready"},
		},
		{
			name:      "readiness waits for startup and follows it at once",
			container: v1.Container{ReadinessProbe: ask("ready", 0, 10, 1), StartupProbe: ask("start", 0, 2, 5)},
			sick:      "start",
			script: func(_ *Probes, n *node) {
				time.Sleep(3 * time.Second)
				n.set("start", false)
				time.Sleep(3 * time.Second)
			},
			want: []string{"0s asked start", "100ms asked start", "250ms asked start", "475ms asked start", "812.5ms asked start", "1.31875s asked start",
				"2s asked start", "2s Unhealthy", "3.1390625s asked start", "3.1390625s Startup true", "3.1390625s asked ready", "3.1390625s Readiness true"},
		},
		{
			name:      "a server that listens a moment late is found at once, and its failures make no event",
			container: v1.Container{ReadinessProbe: ask("ready", 0, 10, 1)},
			sick:      "ready",
			script: func(_ *Probes, n *node) {
				time.Sleep(300 * time.Millisecond)
				n.set("ready", false)
				time.Sleep(11 * time.Second)
			},
			want: []string{"0s asked ready", "100ms asked ready", "250ms asked ready", "475ms asked ready", "475ms Readiness true", "10.475s asked ready"},
		},
		{
			name:      "early failures bring a startup probe's end no nearer",
			container: v1.Container{StartupProbe: ask("start", 0, 1, 2)},
			sick:      "start",
			script:    func(*Probes, *node) { time.Sleep(3 * time.Second) },
			want: []string{"0s asked start", "100ms asked start", "250ms asked start", "475ms asked start", "812.5ms asked start",
				"1s asked start", "1s Unhealthy", "1.759375s asked start", "2s asked start", "2s Unhealthy", "2s Startup false"},
		},
		{
			name:      "once it was ready, failures count and are asked for by the period",
			container: v1.Container{ReadinessProbe: ask("ready", 0, 1, 2)},
			script: func(_ *Probes, n *node) {
				time.Sleep(500 * time.Millisecond)
				n.set("ready", true)
				time.Sleep(2 * time.Second)
			},
			want: []string{"0s asked ready", "0s Readiness true", "1s asked ready", "1s Unhealthy", "2s asked ready", "2s Unhealthy", "2s Readiness false"},
		},
		{
			name:      "liveness fails by its threshold, and then is asked no more",
			container: v1.Container{LivenessProbe: ask("live", 1, 1, 2)},
			sick:      "live",
			script:    func(*Probes, *node) { time.Sleep(5 * time.Second) },
			want:      []string{"1s asked live", "1s Unhealthy", "2s asked live", "2s Unhealthy", "2s Liveness false"},
		},
		{
			name:      "after a restart of the kubelet, readiness holds and keeps its beat",
			container: v1.Container{ReadinessProbe: ask("ready", 0, 10, 2)},
			state:     Container{Ready: true, Started: time.Unix(0, 0)},
			sick:      "ready",
			script:    func(*Probes, *node) { time.Sleep(25 * time.Second) },
			want:      []string{"10s asked ready", "10s Unhealthy", "20s asked ready", "20s Unhealthy", "20s Readiness false"},
		},
		{
			name:      "a pod that was removed is asked no more",
			container: v1.Container{ReadinessProbe: ask("ready", 0, 1, 1)},
			script: func(p *Probes, _ *node) {
				time.Sleep(1500 * time.Millisecond)
				p.Remove("u")
				time.Sleep(5 * time.Second)
			},
			want: []string{"0s asked ready", "0s Readiness true", "1s asked ready"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &node{begun: time.Now(), sick: map[string]bool{tt.sick: true}}
				p, err := New(Config{
					Runtime: n, Log: slog.New(slog.DiscardHandler), attempt: n.attempt,
					Changed: func(v Verdict) { n.note("%s %v", v.Kind, v.OK) },
					Event:   func(_ *v1.Pod, _, reason, _ string) { n.note("%s", reason) },
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- p.Run(ctx) }()
				tt.container.Name = "c"
				pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{tt.container}}}
				c := tt.state
				c.Name, c.ID = "c", "id1"
				if c.Started.IsZero() {
					c.Started = time.Now()
				} else {
					c.Started = time.Now().Add(-100 * time.Second)
				}
				p.Sync(pod, "10.0.0.1", []Container{c})
				tt.script(p, n)
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Errorf("want Run to end with its context, got %v", err)
				}
				if diff := cmp.Diff(tt.want, n.events); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		})
	}
}

func TestANewContainerStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{begun: time.Now(), sick: map[string]bool{"live": true}}
		p, err := New(Config{Runtime: n, Log: slog.New(slog.DiscardHandler), attempt: n.attempt, Changed: func(v Verdict) { n.note("%s %s %v", v.ID, v.Kind, v.OK) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", LivenessProbe: ask("live", 1, 1, 1)}}}}
		p.Sync(pod, "", []Container{{Name: "c", ID: "id1", Started: time.Now()}})
		time.Sleep(3 * time.Second)
		p.Sync(pod, "", []Container{{Name: "c", ID: "id2", Started: time.Now()}})
		time.Sleep(3 * time.Second)
		cancel()
		<-done
		want := []string{"1s asked live", "1s id1 Liveness false", "4s asked live", "4s id2 Liveness false"}
		if diff := cmp.Diff(want, n.events); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %s", r.Host, r.UserAgent(), r.Header.Get("X-A"), r.URL.RawQuery)
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.Handle("/here", http.RedirectHandler("/ok", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler("http://192.0.2.1/", http.StatusFound))
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	ip, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	to := intstr.Parse(port)
	c := &v1.Container{Ports: []v1.ContainerPort{{Name: "named", ContainerPort: to.IntVal}}}
	for _, tt := range []struct {
		path, port string
		headers    []v1.HTTPHeader
		want       result
		output     string
	}{
		{path: "/ok?q=1", want: success, output: u.Host + " kube-probe/1.37  q=1"},
		{path: "ok", headers: []v1.HTTPHeader{{Name: "Host", Value: "h"}, {Name: "X-A", Value: "b"}, {Name: "User-Agent", Value: "me"}}, want: success, output: "h me b "},
		{path: "/bad", want: failure, output: "HTTP probe failed with statuscode: 500"},
		{path: "/here", want: success, output: "kube-probe"},
		{path: "/away", want: warning, output: "Probe terminated redirects"},
		{path: "/slow", want: failure, output: "Client.Timeout exceeded"},
		{path: "/ok", port: "named", want: success, output: "kube-probe"},
		{path: "/ok", port: "unknown", want: unknown},
	} {
		to := to
		if tt.port != "" {
			to = intstr.FromString(tt.port)
		}
		probe := &v1.Probe{TimeoutSeconds: 1, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: tt.path, Port: to, HTTPHeaders: tt.headers}}}
		got := actions{version: "1.37"}.attempt(t.Context(), target{container: c, probe: probe, ip: ip})
		if got.result != tt.want || !strings.Contains(got.output, tt.output) || (got.err != nil) != (tt.want == unknown) {
			t.Errorf("%s: want %v with %q, got %+v", tt.path, tt.want, tt.output, got)
		}
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	probe := &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(l.Addr().(*net.TCPAddr).Port)}}}
	to := target{container: &v1.Container{}, probe: probe, ip: "127.0.0.1"}
	if got := (actions{}).attempt(t.Context(), to); got.result != success {
		t.Errorf("want success, got %+v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := (actions{}).attempt(t.Context(), to); got.result != failure || !strings.Contains(got.output, "refused") {
		t.Errorf("want a refusal, got %+v", got)
	}
}

type execs struct {
	res *runtimeapi.ExecSyncResponse
	err error
}

func (e execs) ExecSync(context.Context, string, []string, time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	return e.res, e.err
}

func TestExec(t *testing.T) {
	probe := &v1.Probe{TimeoutSeconds: 2, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"a", "b"}}}}
	for _, tt := range []struct {
		say  execs
		want answer
	}{
		{execs{res: &runtimeapi.ExecSyncResponse{Stdout: []byte("fine")}}, answer{result: success, output: "fine"}},
		{execs{res: &runtimeapi.ExecSyncResponse{Stderr: []byte("no"), ExitCode: 3}}, answer{result: failure, output: "no"}},
		{execs{err: fmt.Errorf("exec: %w", cri.ErrTimeout)}, answer{result: failure, output: `command timed out: "a b" timed out after 2s`}},
		{execs{err: cri.ErrUnavailable}, answer{err: cri.ErrUnavailable}},
	} {
		got := actions{runtime: tt.say}.attempt(t.Context(), target{probe: probe})
		if got != tt.want {
			t.Errorf("want %+v, got %+v", tt.want, got)
		}
	}
}

func TestHook(t *testing.T) {
	h := Hooks{Runtime: execs{res: &runtimeapi.ExecSyncResponse{Stderr: []byte("no"), ExitCode: 3}}}
	err := h.Run(t.Context(), &v1.Container{}, "id", "", &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"a", "b"}}})
	if err == nil || err.Error() != "command 'a b' exited with 3: no" {
		t.Errorf("want the command's failure, got %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begun := time.Now()
		err := h.Run(ctx, &v1.Container{}, "id", "", &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 60}})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 2*time.Second {
			t.Errorf("want the sleep cut short after 2 s, got %v after %v", err, time.Since(begun))
		}
	})
}
