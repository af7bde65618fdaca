package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// refuseNullTests answers JSON patches that test for a list with null in it. The library that applies JSON patches
// panics on them (json-patch v4, lazyNode.equal), and whoever may patch anything at all could fill the log with it.
// maxBody is the size from which a body is refused by those behind this handler anyway.
func refuseNullTests(next http.Handler, codecs runtime.NegotiatedSerializer, maxBody int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if r.Method != http.MethodPatch || err != nil || kind != string(types.JSONPatchType) || r.Body == nil {
			next.ServeHTTP(w, r)
			return
		}
		read, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err == nil && testsForNull(read) {
			responsewriters.ErrorNegotiated(apierrors.NewBadRequest("a JSON patch cannot test for a list with null in it"), codecs, schema.GroupVersion{Version: "v1"}, w, r)
			return
		}
		rest := io.Reader(r.Body)
		if err != nil {
			rest = failing{fmt.Errorf("read patch: %w", err)}
		}
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(read), rest), r.Body}
		next.ServeHTTP(w, r)
	})
}

// failing is a reader that has failed.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// testsForNull says whether one of a JSON patch's test operations has a list with null in it.
func testsForNull(patch []byte) bool {
	var ops []struct {
		Op    string `json:"op"`
		Value any    `json:"value"`
	}
	if json.Unmarshal(patch, &ops) != nil {
		return false // refused by whoever applies it
	}
	for _, op := range ops {
		if op.Op == "test" && holdsNull(op.Value) {
			return true
		}
	}
	return false
}

func holdsNull(value any) bool {
	switch v := value.(type) {
	case []any:
		for _, e := range v {
			if e == nil || holdsNull(e) {
				return true
			}
		}
	case map[string]any:
		for _, e := range v {
			if holdsNull(e) {
				return true
			}
		}
	}
	return false
}
