package apiserver

import (
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// answerMergePanics refuses bodies that make the libraries that merge them panic: json-patch v4 does on a test for a
// list with null in it, strategicpatch on a merge key that is an object, structured-merge-diff on a number of a free-form
// field that fits no float. Otherwise the connection would die, and
// whoever may write anything at all could fill the log with stacks. Panics of anything else go on.
func answerMergePanics(next http.Handler, codecs runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			why, ours := mergePanic(reason)
			if !ours {
				panic(reason)
			}
			responsewriters.ErrorNegotiated(apierrors.NewBadRequest("the body cannot be merged: "+why), codecs, schema.GroupVersion{Version: "v1"}, w, r)
		}()
		next.ServeHTTP(w, r)
	})
}

// mergePanic says why a library could not merge a body, if that is the reason. The handlers hand on a panic
// as a text, with the stack after the first line; the function that panicked stands below the runtime's own.
func mergePanic(reason any) (why string, ours bool) {
	why, stack, _ := strings.Cut(fmt.Sprint(reason), "\n")
	_, stack, found := strings.Cut(stack, "\npanic(")
	if !found {
		return "", false
	}
	lines := strings.SplitN(stack, "\n", 4) // the rest of panic's line, its place, the function that panicked
	if len(lines) < 3 {
		return "", false
	}
	for _, library := range []string{"gopkg.in/evanphx/json-patch", "k8s.io/apimachinery/pkg/util/strategicpatch.", "sigs.k8s.io/structured-merge-diff/"} {
		if strings.HasPrefix(lines[2], library) {
			return why, true
		}
	}
	return "", false
}
