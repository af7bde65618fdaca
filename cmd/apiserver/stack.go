package apiserver

import (
	"net/http"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// growStack makes room on the stack of the goroutine at once, while there is little on it: for what the handlers of one request
// need, nearly. A stack that grows by itself doubles until it fits, and each time all calls on it are looked up and moved: some
// sixty, deep in the handlers. It touches nothing of the room.
func growStack()

// growing serves with a large stack.
func growing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		growStack()
		next.ServeHTTP(w, r)
	})
}

// growingAuthenticator does the same for the goroutine in which a request goes on once it has a deadline: authentication is
// the first that happens there.
func growingAuthenticator(next authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		growStack()
		return next.AuthenticateRequest(r)
	})
}
