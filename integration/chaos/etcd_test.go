package chaos

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/bareserver"
)

const (
	// outage is how long etcd is away.
	outage = time.Minute
	// patience is what the API server gives a request, and what its answer may take on a busy machine.
	patience = 60*time.Second + 8*time.Second
	// recovery is how long all may take to be well after etcd is back.
	recovery = 15 * time.Second
)

// TestEtcdStopped holds etcd still: its connections stay open, and nothing answers.
func TestEtcdStopped(t *testing.T) {
	t.Parallel()
	away(t, func(s *bareserver.Server) func() error {
		pid, _ := s.PIDs()
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		return func() error { return syscall.Kill(pid, syscall.SIGCONT) }
	})
}

// TestEtcdKilled takes etcd away: connections are refused.
func TestEtcdKilled(t *testing.T) {
	t.Parallel()
	away(t, func(s *bareserver.Server) func() error {
		must(t, s.KillEtcd())
		return s.StartEtcd
	})
}

// away takes etcd from a server with readers and a writer, by one way, for the time of an outage.
func away(t *testing.T, take func(*bareserver.Server) func() error) {
	s := start(t)
	_, pid := s.PIDs()
	c := newCrowd(t, s)
	c.awaitAgreement(t, recovery)

	giveBack := take(s)
	began := time.Now()
	seen := newAnswers()
	var questions sync.WaitGroup
	stop, cancel := context.WithDeadline(t.Context(), began.Add(outage))
	defer cancel()
	for name, ask := range questionsOf() {
		questions.Go(func() {
			for stop.Err() == nil {
				seen.add(name, ask(t.Context(), s))
				time.Sleep(time.Second) // a client that tries again
			}
		})
	}
	wait(t, 15*time.Second, "/readyz names etcd", func() error {
		if code, text := health(s, "/readyz?verbose"); code != http.StatusInternalServerError || !strings.Contains(text, "[-]etcd failed") {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	for _, path := range []string{"/livez/ping", "/livez?exclude=etcd"} {
		if code, text := health(s, path); code != http.StatusOK {
			t.Errorf("%s without etcd: %d %s", path, code, text)
		}
	}
	<-stop.Done()
	must(t, giveBack())
	back := time.Now()
	wait(t, recovery, "/readyz is well", func() error {
		if code, text := health(s, "/readyz?verbose"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	t.Logf("ready %.1f s after etcd was back", time.Since(back).Seconds())
	c.awaitWrite(t, recovery)
	t.Logf("the writer went on %.1f s after etcd was back", time.Since(back).Seconds())
	c.stopWriting()
	c.awaitAgreement(t, recovery)
	t.Logf("%d informers agreed with the server %.1f s after etcd was back", len(c.readers), time.Since(back).Seconds())
	questions.Wait()
	seen.check(t)
	if _, now := s.PIDs(); now != pid || syscall.Kill(pid, 0) != nil {
		t.Errorf("the API server was %d, and is %d", pid, now)
	}
}

// TestEtcdCompacted takes history away from under running lists and watches.
func TestEtcdCompacted(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := newCrowd(t, s)
	c.awaitAgreement(t, recovery)
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Etcd()}})
	must(t, err)
	defer etcd.Close()
	ctx := t.Context()
	events := s.Client.CoreV1().Events("default")
	for i := range 10 {
		_, err := events.Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("e%d", i)},
			InvolvedObject: corev1.ObjectReference{Namespace: "default"}}, metav1.CreateOptions{})
		must(t, err)
	}
	maps := s.Client.CoreV1().ConfigMaps("")
	for round := range 10 {
		cached, err := maps.List(ctx, metav1.ListOptions{Limit: 3})
		must(t, err)
		page, err := events.List(ctx, metav1.ListOptions{Limit: 3}) // they are in no cache
		must(t, err)
		c.awaitWrite(t, recovery)
		c.awaitWrite(t, recovery) // the first may have been under way before the lists
		got, err := etcd.Get(ctx, "x")
		must(t, err)
		_, err = etcd.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical())
		must(t, err)
		_, err = events.List(ctx, metav1.ListOptions{Limit: 3, Continue: page.Continue})
		var status apierrors.APIStatus
		if !apierrors.IsResourceExpired(err) || !asStatus(err, &status) || status.Status().Continue == "" {
			t.Fatalf("round %d: go on with a list of before: %v, want 410 with a token to go on with", round, err)
		}
		rest, err := events.List(ctx, metav1.ListOptions{Continue: status.Status().Continue})
		if err != nil || len(rest.Items) != 7 || rest.ResourceVersion == page.ResourceVersion {
			t.Fatalf("round %d: go on with what there is now: %d of 7, version %s: %v", round, len(rest.Items), rest.ResourceVersion, err)
		}
		// The cache may still have what etcd has forgotten: then it is the list that was begun.
		if rest, err := maps.List(ctx, metav1.ListOptions{Continue: cached.Continue}); err == nil && rest.ResourceVersion != cached.ResourceVersion {
			t.Fatalf("round %d: a list of version %s went on with %s", round, cached.ResourceVersion, rest.ResourceVersion)
		} else if err != nil && !apierrors.IsResourceExpired(err) {
			t.Fatalf("round %d: go on with a list of before: %v", round, err)
		}
		// A watch of what is forgotten says so: never silence.
		w, err := events.Watch(ctx, metav1.ListOptions{ResourceVersion: "2", TimeoutSeconds: new(int64(5))})
		if err == nil {
			if e, open := <-w.ResultChan(); !open || !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
				t.Errorf("round %d: watch from revision 2: %v %v, want 410", round, e, open)
			}
			w.Stop()
		} else if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			t.Errorf("round %d: watch from revision 2: %v, want 410", round, err)
		}
	}
	c.stopWriting()
	c.awaitAgreement(t, recovery)
}

// TestEtcdFull fills etcd to its quota, and makes space again.
func TestEtcdFull(t *testing.T) {
	t.Parallel()
	s := start(t, "--quota-backend-bytes=33554432")
	c := newCrowd(t, s)
	ctx := t.Context()
	maps := s.Client.CoreV1().ConfigMaps("default")
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("big-%d", i), Labels: map[string]string{"big": ""}},
			Data: map[string]string{"x": strings.Repeat("x", 900<<10)}}, metav1.CreateOptions{})
	}
	var status apierrors.APIStatus
	if !asStatus(err, &status) || status.Status().Code != http.StatusInternalServerError || !strings.Contains(err.Error(), "etcdserver: mvcc: database space exceeded") {
		t.Fatalf("a write over the quota: %v", err)
	}
	if _, err := maps.Get(ctx, "big-0", metav1.GetOptions{}); err != nil {
		t.Errorf("read while full: %v", err)
	}
	must(t, maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "big"}))
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Etcd()}})
	must(t, err)
	defer etcd.Close()
	got, err := etcd.Get(ctx, "x")
	must(t, err)
	_, err = etcd.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	_, err = etcd.Defragment(ctx, s.Etcd())
	must(t, err)
	_, err = etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	must(t, err)
	c.awaitWrite(t, recovery)
	c.stopWriting()
	c.awaitAgreement(t, recovery)
}

// question is a request as a client may send it at any time.
type question func(ctx context.Context, s *bareserver.Server) answer

// answer is what came back.
type answer struct {
	code  int
	text  string
	after time.Duration
}

func questionsOf() map[string]question {
	raw := func(verb, path, contentType, body string) question {
		return func(ctx context.Context, s *bareserver.Server) answer {
			began := time.Now()
			var code int
			request := s.Client.CoreV1().RESTClient().Verb(verb).RequestURI(path).MaxRetries(0)
			if body != "" {
				request = request.SetHeader("Content-Type", contentType).Body([]byte(body))
			}
			err := request.Do(ctx).StatusCode(&code).Error()
			a := answer{code: code, after: time.Since(began)}
			var status apierrors.APIStatus
			if asStatus(err, &status) {
				a.code = int(status.Status().Code)
			}
			if err != nil {
				a.text = err.Error()
			}
			return a
		}
	}
	const maps = "/api/v1/namespaces/default/configmaps"
	return map[string]question{
		"get":                   raw("GET", "/api/v1/namespaces/default", "", ""),
		"get, any version":      raw("GET", "/api/v1/namespaces/default?resourceVersion=0", "", ""),
		"list":                  raw("GET", "/api/v1/namespaces", "", ""),
		"list, any version":     raw("GET", "/api/v1/namespaces?resourceVersion=0", "", ""),
		"list, chunked":         raw("GET", "/api/v1/namespaces?limit=2", "", ""),
		"list without a cache":  raw("GET", "/api/v1/events", "", ""),
		"create":                raw("POST", maps, "application/json", `{"metadata":{"generateName":"during-"}}`),
		"merge patch":           raw("PATCH", "/api/v1/namespaces/default", "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`),
		"apply":                 raw("PATCH", maps+"/applied?fieldManager=chaos", "application/apply-patch+yaml", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"}}`),
		"delete":                raw("DELETE", maps+"/none", "", ""),
		"create, short timeout": raw("POST", maps+"?timeout=3s", "application/json", `{"metadata":{"generateName":"during-"}}`),
		"discovery":             raw("GET", "/apis", "", ""),
		"access review": raw("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json",
			`{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`),
	}
}

// answersWithoutEtcd need nothing of the store.
func answersWithoutEtcd() []string {
	return []string{"get, any version", "list, any version", "discovery", "access review"}
}

// answers are all that came back, by question.
type answers struct {
	mu  sync.Mutex
	all map[string][]answer
}

func newAnswers() *answers { return &answers{all: map[string][]answer{}} }

func (a *answers) add(name string, got answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[name] = append(a.all[name], got)
}

// check wants every answer in its time, and every refusal to say that it is the server's trouble and what trouble it is.
func (a *answers) check(t *testing.T) {
	var names []string
	for name := range a.all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		texts := map[string]int{}
		var longest time.Duration
		for _, got := range a.all[name] {
			longest = max(longest, got.after)
			texts[fmt.Sprintf("%d %s", got.code, got.text)]++
			switch {
			case got.after > patience:
				t.Errorf("%s: an answer after %v", name, got.after)
			case got.code >= 200 && got.code < 300 || got.code == http.StatusNotFound && name == "delete":
				// before etcd was away, from a cache, or when etcd was back
			case slices.Contains(answersWithoutEtcd(), name):
				t.Errorf("%s: %d %s, and it needs no etcd", name, got.code, got.text)
			case got.code == http.StatusInternalServerError || got.code == http.StatusGatewayTimeout:
				if got.text == "" {
					t.Errorf("%s: %d without a word", name, got.code)
				}
			case got.code == 0 && got.after > patience-10*time.Second && strings.Contains(got.text, "stream error"):
				// The time was up while the answer began: the library ends the stream, upstream as here.
			default:
				t.Errorf("%s: %d %s after %v", name, got.code, got.text, got.after)
			}
		}
		t.Logf("%-22s at most %4.1f s: %v", name, longest.Seconds(), texts)
	}
}

func start(t *testing.T, etcdFlags ...string) *bareserver.Server {
	s, err := bareserver.Start(t.Context(), bareserver.Config{Program: program(t), Dir: t.TempDir(), Etcd: etcdFlags})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		log, err := s.Log("kube-apiserver")
		if err != nil {
			t.Error(err)
		}
		for _, word := range []string{"Observed a panic", "goroutine "} {
			if at := strings.Index(log, word); at >= 0 {
				t.Errorf("the log of the API server speaks of %q:\n%s", word, log[at:min(len(log), at+2000)])
			}
		}
	})
	return s
}

func health(s *bareserver.Server, path string) (int, string) {
	var code int
	body, err := s.Client.Discovery().RESTClient().Get().RequestURI(path).MaxRetries(0).Timeout(10 * time.Second).Do(context.Background()).StatusCode(&code).Raw()
	if code == 0 {
		return 0, err.Error()
	}
	return code, string(body)
}
