package access

import (
	"os"
	"strings"
	"testing"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

var (
	first  = Secret{UID: "1", Namespace: "a", Name: "s", CredentialHash: "h1"}
	second = Secret{UID: "2", Namespace: "b", Name: "s", CredentialHash: "h2"}
	copied = Secret{UID: "3", Namespace: "c", Name: "s", CredentialHash: "h1"}
	turned = Secret{UID: "1", Namespace: "a", Name: "s", CredentialHash: "h9"}
)

func records(t *testing.T, policy kubeletconfig.ImagePullCredentialsVerificationPolicy, free ...string) *Records {
	t.Helper()
	r, err := New(Config{Dir: t.TempDir(), Policy: policy, Free: free})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func may(t *testing.T, r *Records, image, ref string, secrets ...Secret) bool {
	t.Helper()
	ok, err := r.Allows(image, ref, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestPreloaded(t *testing.T) {
	for _, tt := range []struct {
		policy kubeletconfig.ImagePullCredentialsVerificationPolicy
		image  string
		free   []string
		want   bool
	}{
		{kubeletconfig.NeverVerify, "x:1", nil, true},
		{"", "x:1", nil, true},
		{kubeletconfig.AlwaysVerify, "x:1", nil, false},
		{kubeletconfig.NeverVerifyAllowlistedImages, "x:1", []string{"x"}, true},
		{kubeletconfig.NeverVerifyAllowlistedImages, "docker.io/library/x:1", []string{"x"}, true},
		{kubeletconfig.NeverVerifyAllowlistedImages, "xy:1", []string{"x"}, false},
		{kubeletconfig.NeverVerifyAllowlistedImages, "r.example/team/x:1", []string{"r.example/team/*"}, true},
		{kubeletconfig.NeverVerifyAllowlistedImages, "r.example/teams/x:1", []string{"r.example/team/*"}, false},
		{kubeletconfig.NeverVerifyAllowlistedImages, "x:1", nil, false},
	} {
		if got := may(t, records(t, tt.policy, tt.free...), tt.image, "sha256:1"); got != tt.want {
			t.Errorf("%s with %v: %s is %v", tt.policy, tt.free, tt.image, got)
		}
	}
}

func TestPulledBySecret(t *testing.T) {
	r := records(t, "")
	if err := r.Pulled("r.example/x:1", "sha256:1", &first); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		image   string
		secrets []Secret
		want    bool
	}{
		"the same secret":         {"r.example/x:1", []Secret{second, first}, true},
		"another tag of it":       {"r.example/x:2", []Secret{first}, true},
		"the same under a name":   {"r.example/x:1", []Secret{copied}, true},
		"the secret, renewed":     {"r.example/x:1", []Secret{turned}, true},
		"another secret":          {"r.example/x:1", []Secret{second}, false},
		"none":                    {"r.example/x:1", nil, false},
		"the same bits elsewhere": {"q.example/x:1", []Secret{first}, false},
	} {
		if got := may(t, r, tt.image, "sha256:1", tt.secrets...); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if err := r.Pulled("r.example/x:1", "sha256:1", &second); err != nil {
		t.Fatal(err)
	}
	if !may(t, r, "r.example/x:1", "sha256:1", first) || !may(t, r, "r.example/x:1", "sha256:1", second) {
		t.Error("of two secrets it was pulled by only one counts")
	}
	if err := r.Pulled("r.example/x:1", "sha256:1", nil); err != nil {
		t.Fatal(err)
	}
	if !may(t, r, "r.example/x:1", "sha256:1") {
		t.Error("what can be pulled without a secret needs one")
	}
	for _, at := range []time.Time{time.Now().Add(-time.Minute), time.Now().Add(time.Minute)} {
		if err := r.Keep([]string{"sha256:2"}, at); err != nil {
			t.Fatal(err)
		}
		if rec, _ := r.read("sha256:1"); rec == nil && at.Before(time.Now()) {
			t.Error("an image that came while images were listed is forgotten")
		}
	}
	if rec, err := r.read("sha256:1"); rec != nil || err != nil {
		t.Errorf("an image that has gone is remembered: %v, %v", rec, err)
	}
}

// Of a pull that nobody saw the end of nothing is known, and a record that cannot be read allows nothing.
func TestCutOff(t *testing.T) {
	r := records(t, "")
	if err := r.Pulling("x:1"); err != nil {
		t.Fatal(err)
	}
	if may(t, r, "x:1", "sha256:1", first) {
		t.Error("a pull under way allows the image")
	}
	if err := r.Ended("x:1"); err != nil {
		t.Fatal(err)
	}
	if !may(t, r, "x:1", "sha256:1") {
		t.Error("a pull that came to nothing makes a preloaded image private")
	}
	if err := r.Pulled("x:1", "sha256:1", &first); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.record("sha256:1"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, err := r.Allows("x:1", "sha256:1", []Secret{first}); ok || err == nil {
		t.Errorf("a broken record: %v, %v", ok, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Dir: "x"}, "absolute"},
		{Config{Dir: "/x", Policy: "Sometimes"}, "Sometimes"},
		{Config{Dir: "/x", Free: []string{"x"}}, "preloadedImagesVerificationAllowlist"},
		{Config{Dir: "/x", Policy: kubeletconfig.NeverVerifyAllowlistedImages, Free: []string{"x:1"}}, "without tag"},
	} {
		if _, err := New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.cfg, err)
		}
	}
}
