package apiserver

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// answerMergePanics refuses bodies that make the libraries that read and merge them panic: json-patch v4 does on a test
// for a list with null in it, strategicpatch on a merge key that is an object, structured-merge-diff on a number of a
// free-form field that fits no float, and apiextensions-apiserver on a custom resource in protobuf, for which it has no
// strict decoder. Otherwise the connection would die, and whoever may write anything at all could fill the log with
// stacks. Panics of anything else go on.
func answerMergePanics(next http.Handler, codecs runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			text, handedOn := reason.(string)
			if !handedOn {
				text = fmt.Sprintf("%v\n%s", reason, debug.Stack())
			}
			refusal := mergePanic(text)
			if refusal == nil {
				panic(reason)
			}
			responsewriters.ErrorNegotiated(refusal, codecs, schema.GroupVersion{Version: "v1"}, w, r)
		}()
		next.ServeHTTP(w, r)
	})
}

// mergePanic is the answer to a body that a library could not read or merge, nil if the panic has another reason. The
// text is the panic's value and, after its first line, a stack: that of the goroutine that panicked, also where the
// handlers hand a panic on to another. The function that panicked stands below the runtime's own.
func mergePanic(text string) error {
	why, stack, _ := strings.Cut(text, "\n")
	_, stack, found := strings.Cut(stack, "\npanic(")
	if !found {
		return nil
	}
	lines := strings.SplitN(stack, "\n", 4) // the rest of panic's line, its place, the function that panicked
	if len(lines) < 3 {
		return nil
	}
	for _, library := range []string{"gopkg.in/evanphx/json-patch", "k8s.io/apimachinery/pkg/util/strategicpatch.", "sigs.k8s.io/structured-merge-diff/"} {
		if strings.HasPrefix(lines[2], library) {
			return apierrors.NewBadRequest("the body cannot be merged: " + why)
		}
	}
	if strings.HasPrefix(lines[2], "k8s.io/apiextensions-apiserver/pkg/apiserver.schemaCoercingDecoder.Decode(") {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
			Message: "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml"}}
	}
	return nil
}
