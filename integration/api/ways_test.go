package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/yaml"
)

// debugged adds containers to a pod in the only way they can be.
func (p *trip) debugged(name string) {
	p.t.Helper()
	if p.r.name != "pods" {
		return
	}
	path := p.r.path(p.ns) + "/" + name
	var pod corev1.Pod
	ok(p.t, json.Unmarshal(p.call("GET", path, "", asJSON, nil).body, &pod))
	p.g.grow(reflect.ValueOf(&pod.Spec.EphemeralContainers).Elem(), "spec.ephemeralContainers", place{reflect.TypeFor[corev1.PodSpec](), "grownEphemeral"})
	mounts, devices := volumeNames(&pod.Spec)
	for i := range pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		containerTie(c, p.g, "spec.ephemeralContainers[]", 0, mounts, devices, nil)
		c.Ports, c.LivenessProbe, c.ReadinessProbe, c.StartupProbe, c.Lifecycle, c.ResizePolicy, c.Resources = nil, nil, nil, nil, nil, nil, corev1.ResourceRequirements{}
		c.RestartPolicy, c.RestartPolicyRules = nil, nil
		for j := range c.VolumeMounts {
			c.VolumeMounts[j].SubPath, c.VolumeMounts[j].SubPathExpr = "", ""
		}
		pod.Spec.EphemeralContainers[i].TargetContainerName = pod.Spec.Containers[0].Name
		if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
			c.VolumeDevices = nil
		}
		if pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
			c.SecurityContext, c.VolumeMounts = &corev1.SecurityContext{WindowsOptions: windowsOptions()}, nil
		}
	}
	sent := map[string]any{}
	ok(p.t, decode(encode(pod), &sent))
	var made map[string]any
	ok(p.t, decode(p.call("PUT", path+"/ephemeralcontainers", asJSON, asJSON, encode(pod)).body, &made))
	if l := lost(at2(sent, "spec", "ephemeralContainers"), at2(made, "spec", "ephemeralContainers"), ".spec.ephemeralContainers"); len(l) > 0 {
		p.t.Errorf("lost: %s", strings.Join(l, "\n"))
	}
	p.cover(map[string]any{"spec": map[string]any{"ephemeralContainers": at2(sent, "spec", "ephemeralContainers")}})
}

func at2(o any, first, second string) any {
	o, _ = at(o, first)
	o, _ = at(o, second)
	return o
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
	return r.name == "nodes" || r.name == "persistentvolumes" || r.name == "persistentvolumeclaims" || r.name == "volumeattributesclasses"
}

// statusKept writes a random status where there is a place for it.
func (p *trip) statusKept(name string) {
	p.t.Helper()
	if !slices.Contains(p.r.subresources, "status") {
		return
	}
	var o map[string]any
	ok(p.t, decode(p.call("GET", p.r.path(p.ns)+"/"+name, "", asJSON, nil).body, &o))
	o["apiVersion"], o["kind"] = p.r.groupVersion, p.r.kind
	random, err := p.r.typed(p.scheme)
	ok(p.t, err)
	ok(p.t, json.Unmarshal(encode(o), random))
	value := reflect.ValueOf(random).Elem()
	p.g.grow(value.FieldByName("Status"), "status", place{value.Type(), "status"})
	if tie := p.g.ties[value.Type()]; tie.IsValid() {
		tie.Call([]reflect.Value{value.Addr(), reflect.ValueOf(p.g), reflect.ValueOf("status")})
	}
	var all map[string]any
	ok(p.t, decode(encode(random), &all))
	base := overlay(map[string]any{}, o).(map[string]any)
	status, _ := prune(all["status"]).(map[string]any)
	for _, k := range []string{"qosClass", "storedVersions", "acceptedNames"} { // that cannot be changed
		if v, found := at(base["status"], k); found {
			status[k] = v
		}
	}
	if p.r.name == "namespaces" {
		status["phase"] = "Active"
	}
	o["status"] = status
	path := p.r.path(p.ns) + "/" + name + "/status"
	for i := range attempts {
		a := send(p.t, "PUT", path, encode(o))
		if a.code == 200 {
			var made map[string]any
			ok(p.t, decode(a.body, &made))
			if lostFields := lost(o["status"], made["status"], ".status"); len(lostFields) > 0 {
				p.t.Errorf("lost by a write of status: %s\nsent %s\nmade %s", strings.Join(lostFields, "\n"), encode(o["status"]), encode(made["status"]))
			}
			p.cover(map[string]any{"status": o["status"]})
			return
		}
		if a.code >= 500 {
			p.t.Errorf("status: %s\nof %s", a, encode(o))
			return
		}
		if a.code == 409 { // who serves the kind wrote to it
			var now map[string]any
			ok(p.t, decode(p.call("GET", p.r.path(p.ns)+"/"+name, "", asJSON, nil).body, &now))
			o["metadata"], base["metadata"] = now["metadata"], now["metadata"]
			continue
		}
		list := causes(a.body)
		if i == 0 {
			p.t.Logf("refused at first: %s", refusal(a, list))
		}
		o = mendAll(o, base, list, p.rnd)
	}
	p.t.Log("no random status was accepted: " + fmt.Sprint(send(p.t, "PUT", path, encode(o))))
}
