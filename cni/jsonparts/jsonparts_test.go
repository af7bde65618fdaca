package jsonparts

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlainTextIsTakenApart(t *testing.T) {
	got, ok := Members([]byte(` { "a" : "x" , "b":[1, {"c" : null}],"d":-10,"e":true ,"f":{} } `))
	want := []Member{{"a", []byte(`"x"`)}, {"b", []byte(`[1, {"c" : null}]`)}, {"d", []byte(`-10`)}, {"e", []byte(`true`)}, {"f", []byte(`{}`)}}
	if d := cmp.Diff(want, got); d != "" || !ok {
		t.Errorf("%v, want less got:\n%s", ok, d)
	}
	if texts, ok := Texts([]byte(`["a", "b c"]`)); !ok || cmp.Diff([]string{"a", "b c"}, texts) != "" {
		t.Errorf("got %q, %v", texts, ok)
	}
}

func TestWhatIsNotPlainIsLeftToTheLibrary(t *testing.T) {
	for _, text := range []string{
		``, `{`, `[]`, `null`, `{"a":1,}`, `{"a":1}x`, `{"a" 1}`, `{a:1}`, `{"a":01}`, `{"a":-}`, `{"a":tru}`, `{"a":1.5}`, `{"a":"\n"}`, "{\"a\":\"\n\"}",
		`{"a":1,"a":2}`, `{"\u0061":1}`, `{"ä":1}`, `{"a":[1,]}`, `{"a":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
	} {
		if m, ok := Members([]byte(text)); ok {
			t.Errorf("%s: got %v", text, m)
		}
	}
}

// What is said yes to is what encoding/json gives.
func FuzzAgainstTheLibrary(f *testing.F) {
	for _, s := range []string{`{"a":"x","b":[1,{"c":null}],"d":-10,"e":true}`, `["a","b"]`, `"a"`, `{"a":1,"a":2}`, `{"a":"\u003c"}`, `[-0,00,1e5]`, `{"":""}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if members, ok := Members(raw); ok {
			got := map[string]json.RawMessage{}
			for _, m := range members {
				got[m.Name] = m.Value
			}
			compare(t, got, raw)
		}
		if values, ok := Elements(raw); ok {
			got := []json.RawMessage{}
			for _, v := range values {
				got = append(got, v)
			}
			compare(t, got, raw)
		}
		if text, ok := Text(raw); ok {
			compare(t, text, raw)
		}
		if texts, ok := Texts(raw); ok {
			compare(t, texts, raw)
		}
		want, _ := json.Marshal(string(raw))
		if d := cmp.Diff(string(want), string(AppendText(nil, string(raw)))); d != "" {
			t.Errorf("want less got:\n%s", d)
		}
	})
}

func compare[T any](t *testing.T, got T, raw []byte) {
	var want T
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatalf("%q: said yes to what is not: %v", raw, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%q: want less got:\n%s", raw, d)
	}
}
