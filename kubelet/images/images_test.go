package images

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/images/access"
)

// registry is a runtime whose pulls take a second.
type registry struct {
	mu           sync.Mutex
	have         map[string]bool
	fail         error
	pulls, most  int
	now, stopped int
}

func (r *registry) Image(_ context.Context, s *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.have[s.Image] {
		return nil, nil
	}
	return &runtimeapi.Image{Id: "sha256:" + s.Image, Size: 3}, nil
}

func (r *registry) Pull(ctx context.Context, s *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	r.pulls++
	r.now++
	r.most = max(r.most, r.now)
	r.mu.Unlock()
	var err error
	select {
	case <-time.After(time.Second):
		err = r.fail
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now--
	if err != nil {
		r.stopped++
		return "", err
	}
	r.have[s.Image] = true
	return s.Image, nil
}

func ask(p *Puller, ctx context.Context, image string, policy v1.PullPolicy) (Image, string, error) {
	var told []string
	got, err := p.Ensure(ctx, Request{Image: image, Policy: policy, Tell: func(_ bool, reason, _ string) { told = append(told, reason) }})
	return got, strings.Join(told, " "), err
}

func TestPolicies(t *testing.T) {
	for _, tt := range []struct {
		name    string
		image   string
		have    bool
		policy  v1.PullPolicy
		fail    error
		told    string
		reason  string
		pulling int
	}{
		{"present", "x:1", true, v1.PullIfNotPresent, nil, "Pulled", "", 0},
		{"absent", "x:1", false, v1.PullIfNotPresent, nil, "Pulling Pulled", "", 1},
		{"always", "x:1", true, v1.PullAlways, nil, "Pulling Pulled", "", 1},
		{"never", "x:1", false, v1.PullNever, nil, "ErrImageNeverPull", "ErrImageNeverPull", 0},
		{"refused", "x:1", false, v1.PullAlways, errors.New("no"), "Pulling Failed Failed", "ErrImagePull", 1},
		{"upper case", "localhost/Bad:1", false, v1.PullAlways, nil, "InspectFailed", "InvalidImageName", 0},
		{"not a name", "x y", false, v1.PullAlways, nil, "InspectFailed", "InvalidImageName", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &registry{have: map[string]bool{"x:1": tt.have}, fail: tt.fail}
				_, told, err := ask(New(Config{}, r, slog.Default()), t.Context(), tt.image, tt.policy)
				reason := ""
				if e := (*Error)(nil); errors.As(err, &e) {
					reason = e.Reason
				}
				if told != tt.told || reason != tt.reason || r.pulls != tt.pulling {
					t.Errorf("told %q, reason %q, pulls %d (%v)", told, reason, r.pulls, err)
				}
			})
		})
	}
}

// An image that one pod's secret brought here is not for a pod without it: that one has to show the registry its own.
func TestWhoMayUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{have: map[string]bool{"r.example/preloaded:1": true}}
		records, err := access.New(access.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		p := New(Config{Access: records}, r, slog.New(slog.DiscardHandler))
		with := func(uid string) []Auth {
			return []Auth{{&runtimeapi.AuthConfig{Username: uid}, access.Secret{UID: uid, CredentialHash: uid}}}
		}
		for _, tt := range []struct {
			name   string
			image  string
			policy v1.PullPolicy
			auths  []Auth
			fail   error
			told   string
			pulls  int
		}{
			{"there by itself", "r.example/preloaded:1", v1.PullIfNotPresent, nil, nil, "Pulled", 0},
			{"brought by a secret", "r.example/x:1", v1.PullIfNotPresent, with("a"), nil, "Pulling Pulled", 1},
			{"the same secret", "r.example/x:1", v1.PullIfNotPresent, with("a"), nil, "Pulled", 0},
			{"no secret", "r.example/x:1", v1.PullIfNotPresent, nil, errors.New("denied"), "Pulling Failed Failed", 1},
			{"no secret, never pulled", "r.example/x:1", v1.PullNever, nil, nil, "ErrImageNeverPull", 0},
			{"another secret, that is good", "r.example/x:1", v1.PullIfNotPresent, with("b"), nil, "Pulling Pulled", 1},
			{"the other secret again", "r.example/x:1", v1.PullNever, with("b"), nil, "Pulled", 0},
		} {
			r.fail, r.pulls = tt.fail, 0
			var told []string
			_, _ = p.Ensure(t.Context(), Request{Image: tt.image, Policy: tt.policy, Auths: tt.auths, Tell: func(_ bool, reason, _ string) { told = append(told, reason) }})
			if got := strings.Join(told, " "); got != tt.told || r.pulls != tt.pulls {
				t.Errorf("%s: told %q after %d pulls, want %q after %d", tt.name, got, r.pulls, tt.told, tt.pulls)
			}
		}
	})
}

func TestOnePullForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{have: map[string]bool{}}
		var took []time.Duration
		p := New(Config{Parallel: 2, Pulled: func(size uint64, d time.Duration) {
			r.mu.Lock()
			defer r.mu.Unlock()
			took = append(took, d)
			if size != 3 {
				t.Errorf("size %d, want 3", size)
			}
		}}, r, slog.Default())
		var wg sync.WaitGroup
		for _, image := range []string{"a:1", "a:1", "a:1", "b:1", "c:1"} {
			wg.Go(func() {
				if _, _, err := ask(p, t.Context(), image, v1.PullIfNotPresent); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if r.pulls != 3 || r.most != 2 {
			t.Errorf("%d pulls, %d at once; want 3 and 2", r.pulls, r.most)
		}
		if !slices.Equal(took, []time.Duration{time.Second, time.Second, time.Second}) {
			t.Errorf("told of pulls of %v, want each once, without its wait", took)
		}
	})
}

// A pod that goes away gives its pull up, unless another still waits for it.
// Registries are asked only so often; whoever comes too early is told so, and one who waits for a pull in flight does not
// count.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{have: map[string]bool{}}
		p := New(Config{QPS: 0.5, Burst: 1}, r, slog.New(slog.DiscardHandler))
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				if _, _, err := ask(p, t.Context(), "a:1", v1.PullIfNotPresent); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, told, err := ask(p, t.Context(), "b:1", v1.PullIfNotPresent)
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason != "ErrImagePull" || !strings.Contains(e.Message, "pull QPS exceeded") || told != "Pulling Failed Failed" {
			t.Errorf("too early: %v, told %s", err, told)
		}
		group.Wait()
		time.Sleep(2 * time.Second)
		if _, _, err := ask(p, t.Context(), "b:1", v1.PullIfNotPresent); err != nil {
			t.Errorf("later: %v", err)
		}
		if r.pulls != 2 {
			t.Errorf("%d pulls, want 2", r.pulls)
		}
	})
}

func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{have: map[string]bool{}}
		p := New(Config{}, r, slog.Default())
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, _, err := ask(p, ctx, "a:1", v1.PullAlways); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err %v", err)
		}
		synctest.Wait()
		if r.stopped != 1 {
			t.Error("pull goes on for nobody")
		}
	})
}

func TestAuths(t *testing.T) {
	s := &v1.Secret{Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(`{"auths":{
		"https://index.docker.io/v1/":{"auth":"dTpw"}, "r.example:5000":{"username":"a","password":"b"}, "r.example:5000/team":{"username":"t","password":"b"}}}`)}}
	for image, want := range map[string]string{"nginx": "u", "r.example:5000/x": "a", "r.example:5000/team/x": "t a", "other.io/x": ""} {
		auths, err := Auths(image, []*v1.Secret{s})
		if err != nil {
			t.Fatal(err)
		}
		var users []string
		for _, a := range auths {
			users = append(users, a.Config.Username)
		}
		if got := strings.Join(users, " "); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}
