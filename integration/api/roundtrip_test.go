package api

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/yaml"
)

// attempts is how often an object is mended before only its least part is left.
const attempts = 120

// trip is one object on its way through the server.
type trip struct {
	t       *testing.T
	r       resource
	ns      string
	rnd     *rand.Rand
	scheme  *runtime.Scheme
	codecs  serializer.CodecFactory
	offered int // random values of the object before it was mended
}

func seed() int64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return time.Now().UnixNano() % 1e9
}

// Every kind, filled at random, keeps its meaning through every encoding and every way of writing.
func TestRoundTrip(t *testing.T) {
	first := seed()
	t.Logf("seed %d", first)
	s, codecs, err := goTypes()
	ok(t, err)
	filled, all := 0, 0
	for _, r := range resources(t, "create", "get", "update", "patch", "delete") {
		t.Run(strings.ReplaceAll(r.String(), "/", "."), func(t *testing.T) {
			for i := range *roundsFlag {
				rnd := rand.New(rand.NewPCG(uint64(first), uint64(i)))
				ns := namespace(t, "rt-"+r.name)
				trip := &trip{t, r, ns, rnd, s, codecs, 0}
				kept := trip.run(2 * i)
				all++
				if kept > 0 {
					filled++
				}
			}
		})
	}
	t.Logf("%d of %d objects had more than their least part", filled, all)
	if filled*3 < all*2 {
		t.Errorf("only %d of %d objects had more than their least part", filled, all)
	}
}

// run takes one object through all, and says how many random values it had.
func (p *trip) run(n int) int {
	p.t.Helper()
	base := least(p.t, p.r, p.ns, n)
	sent, made := p.create(base)
	if made == nil {
		return 0
	}
	defer remove(p.t, p.r, p.ns, name(sent))
	p.nothingLost(sent, made)
	p.settled(p.decode(answer{201, asJSON, encode(made)}))
	created := p.decode(answer{200, asJSON, encode(made)})
	p.reads(created)
	created = p.createdAgain(sent, created)
	p.writesBack(created)
	p.patches(created)
	p.applies(created)
	p.statusKept()
	kept := leaves(sent) - leaves(base)
	p.t.Logf("%d random values of %d", kept, p.offered)
	return kept
}

// create sends a random object until the server takes it.
func (p *trip) create(base map[string]any) (sent, made map[string]any) {
	p.t.Helper()
	o, err := fill(p.r, p.scheme, p.rnd, base)
	ok(p.t, err)
	p.offered = leaves(o) - leaves(base)
	for i := range attempts {
		if i == attempts-1 {
			o = overlay(map[string]any{}, base).(map[string]any)
		}
		a := send(p.t, "POST", p.r.path(p.ns), encode(o))
		switch {
		case a.code == 201:
			ok(p.t, decode(a.body, &made))
			return o, made
		case a.code >= 500:
			p.t.Errorf("create: %s\nof %s", a, encode(o))
			return nil, nil
		}
		list := causes(a.body)
		if testing.Verbose() && *onlyFlag != "" {
			p.t.Logf("attempt %d, %d left: %.1500s", i, leaves(o)-leaves(base), encode(list))
			if len(list) == 0 {
				p.t.Logf("%s", a)
			}
		}
		o = mendAll(o, base, list, p.rnd)
		if i == attempts-2 {
			p.t.Logf("gave up after %s", a)
		}
	}
	a := send(p.t, "POST", p.r.path(p.ns), encode(o))
	p.t.Errorf("the least object is refused: %s", a)
	return nil, nil
}

// nothingLost wants all that was sent in what was stored, but for what the server alone says.
func (p *trip) nothingLost(sent, made map[string]any) {
	p.t.Helper()
	want := overlay(map[string]any{}, sent).(map[string]any)
	delete(want, "status")
	for _, gone := range replaced(p.r) {
		forget(want, gone)
	}
	if l := lost(want, made, ""); len(l) > 0 {
		p.t.Errorf("lost by create: %s\nsent %s\nmade %s", strings.Join(l, "\n"), encode(sent), encode(made))
	}
}

// replaced are fields that the API documents as set by the server, whatever was sent.
func replaced(r resource) []string {
	if r.String() == "certificates.k8s.io/v1/certificatesigningrequests" {
		return []string{"username", "uid", "groups", "extra"}
	}
	if strings.HasPrefix(r.groupVersion, "resource.k8s.io/") {
		return []string{"derivedAttributes", "ints", "bools", "strings", "versions"} // alpha, and off
	}
	// A Secret's, moved to data; a pod's, the old name of serviceAccountName; a Service's, gone where there is no affinity.
	return []string{"stringData", "serviceAccount", "sessionAffinityConfig"}
}

// forget takes a field of a name out of o, wherever it is.
func forget(o any, field string) {
	switch c := o.(type) {
	case map[string]any:
		delete(c, field)
		for _, v := range c {
			forget(v, field)
		}
	case []any:
		for _, v := range c {
			forget(v, field)
		}
	}
}

// decode reads an answer into the Go type, less what changes with every write.
func (p *trip) decode(a answer) runtime.Object {
	p.t.Helper()
	if a.code/100 != 2 {
		p.t.Fatalf("%s", a)
	}
	body := a.body
	if strings.HasPrefix(a.contentType, asYAML) {
		var err error
		body, err = yaml.YAMLToJSON(body)
		ok(p.t, err)
	}
	into, err := p.r.typed(p.scheme)
	ok(p.t, err)
	if strings.HasPrefix(a.contentType, asProtobuf) {
		_, _, err = p.codecs.UniversalDeserializer().Decode(body, nil, into)
	} else {
		err = json.Unmarshal(body, into)
	}
	ok(p.t, err)
	return into
}

// meaning is the object less its version, the notes of who wrote what, and a status that the server itself writes.
func (p *trip) meaning(o runtime.Object) runtime.Object {
	o = o.DeepCopyObject()
	switch o := o.(type) {
	case *apiextensionsv1.CustomResourceDefinition:
		o.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	case *apiregistrationv1.APIService:
		o.Status = apiregistrationv1.APIServiceStatus{}
	case *flowcontrolv1.FlowSchema:
		o.Status = flowcontrolv1.FlowSchemaStatus{}
	}
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err)
	}
	m.SetResourceVersion("")
	m.SetManagedFields(nil)
	gv, err := schema.ParseGroupVersion(p.r.groupVersion)
	ok(p.t, err)
	o.GetObjectKind().SetGroupVersionKind(gv.WithKind(p.r.kind))
	return o
}

func version(o runtime.Object) string {
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err)
	}
	return m.GetResourceVersion()
}

func (p *trip) unchanged(what string, want, have runtime.Object) {
	p.t.Helper()
	if w, h := p.meaning(want), p.meaning(have); !same(w, h) {
		p.t.Errorf("%s changed it (-want +have):\n%s", what, cmp.Diff(string(pretty(w)), string(pretty(h))))
	}
}

func pretty(o any) []byte {
	b, err := json.MarshalIndent(o, "", " ")
	if err != nil {
		panic(err)
	}
	return b
}

func (p *trip) path(o runtime.Object) string {
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err)
	}
	return p.r.path(p.ns) + "/" + m.GetName()
}

// call sends a body and wants no trouble.
func (p *trip) call(method, path, contentType, accept string, body []byte) answer {
	p.t.Helper()
	a, err := request(p.t.Context(), method, path, contentType, accept, body)
	ok(p.t, err)
	if a.code/100 != 2 {
		p.t.Fatalf("%s %s as %s: %s\nsent %.4000s", method, path, contentType, a, body)
	}
	return a
}

func (p *trip) reads(created runtime.Object) {
	p.t.Helper()
	for _, accept := range []string{asJSON, asYAML, asProtobuf} {
		a := p.call("GET", p.path(created), "", accept, nil)
		if !strings.HasPrefix(a.contentType, accept) {
			p.t.Errorf("asked for %s, got %s", accept, a.contentType)
		}
		p.unchanged("reading as "+accept, created, p.decode(a))
	}
}

// encoded is the object in an encoding.
func (p *trip) encoded(o runtime.Object, contentType string) []byte {
	p.t.Helper()
	resourceVersion := version(o)
	o = p.meaning(o)
	m, err := meta.Accessor(o)
	ok(p.t, err)
	m.SetResourceVersion(resourceVersion)
	switch contentType {
	case asYAML:
		b, err := yaml.Marshal(o)
		ok(p.t, err)
		return b
	case asProtobuf:
		info, found := runtime.SerializerInfoForMediaType(p.codecs.SupportedMediaTypes(), asProtobuf)
		if !found {
			p.t.Fatal("no protobuf")
		}
		b, err := runtime.Encode(info.Serializer, o)
		ok(p.t, err)
		return b
	}
	return encode(o)
}

// createdAgain makes the same object again, sent in every encoding, and returns the last.
func (p *trip) createdAgain(sent map[string]any, created runtime.Object) runtime.Object {
	p.t.Helper()
	typed, err := p.r.typed(p.scheme)
	ok(p.t, err)
	ok(p.t, json.Unmarshal(encode(sent), typed))
	var again runtime.Object
	for _, contentType := range []string{asProtobuf, asYAML, asJSON} {
		remove(p.t, p.r, p.ns, name(sent))
		a := p.call("POST", p.r.path(p.ns), contentType, contentType, p.encoded(typed, contentType))
		again = p.decode(a)
		p.settled(again)
		if w, h := p.timeless(created), p.timeless(again); !same(w, h) {
			p.t.Errorf("created as %s it is another (-JSON +this):\n%s", contentType, cmp.Diff(string(pretty(w)), string(pretty(h))))
		}
	}
	return again
}

// settled waits until the server itself writes no more into the object.
func (p *trip) settled(o runtime.Object) {
	p.t.Helper()
	switch o.(type) {
	case *apiextensionsv1.CustomResourceDefinition, *apiregistrationv1.APIService, *flowcontrolv1.FlowSchema:
	default:
		return
	}
	last, since := "", time.Now()
	eventually(p.t, 20*time.Second, "nobody writing", func() error {
		if v := version(p.decode(p.call("GET", p.path(o), "", asJSON, nil))); v != last {
			last, since = v, time.Now()
		}
		if time.Since(since) < 300*time.Millisecond {
			return fmt.Errorf("version %s", last)
		}
		return nil
	})
}

// timeless is meaning less what differs between two objects that were made alike.
func (p *trip) timeless(o runtime.Object) map[string]any {
	var out map[string]any
	ok(p.t, json.Unmarshal(encode(p.meaning(o)), &out))
	m, _ := out["metadata"].(map[string]any)
	for _, k := range []string{"uid", "creationTimestamp", "deletionTimestamp"} {
		delete(m, k)
	}
	for _, k := range allocated(p.r) {
		forget(out, k)
	}
	return out
}

// allocated are fields that the server makes up anew for each object.
func allocated(r resource) []string {
	switch r.String() {
	case "v1/services":
		return []string{"clusterIP", "clusterIPs", "nodePort", "healthCheckNodePort"}
	case "v1/pods":
		return []string{"volumes", "volumeMounts", "startTime"} // the token's volume has a random name
	case "batch/v1/jobs":
		return []string{"batch.kubernetes.io/controller-uid", "controller-uid"}
	}
	return nil
}

// writesBack puts what was read: nothing happens. The first time it may store defaults that reading added.
func (p *trip) writesBack(created runtime.Object) {
	p.t.Helper()
	first := p.decode(p.call("GET", p.path(created), "", asProtobuf, nil))
	p.unchanged("the first writing back", first, p.decode(p.call("PUT", p.path(created), asJSON, asJSON, p.encoded(first, asJSON))))
	for _, contentType := range []string{asJSON, asYAML, asProtobuf} {
		read := p.decode(p.call("GET", p.path(created), "", asProtobuf, nil))
		put := p.decode(p.call("PUT", p.path(created), contentType, asJSON, p.encoded(read, contentType)))
		p.unchanged("writing back as "+contentType, read, put)
		if version(read) != version(put) {
			p.t.Errorf("writing back as %s made version %s of %s", contentType, version(put), version(read))
		}
	}
}

// patches writes the whole object as a patch, which changes nothing, and then one label, in three ways.
func (p *trip) patches(created runtime.Object) {
	p.t.Helper()
	path := p.path(created)
	for _, kind := range []string{"strategic-merge-patch", "merge-patch"} {
		if kind == "strategic-merge-patch" && freeForm(p.r) {
			continue
		}
		contentType := "application/" + kind + "+json"
		read := p.decode(p.call("GET", path, "", asJSON, nil))
		whole := p.decode(p.call("PATCH", path, contentType, asJSON, encode(p.meaning(read))))
		p.unchanged("a whole "+kind, read, whole)
		labelled := p.decode(p.call("PATCH", path, contentType, asJSON, []byte(`{"metadata":{"labels":{"`+kind+`":"x"}}}`)))
		p.labelled(kind, whole, labelled)
	}
	a := p.call("GET", path, "", asJSON, nil)
	read := p.decode(a)
	var raw map[string]any
	ok(p.t, decode(a.body, &raw))
	ops := []map[string]any{{"op": "add", "path": "/metadata/labels/json-patch", "value": "x"}}
	for _, k := range sortedKeys(raw) {
		if k != "metadata" && k != "apiVersion" && k != "kind" {
			ops = append(ops, map[string]any{"op": "test", "path": "/" + k, "value": raw[k]}, map[string]any{"op": "replace", "path": "/" + k, "value": raw[k]})
		}
	}
	p.labelled("json-patch", read, p.decode(p.call("PATCH", path, "application/json-patch+json", asJSON, encode(ops))))
}

// freeForm says whether objects hold lists below what has no Go fields: a strategic merge patch cannot name them, here
// as upstream, where the library is the same.
func freeForm(r resource) bool {
	return r.name == "controllerrevisions" || r.name == "certificatesigningrequests"
}

// labelled wants one label more and nothing else.
func (p *trip) labelled(label string, before, after runtime.Object) {
	p.t.Helper()
	m, err := meta.Accessor(after)
	ok(p.t, err)
	labels := m.GetLabels()
	if labels[label] != "x" {
		p.t.Errorf("%s set no label: %v", label, labels)
	}
	delete(labels, label)
	if len(labels) == 0 {
		labels = nil
	}
	m.SetLabels(labels)
	p.unchanged("a "+label+" of a label", before, after)
}

// applies says all of it server-side, twice: the first time only the notes of owners change, the second nothing.
func (p *trip) applies(created runtime.Object) {
	p.t.Helper()
	path := p.path(created)
	a := p.call("GET", path, "", asJSON, nil)
	read := p.decode(a)
	var o map[string]any
	ok(p.t, decode(a.body, &o))
	m := o["metadata"].(map[string]any)
	for _, k := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		delete(m, k)
	}
	if slices.Contains(p.r.subresources, "status") {
		delete(o, "status")
	}
	path += "?fieldManager=roundtrip&force=true"
	once, err := request(p.t.Context(), "PATCH", path, "application/apply-patch+yaml", asJSON, encode(o))
	ok(p.t, err)
	if once.code == 500 && strings.Contains(string(once.body), "duplicate entries for key") || once.code == 400 && strings.Contains(string(once.body), "duplicate entries for key") {
		return // lists with keys may hold a key twice when written otherwise, but nobody can own such elements
	}
	applied := p.decode(once)
	p.unchanged("apply", read, applied)
	twice := p.decode(p.call("PATCH", path, "application/apply-patch+yaml", asJSON, encode(o)))
	p.unchanged("a second apply", applied, twice)
	if version(applied) != version(twice) {
		p.t.Errorf("a second apply made version %s of %s", version(twice), version(applied))
	}
	// What it alone owns goes when it is no longer said, what others own stays: saying nothing takes nothing here,
	// since whoever created the object owns it too.
	bare := map[string]any{"apiVersion": o["apiVersion"], "kind": o["kind"], "metadata": map[string]any{"name": m["name"]}}
	dropped, err := request(p.t.Context(), "PATCH", path, "application/apply-patch+yaml", asJSON, encode(bare))
	ok(p.t, err)
	if dropped.code >= 500 {
		p.t.Errorf("apply of nothing: %s", dropped)
	} else if dropped.code/100 == 2 && !admissionAdds(p.r) {
		p.unchanged("apply of nothing", twice, p.decode(dropped))
	}
}

// admissionAdds says whether admission gives new objects a taint or a finalizer: that belongs to whoever applies it first,
// and goes with his next word.
func admissionAdds(r resource) bool {
	return r.name == "nodes" || r.name == "persistentvolumes" || r.name == "persistentvolumeclaims"
}

// statusKept writes a random status where there is a place for it.
func (p *trip) statusKept() {
	p.t.Helper()
	if !slices.Contains(p.r.subresources, "status") {
		return
	}
	list := send(p.t, "GET", p.r.path(p.ns), nil)
	var l struct{ Items []map[string]any }
	if err := decode(list.body, &l); err != nil || len(l.Items) == 0 {
		return
	}
	o := l.Items[len(l.Items)-1]
	o["apiVersion"], o["kind"] = p.r.groupVersion, p.r.kind
	random, err := p.r.typed(p.scheme)
	ok(p.t, err)
	filler(p.rnd).Fill(random)
	var all map[string]any
	ok(p.t, decode(encode(random), &all))
	base := overlay(map[string]any{}, o).(map[string]any)
	if all["status"] == nil {
		return
	}
	o["status"] = overlay(all["status"], o["status"])
	path := p.r.path(p.ns) + "/" + name(o) + "/status"
	for range attempts {
		a := send(p.t, "PUT", path, encode(o))
		if a.code == 200 {
			var made map[string]any
			ok(p.t, decode(a.body, &made))
			if lostFields := lost(o["status"], made["status"], ".status"); len(lostFields) > 0 {
				p.t.Errorf("lost by a write of status: %s\nsent %s\nmade %s", strings.Join(lostFields, "\n"), encode(o["status"]), encode(made["status"]))
			}
			return
		}
		if a.code >= 500 {
			p.t.Errorf("status: %s\nof %s", a, encode(o))
			return
		}
		list := causes(a.body)
		if len(list) == 0 {
			list = []cause{{}}
		}
		o = mendAll(o, base, list, p.rnd)
	}
	p.t.Log("no random status was accepted: " + fmt.Sprint(send(p.t, "PUT", path, encode(o))))
}
