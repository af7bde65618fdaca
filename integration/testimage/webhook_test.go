package main

import (
	"encoding/hex"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWebhook(t *testing.T) {
	h := func(s string) string { return hex.EncodeToString([]byte(s)) }
	for _, tt := range []struct{ path, object, want string }{
		{"/allow", `{}`, `"allowed":true`},
		{"/deny", `{}`, `"allowed":false`},
		{"/deny-if/" + h("bad"), `{"a":"bad"}`, `"allowed":false`},
		{"/deny-if/" + h("bad"), `{"a":"good"}`, `"allowed":true`},
		{"/patch/" + h("[]"), `{}`, `"patch":"W10="`},
		{"/patch-if/" + h("a") + "/" + h("[]"), `{"a":1}`, `"patch":"W10="`},
		{"/convert", `{"apiVersion":"x/v1","hostPort":"h:80"}`, `{"apiVersion":"x/v2","host":"h","port":"80"}`},
		{"/nothing", `{}`, "unknown path"},
	} {
		w := httptest.NewRecorder()
		body := `{"kind":"R","request":{"uid":"u1","object":` + tt.object + `,"desiredAPIVersion":"x/v2","objects":[` + tt.object + `]}}`
		answerReview(w, httptest.NewRequest("POST", tt.path, strings.NewReader(body)))
		if got := w.Body.String(); !strings.Contains(got, tt.want) {
			t.Errorf("%s of %s: got %s, want it to hold %s", tt.path, tt.object, got, tt.want)
		} else if w.Code == 200 && (!json.Valid(w.Body.Bytes()) || !strings.Contains(got, `"uid":"u1"`)) {
			t.Errorf("%s: an answer without the request's uid: %s", tt.path, got)
		}
	}
}
