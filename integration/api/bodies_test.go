package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// No body, however broken, is answered with an error of the server's own, ends the server or leaves a stack in its
// log (TestMain reads that).
func TestNoBodyUpsetsTheServer(t *testing.T) {
	first := seed()
	t.Logf("seed %d", first)
	s, codecs, err := goTypes()
	ok(t, err)
	info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), asProtobuf)
	bodies := 0
	for _, r := range resources(t, "create") {
		if _, known := leasts(t)[r.String()]; !known {
			continue // reviews keep nothing; the next test is for them
		}
		for round := range *roundsFlag {
			rnd := rand.New(rand.NewPCG(uint64(first), uint64(round)))
			ns := namespace(t, "bodies")
			o := least(t, r, ns, 200)
			path := r.path(ns)
			if a := send(t, "POST", path, encode(o)); a.code != 201 {
				t.Errorf("%s: %s", r, a)
				continue
			}
			typed, err := r.typed(s)
			ok(t, err)
			ok(t, json.Unmarshal(encode(o), typed))
			proto, err := runtime.Encode(info.Serializer, typed)
			ok(t, err)
			random, err := newGrower(rnd, ns).grown(r, s, o)
			ok(t, err)
			u := upsetter{t: t, rnd: rnd, heavy: r.name == "pods" || r.name == "configmaps"}
			u.documents("POST", path+"?dryRun=All", random, proto)
			u.documents("PUT", path+"/"+name(o), random, proto)
			u.patches(path+"/"+name(o), random)
			for _, sub := range r.subresources {
				switch sub {
				case "attach", "exec", "portforward", "proxy", "log": // not documents
				case "binding", "eviction", "token":
					u.documents("POST", path+"/"+name(o)+"/"+sub, random, proto)
				default:
					u.documents("PUT", path+"/"+name(o)+"/"+sub, random, proto)
					if u.heavy || sub != "status" {
						u.patches(path+"/"+name(o)+"/"+sub, random)
					}
				}
			}
			bodies += u.sent
			remove(t, r, ns, name(o))
		}
	}
	t.Logf("%d bodies", bodies)
	if a := send(t, "GET", "/readyz", nil); a.code != 200 {
		t.Errorf("after all that the server is not ready: %s", a)
	}
}

// Reviews are computed, not stored: their bodies have other ways in.
func TestNoReviewUpsetsTheServer(t *testing.T) {
	first := seed()
	t.Logf("seed %d", first)
	rnd := rand.New(rand.NewPCG(uint64(first), 0))
	s, _, err := goTypes()
	ok(t, err)
	for _, r := range resources(t, "create") {
		if _, known := leasts(t)[r.String()]; known {
			continue
		}
		random, err := newGrower(rnd, "bodies").grown(r, s, map[string]any{"apiVersion": r.groupVersion, "kind": r.kind})
		ok(t, err)
		(&upsetter{t: t, rnd: rnd}).documents("POST", r.path(namespace(t, "bodies")), random, []byte("k8s\x00"))
	}
}

// upsetter sends one request after the other.
type upsetter struct {
	t     *testing.T
	rnd   *rand.Rand
	heavy bool // sends large bodies too; they meet the same code whatever the resource
	sent  int
	met   map[string]bool // the kinds of bodies that the resource got
}

func (u *upsetter) send(method, path, contentType string, body []byte) {
	u.t.Helper()
	share := 4 // the same code reads them all: each resource gets some of them
	if *roundsFlag > 1 {
		share = 1
	}
	kind := method + " " + contentType
	if u.met == nil {
		u.met = map[string]bool{}
	}
	if !u.heavy && u.met[kind] && u.rnd.IntN(share) != 0 {
		return
	}
	u.met[kind] = true // the first of each goes to every resource
	u.sent++
	began := time.Now()
	a, err := request(u.t.Context(), method, path, contentType, asJSON, body)
	if err != nil {
		u.t.Errorf("%s %s as %s: %v\nbody %.500q", method, path, contentType, err, body)
		return
	}
	// The libraries answer what they cannot merge with 500, upstream too, and say clearly why.
	if a.code >= 500 && method != "PATCH" && a.code != 504 || bytes.Contains(a.body, []byte("panic")) {
		u.t.Errorf("%s %s as %s: %s\nbody %.1500q", method, path, contentType, a, body)
	}
	if took := time.Since(began); took > 20*time.Second {
		u.t.Errorf("%s %s as %s took %s\nbody %.500q", method, path, contentType, took, body)
	}
}

const deepest = 20000

// documents sends whole objects, broken in many ways.
func (u *upsetter) documents(method, path string, o map[string]any, proto []byte) {
	u.t.Helper()
	good := encode(o)
	u.send(method, path, asJSON, encode(u.broken(o)))
	for _, body := range []string{"", "null", "[]", "{}", "0", `""`, "{", `{"kind":`, string(good[:len(good)/2]), string(good) + string(good), "\xff\xfe\x00",
		`{"apiVersion":"v1","kind":"List","items":[null,{}]}`} {
		u.send(method, path, asJSON, []byte(body))
	}
	for _, body := range []string{"a: &a [*a]", "a: &a\n  b: *a", ": :", "---\n---\n", "\t", "apiVersion: v1\nkind: !!binary x\n"} {
		u.send(method, path, asYAML, []byte(body))
	}
	if u.heavy {
		u.send(method, path, asJSON, []byte(strings.Repeat("[", deepest)))
		u.send(method, path, asJSON, []byte(strings.Repeat(`{"a":`, deepest)))
		u.send(method, path, asJSON, []byte(strings.Replace(string(good), `"metadata":{`, `"metadata":{"labels":`+strings.Repeat(`{"a":`, 9000)+"1"+strings.Repeat("}", 9000)+",", 1)))
		u.send(method, path, asYAML, []byte(strings.Repeat("- ", 2000)))
		u.send(method, path, asYAML, []byte(bomb()))
	}
	for range 8 {
		u.send(method, path, asJSON, encode(u.broken(o)))
	}
	for range 8 {
		cut := slices.Clone(proto)
		switch u.rnd.IntN(3) {
		case 0:
			cut = cut[:u.rnd.IntN(len(cut))]
		case 1:
			for range 1 + u.rnd.IntN(4) {
				cut[u.rnd.IntN(len(cut))] = byte(u.rnd.IntN(256))
			}
		case 2:
			i := u.rnd.IntN(len(cut))
			cut = slices.Concat(cut[:i], []byte{0xff, 0xff, 0xff, 0xff, 0x0f}, cut[i:])
		}
		u.send(method, path, asProtobuf, cut)
	}
	u.send(method, path, asProtobuf, nil)
	u.send(method, path, asProtobuf, proto[:min(4, len(proto))])
	for _, body := range []string{"\xd9\xd9\xf7\xbf\xff", "\xd9\xd9\xf7\xa1\x61a\x9f", "\xd9\xd9\xf7\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "\xd9\xd9\xf7" + strings.Repeat("\x81", 5000)} {
		u.send(method, path, "application/cbor", []byte(body)) // not served, and said so
	}
	for _, contentType := range []string{"", "application/cbor", "text/plain", "application/json; charset=\xff", "application/apply-patch+yaml"} {
		u.send(method, path, contentType, good)
	}
}

// bomb is YAML that doubles with every line.
func bomb() string {
	b := &strings.Builder{}
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	return b.String()
}

// broken is o with one to three of its values, anywhere, changed to what does not belong there.
func (u *upsetter) broken(o map[string]any) map[string]any {
	out := overlay(map[string]any{}, o).(map[string]any)
	for range 1 + u.rnd.IntN(3) {
		var all [][]string
		var walk func(v any, path []string)
		walk = func(v any, path []string) {
			if len(path) > 0 {
				all = append(all, path)
			}
			switch c := v.(type) {
			case map[string]any:
				for _, k := range sortedKeys(c) {
					walk(c[k], append(slices.Clone(path), k))
				}
			case []any:
				for i, e := range c {
					walk(e, append(slices.Clone(path), fmt.Sprint(i)))
				}
			}
		}
		walk(out, nil)
		if len(all) == 0 {
			return out
		}
		replace(out, all[u.rnd.IntN(len(all))], u.odd())
	}
	return out
}

// odd is a value that fits hardly anywhere.
func (u *upsetter) odd() any {
	values := []any{nil, []any{nil}, []any{nil, nil, map[string]any{}}, map[string]any{}, map[string]any{"": nil}, []any{}, "", true, -1, json.Number("1e400"), json.Number("-0"),
		json.Number("99999999999999999999999999"), json.Number("9223372036854775808"), 1.5, "\x00", strings.Repeat("x", 70000), strings.Repeat("á/", 300), "-1", "1e1000000",
		"9999999999999999999999999999999999999Ei", "0001-01-01T00:00:00Z", "2026-13-45T99:99:99Z", "999.999.999.999", "::ffff:1.2.3.4/129", "%zz", "(((((", "[a-", "*.*", "..", "/../../etc",
		[]any{[]any{[]any{}}}, []any{"a", 1, nil, true}, map[string]any{"$patch": "delete"}, "$(A)", "$$(", "TZ=UTC * * * * *", "* * * * * * * *", "{{", "self.a.b[0]", "\u202e", "0x", "1Gi1"}
	return values[u.rnd.IntN(len(values))]
}

// patches sends patches of every kind, broken in many ways.
func (u *upsetter) patches(path string, o map[string]any) {
	u.t.Helper()
	const dry = "?dryRun=All"
	kinds := []string{"application/strategic-merge-patch+json", "application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml"}
	suffix := func(kind string) string {
		if strings.Contains(kind, "apply") {
			return dry + "&fieldManager=u&force=true"
		}
		return dry
	}
	for _, kind := range kinds {
		u.send("PATCH", path+suffix(kind), kind, encode(u.broken(o)))
		for _, body := range []string{"", "null", "[]", "{}", "0", "[null]", "[{}]", `[{"op":"test"}]`, "{",
			`{"metadata":null}`, `{"spec":null}`, `{"spec":[]}`, `{"spec":{"$patch":"replace"}}`, `{"spec":{"$patch":1}}`, `{"$patch":"delete"}`, `{"$retainKeys":[1]}`, `{"$retainKeys":null}`,
			`{"spec":{"$setElementOrder/containers":null}}`, `{"spec":{"template":{"spec":{"containers":[null],"$setElementOrder/containers":[null,{}]}}}}`, `{"spec":{"containers":[{}]}}`,
			`{"spec":{"containers":[{"name":null}]}}`, `{"spec":{"containers":[{"name":{}}]}}`, `{"$deleteFromPrimitiveList/finalizers":[1]}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}`,
			`{"metadata":{"finalizers":[null]}}`, `{"metadata":{"ownerReferences":[null]}}`, `{"metadata":{"ownerReferences":[{"uid":null}]}}`, `{"metadata":{"managedFields":[{}]}}`, `{"metadata":{"managedFields":[null]}}`,
			`{"metadata":{"managedFields":[{"manager":"m","operation":"Apply","apiVersion":"x/y/z","fieldsType":"FieldsV1","fieldsV1":{"f:":{"k:{":{}}}}]}}`,
			`{"metadata":{"creationTimestamp":"x"}}`, `{"metadata":{"labels":{"a":{}}}}`} {
			u.send("PATCH", path+suffix(kind), kind, []byte(body))
		}
		for range 6 {
			u.send("PATCH", path+suffix(kind), kind, encode(u.broken(o)))
		}
	}
	for _, op := range []string{`{"op":"test","path":"/metadata","value":[null]}`, `{"op":"test","path":"","value":null}`, `{"op":"remove","path":""}`, `{"op":"replace","path":"","value":null}`,
		`{"op":"copy","from":"/metadata","path":"/metadata/labels"}`, `{"op":"move","from":"/metadata","path":"/metadata/labels/x"}`, `{"op":"add","path":"/metadata/finalizers/-1","value":"x"}`,
		`{"op":"add","path":"/metadata/finalizers","value":[null]}`, `{"op":"remove","path":"/metadata/finalizers/99999999999999999999"}`, `{"op":"add","path":"/spec/containers/-","value":null}`,
		`{"op":"add","path":"/~2","value":1}`, `{"op":"replace","path":"/kind","value":null}`, `{"op":"replace","path":"/apiVersion","value":"x/y/z"}`, `{"op":"replace","path":"/spec","value":null}`,
		`{"op":"replace","path":"/metadata","value":null}`, `{"op":"add"}`, `{"path":null}`, `{"op":null,"path":null,"value":null}`, `null`, `1`} {
		u.send("PATCH", path+dry, kinds[2], []byte("["+op+"]"))
	}
	if u.heavy {
		for _, kind := range kinds {
			u.send("PATCH", path+suffix(kind), kind, []byte(strings.Repeat("[", deepest)))
			u.send("PATCH", path+suffix(kind), kind, []byte(strings.Repeat(`{"a":`, deepest)))
		}
		u.send("PATCH", path+dry, kinds[2], []byte("["+strings.Repeat(`{"op":"copy","from":"/metadata","path":"/metadata/x"},`, 40)+`{"op":"test","path":"/kind","value":"x"}]`))
		u.send("PATCH", path+dry, kinds[2], []byte("["+strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/kind","value":"x"},`, 20000), ",")+"]"))
	}
}
