package scheduler

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
)

// slow answers requests of a scheduler in its own time, patches in a second, the first of them in five, and notes them when they are done.
type slow struct {
	mu      sync.Mutex
	patched bool
	written []string
}

func (a *slow) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent struct{ Status corev1.PodStatus }
	body, err := io.ReadAll(req.Body)
	if err == nil {
		err = json.Unmarshal(body, &sent)
	}
	if err != nil {
		return nil, err
	}
	what := "bound"
	if req.Method == http.MethodPatch {
		what = sent.Status.Conditions[0].Message
		a.mu.Lock()
		took := 5 * time.Second
		if a.patched {
			took = time.Second
		}
		a.patched = true
		a.mu.Unlock()
		time.Sleep(took)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written = append(a.written, what)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

func (a *slow) done() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.written)
}

// schedulerOf is a scheduler of an API that is slow.
func schedulerOf(t *testing.T, api *slow) *Scheduler {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://api.test", Transport: api, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	recorders := map[string]Recorder{corev1.DefaultSchedulerName: &events.FakeRecorder{}}
	s, err := New(Defaults(), client, informers.NewSharedInformerFactory(client, 0), recorders, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is said of a pod last is written last, although an earlier write takes longer; what nobody would see any more is not written.
func TestTheNewestIsWrittenLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod, api := testPod("p", minor, cpu("2")), &slow{}
		s := schedulerOf(t, api)
		for _, message := range []string{"first", "second", "third"} {
			s.failed(t.Context(), NewPod(pod), message, allPlugins, "")
			synctest.Wait()
		}
		s.writing.Wait()
		if got := api.done(); !slices.Equal(got, []string{"first", "third"}) {
			t.Errorf("written %v", got)
		}
		s.failed(t.Context(), NewPod(pod), "fourth", allPlugins, "")
		s.writing.Wait()
		if got := api.done(); got[len(got)-1] != "fourth" || len(s.tellings.of) > 0 {
			t.Errorf("written %v, and %d left", got, len(s.tellings.of))
		}
	})
}

// That a pod has no node is never written after it has one.
func TestABindingComesAfterWhatWasSaidBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod, api := testPod("p", minor, cpu("2")), &slow{}
		s := schedulerOf(t, api)
		s.failed(t.Context(), NewPod(pod), "first", allPlugins, "")
		s.failed(t.Context(), NewPod(pod), "second", allPlugins, "")
		synctest.Wait()
		s.bind(t.Context(), NewPod(pod), Verdict{Node: "a"}, time.Now())
		s.writing.Wait()
		if got := api.done(); !slices.Equal(got, []string{"first", "bound"}) {
			t.Errorf("written %v", got)
		}
	})
}

// What the cache does not show yet does not count as said: a pod that said so before, and something else since, says so again.
func TestWhatIsSaidAgainIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod, api := testPod("p", minor, cpu("2")), &slow{}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "first"}}
		s := schedulerOf(t, api)
		for _, message := range []string{"first", "second", "first"} {
			s.failed(t.Context(), NewPod(pod), message, allPlugins, "")
			synctest.Wait()
		}
		s.writing.Wait()
		if got := api.done(); !slices.Equal(got, []string{"second", "first"}) {
			t.Errorf("written %v", got)
		}
	})
}
