package api

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	g       *grower
	missing map[string]bool // the paths of the fields that were not set yet in an object that was stored
	used    map[int]bool    // the exceptions that were needed
	objects int             // how many were made
	offered int             // random values of all objects before they were mended
	kept    int             // and after
}

func seed() int64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return time.Now().UnixNano() % 1e9
}

// objects is how many of a kind are made at most until all its fields were set.
const objects = 200

// Every kind, filled at random, keeps its meaning through every encoding and every way of writing, and every field of it
// is set in some object that the server takes, but for the exceptions.
func TestRoundTrip(t *testing.T) {
	first := seed()
	t.Logf("seed %d", first)
	s, codecs, err := goTypes()
	ok(t, err)
	prepare(t)
	list := exceptions()
	kinds := resources(t, "create", "get", "update", "patch", "delete")
	trips := make([]*trip, len(kinds))
	t.Run("of", func(t *testing.T) {
		for i, r := range kinds {
			t.Run(strings.ReplaceAll(r.String(), "/", "."), func(t *testing.T) {
				t.Parallel()
				rnd := rand.New(rand.NewPCG(uint64(first), uint64(crc32.ChecksumIEEE([]byte(r.String())))))
				ns := namespace(t, fmt.Sprintf("rt-%s-%d", r.name, i))
				p := &trip{t: t, r: r, ns: ns, rnd: rnd, scheme: s, codecs: codecs, g: newGrower(rnd, ns)}
				trips[i] = p
				p.call("PATCH", "/api/v1/namespaces/"+ns, "application/merge-patch+json", asJSON, []byte(`{"metadata":{"labels":{"resource.kubernetes.io/admin-access":"true"}}}`))
				p.all(list)
				t.Logf("%d objects with %d random values of %d", p.objects, p.kept, p.offered)
				if p.kept*10 < p.offered*8 {
					t.Errorf("only %d of %d random values were taken", p.kept, p.offered)
				}
			})
		}
	})
	kept, offered, used := 0, 0, map[int]bool{}
	for _, p := range trips {
		if p != nil {
			kept, offered = kept+p.kept, offered+p.offered
			maps.Copy(used, p.used)
		}
	}
	t.Logf("%d random values of %d", kept, offered)
	if kept*100 < offered*95 {
		t.Errorf("only %d of %d random values were taken", kept, offered)
	}
	for i, e := range list {
		if !used[i] && *onlyFlag == "" && !t.Failed() {
			t.Errorf("exception without need: %s %s (%s)", e.kind, e.path, e.why)
		}
	}
}

// prepare makes what pods name and admission looks for.
func prepare(t *testing.T) {
	t.Helper()
	create := metav1.CreateOptions{}
	_, err := server.Client.SchedulingV1().PriorityClasses().Create(t.Context(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "rt"}, Value: 777, PreemptionPolicy: new(corev1.PreemptNever)}, create)
	ok(t, err)
	overhead := &nodev1.Overhead{PodFixed: corev1.ResourceList{"cpu": apiresource.MustParse("1"), "memory": apiresource.MustParse("1Gi")}}
	_, err = server.Client.NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "rt"}, Handler: "h", Overhead: overhead}, create)
	ok(t, err)
}

// all takes as many objects through all as there are rounds, and then more through a creation only, until every field
// was set.
func (p *trip) all(list []exception) {
	p.t.Helper()
	p.missing = fieldPaths(p.goType())
	excepted := map[string]int{}
	for path := range p.missing {
		for i, e := range list {
			if e.kind.MatchString(p.r.String()) && e.path.MatchString(path) {
				excepted[path] = i
				break
			}
		}
	}
	left := func() []string {
		return slices.DeleteFunc(slices.Sorted(maps.Keys(p.missing)), func(path string) bool { _, is := excepted[path]; return is })
	}
	for p.objects < max(objects, *roundsFlag) && (p.objects < *roundsFlag || len(left()) > 0) {
		p.g.sparse = []float64{0, 0.2, 0}[p.objects%3]
		p.run(p.objects < *roundsFlag)
	}
	for _, path := range left() {
		p.t.Errorf("never set: %s", path)
	}
	p.used = map[int]bool{}
	for path, i := range excepted {
		p.used[i] = p.used[i] || p.missing[path]
	}
}

func (p *trip) goType() reflect.Type {
	typed, err := p.r.typed(p.scheme)
	ok(p.t, err)
	return reflect.TypeOf(typed).Elem()
}

// run takes one object through all, or only through being stored.
func (p *trip) run(whole bool) {
	p.t.Helper()
	base := least(p.t, p.r, p.ns, 2*p.objects)
	p.objects++
	sent, made := p.create(base)
	if made == nil {
		return
	}
	defer func() { remove(p.t, p.r, p.ns, name(sent)) }()
	p.kept += leaves(sent) - leaves(base)
	p.nothingLost(sent, made)
	p.cover(sent)
	if !whole {
		p.debugged(name(sent))
		p.statusKept(name(sent))
		return
	}
	p.settled(p.decode(answer{201, asJSON, encode(made)}))
	created := p.decode(answer{200, asJSON, encode(made)})
	p.reads(created)
	created = p.createdAgain(sent, created)
	p.writesBack(created)
	p.patches(created)
	p.applies(created)
	p.debugged(name(sent))
	p.statusKept(name(sent))
}

func (p *trip) cover(o map[string]any) {
	cover(o, p.goType(), func(path string) { delete(p.missing, path) })
}

// create sends a random object until the server takes it.
func (p *trip) create(base map[string]any) (sent, made map[string]any) {
	p.t.Helper()
	o, err := p.g.grown(p.r, p.scheme, base)
	ok(p.t, err)
	p.offered += leaves(o) - leaves(base)
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
		if i == 0 {
			p.t.Logf("refused at first: %s", refusal(a, list))
			o = overlay(o, base).(map[string]any)
		}
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

// refusal is what a server complains of, a line each.
func refusal(a answer, list []cause) string {
	if len(list) == 0 {
		return a.String()
	}
	var lines []string
	for _, c := range list {
		lines = append(lines, c.Field+": "+c.Message)
	}
	return strings.Join(lines, "\n\t")
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
	case *appsv1.StatefulSet:
		for i := range o.Spec.VolumeClaimTemplates {
			o.Spec.VolumeClaimTemplates[i].TypeMeta = metav1.TypeMeta{} // JSON has it, as upstream; protobuf has no field for it
		}
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
