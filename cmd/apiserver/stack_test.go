package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// What grows the stack lets everything through as it came.
func TestGrowing(t *testing.T) {
	served := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, "/here", nil)
	growing(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r != request {
			t.Error("another request")
		}
		w.WriteHeader(http.StatusTeapot)
	})).ServeHTTP(served, request)
	if served.Code != http.StatusTeapot {
		t.Errorf("status %d", served.Code)
	}
	who := &authenticator.Response{User: &user.DefaultInfo{Name: "u"}}
	got, ok, err := growingAuthenticator(authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		return who, r == request, nil
	})).AuthenticateRequest(request)
	if got != who || !ok || err != nil {
		t.Errorf("authenticated %v, %v, %v", got, ok, err)
	}
}

// deep uses much of the stack, as handlers do.
//
//go:noinline
func deep(n int) int {
	var frame [256]byte
	if n == 0 {
		return len(frame)
	}
	return deep(n-1) + int(frame[n%256])
}

func BenchmarkGrowStack(b *testing.B) {
	for _, grow := range []bool{false, true} {
		b.Run(map[bool]string{false: "by itself", true: "at once"}[grow], func(b *testing.B) {
			done := make(chan int)
			for b.Loop() {
				go func() {
					if grow {
						growStack()
					}
					done <- deep(60)
				}()
				<-done
			}
		})
	}
}
