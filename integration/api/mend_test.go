package api

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// goTypes knows all kinds by their published Go types.
func goTypes() (*runtime.Scheme, serializer.CodecFactory, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, serializer.CodecFactory{}, err
		}
	}
	return s, serializer.NewCodecFactory(s), nil
}

// typed is an empty object of the resource's Go type.
func (r resource) typed(s *runtime.Scheme) (runtime.Object, error) {
	gv, err := schema.ParseGroupVersion(r.groupVersion)
	if err != nil {
		return nil, err
	}
	return s.New(gv.WithKind(r.kind))
}

// texts are what YAML, JSON and careless code have trouble with.
var texts = []string{"plain", "yes", "null", "~", "0x1f", "1e3", "1_000", "2026-01-01", " leading", "trailing ", "two\nlines\n", "tab\there", "\"quoted\"", "'", "a: b # c", "- x",
	"\u2028", "grün 漢字 🎉", "<&>", "{{x}}", "%s", "\\n", "\x01", "@", "|", "!!str"}

func decode(raw []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	return d.Decode(into)
}

// overlay is under with over on top of it; lists are overlaid element by element.
func overlay(under, over any) any {
	switch o := over.(type) {
	case map[string]any:
		out := map[string]any{}
		if u, isMap := under.(map[string]any); isMap {
			for k, v := range u {
				if v != nil {
					out[k] = v
				}
			}
		}
		for k, v := range o {
			if k == "selector" { // a template must match all of it
				delete(out, k)
			}
			out[k] = overlay(out[k], v)
		}
		return out
	case []any:
		u, _ := under.([]any)
		out := make([]any, max(len(u), len(o)))
		copy(out, u)
		for i, v := range o {
			out[i] = overlay(out[i], v)
		}
		return out
	}
	return over
}

// cause is one complaint of a server about a field.
type cause struct {
	Field   string `json:"field"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
}

// causes reads the complaints in an answer of 422.
func causes(body []byte) []cause {
	var status struct {
		Details struct {
			Causes []cause `json:"causes"`
		} `json:"details"`
	}
	if json.Unmarshal(body, &status) != nil {
		return nil
	}
	return status.Details.Causes
}

var (
	pathPart  = regexp.MustCompile(`\[([^\]]*)\]|([^.\[\]]+)`)
	supported = regexp.MustCompile(`supported values: (.*)$`)
)

// steps are the keys and indexes of a field path.
func steps(field string) []string {
	var out []string
	for _, m := range pathPart.FindAllStringSubmatch(field, -1) {
		if m[1] != "" {
			out = append(out, m[1])
		} else if m[2] != "" {
			out = append(out, m[2])
		}
	}
	return out
}

func at(o any, step string) (any, bool) {
	switch c := o.(type) {
	case map[string]any:
		v, found := c[step]
		return v, found
	case []any:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(c) {
			return c[i], true
		}
	}
	return nil, false
}

// without is o less what the path leads to; where the path leads on from a leaf or nowhere, less the last thing there.
func without(o any, path []string) any {
	if len(path) == 0 {
		return nil
	}
	switch c := o.(type) {
	case map[string]any:
		v, found := c[path[0]]
		if !found {
			return nil
		}
		if v = without(v, path[1:]); v == nil {
			delete(c, path[0])
		} else {
			c[path[0]] = v
		}
		return c
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(c) {
			return nil
		}
		if v := without(c[i], path[1:]); v != nil {
			c[i] = v
			return c
		}
		return slices.Delete(c, i, i+1)
	}
	return nil
}

func replace(o any, path []string, value any) {
	for len(path) > 1 {
		o, _ = at(o, path[0])
		path = path[1:]
	}
	switch c := o.(type) {
	case map[string]any:
		c[path[0]] = value
	case []any:
		if i, err := strconv.Atoi(path[0]); err == nil && i >= 0 && i < len(c) {
			c[i] = value
		}
	}
}

// mend changes o, which the server refused for the cause, into something that it may accept: an unknown choice
// becomes one of those it names, anything else goes, and what must be there takes what it belongs to along. Fields of
// least stay; if one of them is the cause, all that is beside it goes.
func mend(o, least map[string]any, c cause, rnd *rand.Rand) map[string]any {
	path := steps(c.Field)
	if m := supported.FindStringSubmatch(c.Message); m != nil && rnd.IntN(5) > 0 {
		var choices []string
		for _, word := range strings.Split(m[1], ", ") {
			if s, err := strconv.Unquote(word); err == nil {
				choices = append(choices, s)
			}
		}
		if len(choices) > 0 && len(path) > 0 {
			replace(o, path, choices[rnd.IntN(len(choices))])
			return overlay(o, least).(map[string]any)
		}
	}
	// Only as far as the path leads.
	var v, keep any = o, least
	deep := 0
	for deep < len(path) {
		next, found := at(v, path[deep])
		if !found {
			break
		}
		v, deep = next, deep+1
	}
	for path = path[:deep]; len(path) > 0; path = path[:len(path)-1] {
		keep = least
		for _, step := range path {
			keep, _ = at(keep, step)
		}
		if keep == nil {
			o, _ = without(o, path).(map[string]any)
			return overlay(o, least).(map[string]any)
		}
		v = o
		for _, step := range path {
			v, _ = at(v, step)
		}
		if len(extras(v, keep, nil)) > 0 {
			break
		}
	}
	return dropAny(o, least, path, rnd)
}

// mendAll is mend for all that a server complained of at once.
func mendAll(o, least map[string]any, list []cause, rnd *rand.Rand) map[string]any {
	if len(list) == 0 {
		list = []cause{{}}
	}
	slices.Reverse(list) // the last element of a list first: those before it keep their places
	done := map[string]bool{}
	for _, c := range list {
		if !done[c.Field] {
			o, done[c.Field] = mend(o, least, c, rnd), true
		}
	}
	return o
}

// extras are the paths of what o has and least has not, the outermost only.
func extras(o, least any, path []string) [][]string {
	var out [][]string
	each := func(step string, v any) {
		here := append(slices.Clone(path), step)
		if keep, found := at(least, step); found {
			out = append(out, extras(v, keep, here)...)
		} else {
			out = append(out, here)
		}
	}
	switch c := o.(type) {
	case map[string]any:
		for _, k := range sortedKeys(c) {
			each(k, c[k])
		}
	case []any:
		for i, v := range c {
			each(strconv.Itoa(i), v)
		}
	}
	return out
}

// dropAny takes away one random thing below path that is not of least.
func dropAny(o, least map[string]any, path []string, rnd *rand.Rand) map[string]any {
	var v, keep any = o, least
	for _, step := range path {
		v, _ = at(v, step)
		keep, _ = at(keep, step)
	}
	all := extras(v, keep, path)
	if len(all) == 0 {
		return o
	}
	o, _ = without(o, all[rnd.IntN(len(all))]).(map[string]any)
	return overlay(o, least).(map[string]any)
}

// lost lists what is in want and not in have.
func lost(want, have any, path string) []string {
	switch w := want.(type) {
	case nil:
		return nil
	case map[string]any:
		h, _ := have.(map[string]any)
		var out []string
		for _, k := range sortedKeys(w) {
			out = append(out, lost(w[k], h[k], path+"."+k)...)
		}
		return out
	case []any:
		h, _ := have.([]any)
		var out []string
		for i, v := range w {
			if i >= len(h) {
				return append(out, fmt.Sprintf("%s[%d]", path, i))
			}
			out = append(out, lost(v, h[i], fmt.Sprintf("%s[%d]", path, i))...)
		}
		return out
	}
	if fmt.Sprint(want) == fmt.Sprint(have) || want == false && have == nil || want == "" && have == nil || fmt.Sprint(want) == "0" && have == nil {
		return nil
	}
	return []string{fmt.Sprintf("%s: %v became %v", path, want, have)}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// leaves counts the values of an object.
func leaves(o any) int {
	n := 0
	switch c := o.(type) {
	case map[string]any:
		for _, v := range c {
			n += leaves(v)
		}
	case []any:
		for _, v := range c {
			n += leaves(v)
		}
	default:
		n = 1
	}
	return n
}

// same says whether two objects mean the same.
func same(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }
