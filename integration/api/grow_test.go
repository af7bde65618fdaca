package api

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// grower makes random objects that are valid: values_test.go knows what may stand in a field, the ties which fields
// belong together. Where one of several has to be chosen (an enumeration, a union, fields that exclude each other) it
// takes the next each time it comes to the same path, so that some objects of a kind have it all.
type grower struct {
	rnd    *rand.Rand
	sparse float64 // the share of optional fields that are left out
	ns     string
	next   map[string][]int // by path: whose turn it is
	last   map[string]int   // and whose it was
	serial int
	rules  map[string]string // what may stand in a field, by field or type
	unions []string          // types
	ties   map[reflect.Type]reflect.Value
}

func newGrower(rnd *rand.Rand, ns string) *grower {
	g := &grower{rnd: rnd, ns: ns, next: map[string][]int{}, last: map[string]int{}, rules: fieldRules(), unions: unions(), ties: map[reflect.Type]reflect.Value{}}
	for _, tie := range slicesOf(podTies(), otherTies()) {
		f := reflect.ValueOf(tie)
		g.ties[f.Type().In(0).Elem()] = f
	}
	return g
}

func slicesOf(lists ...[]any) []any {
	var out []any
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// fill sets all of o but its kind, in place.
func (g *grower) fill(o runtime.Object) { g.grow(reflect.ValueOf(o).Elem(), "", place{}) }

// turn is the next of n choices at a path: each once in n times, in an order of its own.
func (g *grower) turn(path string, n int) int {
	g.next[path] = slices.DeleteFunc(g.next[path], func(i int) bool { return i >= n }) // lists differ in length
	if len(g.next[path]) == 0 {
		bag := g.rnd.Perm(n)
		if last, found := g.last[path]; found && bag[0] == last {
			bag[0], bag[n-1] = bag[n-1], bag[0] // many lists may not have the same twice
		}
		g.next[path] = bag
	}
	i := g.next[path][0]
	g.next[path], g.last[path] = g.next[path][1:], i
	return i
}

func (g *grower) word() string {
	g.serial++
	return fmt.Sprintf("w%d%s", g.serial, strconv.FormatInt(g.rnd.Int64N(1e6), 36))
}

// place is where a value is: in a field of a struct.
type place struct {
	owner reflect.Type // nil for what is in no struct
	field string
}

// name of the type the rules are for: containers for debugging are containers.
func (p place) name() string {
	if p.owner.Name() == "EphemeralContainerCommon" {
		return "Container"
	}
	return p.owner.Name()
}

// names of the rules for a value, the most particular first.
func (p place) names(t reflect.Type) []string {
	var out []string
	if p.owner != nil {
		out = append(out, group(p.owner)+"."+p.name()+"."+p.field, p.name()+"."+p.field)
	}
	if t.PkgPath() != "" {
		out = append(out, t.Name())
	}
	return append(out, "."+p.field)
}

// group is that of an API type's package, as in batch.
func group(t reflect.Type) string {
	parts := strings.Split(t.PkgPath(), "/")
	return parts[max(0, len(parts)-2)]
}

func (g *grower) rule(p place, t reflect.Type) (string, bool) {
	for _, name := range p.names(t) {
		if r, found := g.rules[name]; found {
			return r, true
		}
	}
	return "", false
}

func (g *grower) grow(v reflect.Value, path string, p place) {
	if g.special(v, path, p) {
		return
	}
	t := v.Type()
	switch t.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		g.grow(v.Elem(), path, p)
	case reflect.Struct:
		g.growStruct(v, path)
		if tie, found := g.ties[t]; found {
			tie.Call([]reflect.Value{v.Addr(), reflect.ValueOf(g), reflect.ValueOf(path)})
		}
	case reflect.Slice:
		n := 1 + g.rnd.IntN(2)
		if fixed, found := g.rules["#"+p.name()+"."+p.field]; found {
			n, _ = strconv.Atoi(fixed)
		}
		v.Set(reflect.MakeSlice(t, n, n))
		for i := range n {
			g.grow(v.Index(i), path+"[]", p)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		for range 1 + g.rnd.IntN(2) {
			k, e := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
			g.grow(k, path+"#", place{p.owner, p.field + "#"})
			g.grow(e, path+".*", p)
			v.SetMapIndex(k, e)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(g.text(path, p, t))
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(g.number(path, p, t))
	case reflect.Float64:
		v.SetFloat(float64(1+g.rnd.IntN(100)) / 4)
	}
}

func (g *grower) growStruct(v reflect.Value, path string) {
	t := v.Type()
	only := -1
	if slices.Contains(g.unions, t.Name()) {
		var arms []int
		for i := range t.NumField() {
			r, _ := g.rule(place{t, jsonName(t.Field(i))}, t.Field(i).Type)
			if t.Field(i).Type.Kind() == reflect.Pointer && r != "-" {
				arms = append(arms, i)
			}
		}
		only = arms[g.turn(path+"|"+t.Name(), len(arms))]
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name := jsonName(f)
		switch {
		case f.Type == reflect.TypeFor[metav1.TypeMeta](), f.Type == reflect.TypeFor[metav1.ListMeta](), name == "-":
		case only >= 0 && only != i && f.Type.Kind() == reflect.Pointer:
		case name == "": // inlined
			g.grow(v.Field(i), path, place{t, f.Name})
		default:
			p := place{t, name}
			r, _ := g.rule(p, f.Type)
			if r == "-" || only != i && f.Type.Kind() != reflect.Struct && !g.needed(p) && strings.Contains(f.Tag.Get("json"), ",omit") && g.rnd.Float64() < g.sparse {
				continue
			}
			g.grow(v.Field(i), join(path, name), p)
		}
	}
}

// needed says whether a field must be there although it looks optional.
func (g *grower) needed(p place) bool {
	switch p.field {
	case "name", "kind", "key", "type", "apiVersion", "secretName", "volumeName", "driver", "opaque", "action", "reason", "ip":
		return true
	}
	if strings.HasSuffix(strings.ToLower(p.field), "replicas") {
		return true // those of a status depend on each other
	}
	_, found := g.rules["!"+p.name()+"."+p.field]
	return found
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// text is a string for a place: the next of the choices its rule names, or a word.
func (g *grower) text(path string, p place, t reflect.Type) string {
	r, found := g.rule(p, t)
	if !found {
		return g.word()
	}
	choices := strings.Split(r, "|")
	return g.expand(choices[g.turn(path+"="+p.field, len(choices))])
}

// expand puts words for $w, odd texts for $t, the namespace for $ns and numbers for $n.
func (g *grower) expand(s string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	g.serial++
	return strings.NewReplacer("$ns", g.ns, "$w", g.word(), "$t", texts[g.rnd.IntN(len(texts))], "$n", strconv.Itoa(1+g.serial%250)).Replace(s)
}

// number is from the range a-b of its rule, or from one to sixty.
func (g *grower) number(path string, p place, t reflect.Type) int64 {
	low, high := int64(1), int64(60)
	if r, found := g.rule(p, t); found {
		from, to, _ := strings.Cut(r, "-")
		low, _ = strconv.ParseInt(from, 10, 64)
		high = low
		if to != "" {
			high, _ = strconv.ParseInt(to, 10, 64)
		}
	}
	return low + g.rnd.Int64N(high-low+1)
}

// special fills values of types that are no plain structs.
func (g *grower) special(v reflect.Value, path string, p place) bool {
	switch x := v.Addr().Interface().(type) {
	case *metav1.ObjectMeta:
		g.meta(x, path)
	case *apiresource.Quantity:
		s := "$q"
		if r, found := g.rules[group(p.owner)+"."+p.name()+"."+p.field]; found {
			s = r
		} else if r, found := g.rules[p.name()+"."+p.field]; found {
			s = r
		}
		if s == "$q" {
			s = "1|100m|1Gi|1500m|3Ti|12|2500M"
		}
		choices := strings.Split(s, "|")
		*x = apiresource.MustParse(choices[g.rnd.IntN(len(choices))])
	case *intstr.IntOrString:
		s := "25%|$i|$i"
		if r, found := g.rule(p, v.Type()); found {
			s = r
		}
		choices := strings.Split(s, "|")
		if s = choices[g.turn(path+"=i", len(choices))]; s == "$i" {
			*x = intstr.FromInt32(g.rnd.Int32N(60) + 1)
		} else {
			*x = intstr.FromString(s)
		}
	case *metav1.Time:
		*x = metav1.NewTime(time.Unix(1767225600+g.rnd.Int64N(1e6), 0))
	case *metav1.MicroTime:
		*x = metav1.NewMicroTime(time.UnixMicro(1767225600e6 + g.rnd.Int64N(1e12)))
	case *metav1.Duration:
		x.Duration = time.Duration(1+g.rnd.IntN(3600)) * time.Second
	case *runtime.RawExtension:
		x.Raw = []byte(`{"a":1,"b":["x",1.5,-3,9007199254740993],"c":{"d":"e"}}`)
	case *apiextensionsv1.JSON:
		x.Raw = []byte(`{"a":["x",1.5]}`)
	case *apiextensionsv1.JSONSchemaProps:
		*x = schemaOf(g)
	case *[]byte:
		s := "$t"
		if r, found := g.rule(p, v.Type()); found {
			s = r
		}
		*x = []byte(g.expand(s))
	default:
		return false
	}
	return true
}

func (g *grower) meta(m *metav1.ObjectMeta, path string) {
	m.Labels = map[string]string{"app": "x", "none.example/" + g.word(): g.word()}
	m.Annotations = map[string]string{g.word(): texts[g.rnd.IntN(len(texts))], "none.example/" + g.word(): texts[g.rnd.IntN(len(texts))]}
	if path == "spec.volumeClaimTemplates[].metadata" {
		m.Name = g.word()
	}
	if !wholeMeta(path) || g.rnd.Float64() < g.sparse {
		return
	}
	m.GenerateName, m.Name, m.Namespace = g.word()+"-", g.word(), g.ns
	m.Finalizers = []string{"none.example/" + g.word()}
	yes, no := true, false
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "none.example/v1", Kind: "Owner", Name: g.word(), UID: "u-" + "1", Controller: &yes, BlockOwnerDeletion: &yes},
		{APIVersion: "none.example/v1", Kind: "Owner", Name: g.word(), UID: "u-2", Controller: &no}}
}

// wholeMeta says whether the metadata at a path may have more than labels and annotations.
func wholeMeta(path string) bool {
	return path == "metadata" || path == "spec.volumeClaimTemplates[].metadata" || strings.HasSuffix(path, "emplate.metadata") && !strings.HasSuffix(path, "volumeClaimTemplate.metadata")
}

// grown is a random object of the resource with the metadata of least, which has what the kind wants as name.
func (g *grower) grown(r resource, s *runtime.Scheme, least map[string]any) (map[string]any, error) {
	o, err := r.typed(s)
	if err != nil {
		return nil, err
	}
	g.fill(o)
	if status := reflect.ValueOf(o).Elem().FieldByName("Status"); status.IsValid() {
		status.SetZero()
	}
	return g.named(o, least)
}

func (g *grower) named(o runtime.Object, least map[string]any) (map[string]any, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	if err := decode(raw, &out); err != nil {
		return nil, err
	}
	meta, _ := out["metadata"].(map[string]any)
	delete(meta, "namespace")
	out["metadata"] = overlay(meta, least["metadata"])
	out["apiVersion"], out["kind"] = least["apiVersion"], least["kind"]
	// What the name is made of, or what is signed.
	identity := map[string][]string{"CustomResourceDefinition": {"group", "names"}, "APIService": {"group", "version"}, "ClusterTrustBundle": {"signerName"}, "IPAddress": {},
		"CertificateSigningRequest": {"request"}, "PodCertificateRequest": {"stubPKCS10Request"}}
	if fields, found := identity[fmt.Sprint(least["kind"])]; found {
		out = overlay(out, map[string]any{"spec": only(least["spec"], fields...)}).(map[string]any)
		if !strings.HasSuffix(fmt.Sprint(least["kind"]), "Request") {
			delete(out["metadata"].(map[string]any), "generateName")
		}
	}
	return prune(out).(map[string]any), nil
}

func only(o any, fields ...string) map[string]any {
	out := map[string]any{}
	for _, k := range fields {
		if v, found := at(o, k); found {
			out[k] = v
		}
	}
	return out
}

// prune is o without nulls, which the Go types write for times that are not set.
func prune(o any) any {
	switch c := o.(type) {
	case map[string]any:
		for k, v := range c {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = prune(v)
			}
		}
	case []any:
		for i := range c {
			c[i] = prune(c[i])
		}
	}
	return o
}
