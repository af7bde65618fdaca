package identity

import (
	"errors"
	"net/http"
	"slices"
	"testing"
)

type answer func(*http.Request) (*http.Response, error)

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func TestRequestsAreCounted(t *testing.T) {
	var got []string
	asked := func(method, host, code string) { got = append(got, method+" "+host+" "+code) }
	for _, next := range []answer{
		func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusConflict}, nil
		},
		func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") },
	} {
		req, err := http.NewRequest(http.MethodPatch, "https://192.0.2.1:6443/api/v1/nodes/n", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := (counted{next, asked}).RoundTrip(req); (resp == nil) == (err == nil) {
			t.Errorf("the answer was changed: %v, %v", resp, err)
		}
	}
	if want := []string{"PATCH 192.0.2.1:6443 409", "PATCH 192.0.2.1:6443 <error>"}; !slices.Equal(got, want) {
		t.Errorf("counted %q, want %q", got, want)
	}
}
