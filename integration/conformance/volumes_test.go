package conformance

import (
	"fmt"
	"testing"
	"time"

	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// filled is a kind of volume that holds files made from an API object. The four
// kinds have the same rows, for the same behaviour is required of all.
type filled struct {
	rows   string // what its rows begin with
	plural string // "in multiple volumes in ..."
	mode   string // how the list spells the row about an item's mode
	volume func(v shape) corev1.VolumeSource
}

// shape is what a row asks of a volume.
type shape struct {
	source   string
	items    []corev1.KeyToPath
	mode     *int32
	optional *bool
}

func kinds() []filled {
	name := func(s shape) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: s.source} }
	projected := func(mode *int32, p corev1.VolumeProjection) corev1.VolumeSource {
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: mode, Sources: []corev1.VolumeProjection{p}}}
	}
	return []filled{
		{"[sig-storage] ConfigMap ", "the same pod", "mode", func(s shape) corev1.VolumeSource {
			return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: name(s), Items: s.items, DefaultMode: s.mode, Optional: s.optional}}
		}},
		{"[sig-storage] Secrets ", "a pod", "Mode", func(s shape) corev1.VolumeSource {
			return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: s.source, Items: s.items, DefaultMode: s.mode, Optional: s.optional}}
		}},
		{"[sig-storage] Projected configMap ", "the same pod", "mode", func(s shape) corev1.VolumeSource {
			return projected(s.mode, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: name(s), Items: s.items, Optional: s.optional}})
		}},
		{"[sig-storage] Projected secret ", "a pod", "Mode", func(s shape) corev1.VolumeSource {
			return projected(s.mode, corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: name(s), Items: s.items, Optional: s.optional}})
		}},
	}
}

// mounted mounts volumes at /v0, /v1 and so on in the pod's first container.
func mounted(volumes ...corev1.VolumeSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for i, v := range volumes {
			n := fmt.Sprintf("v%d", i)
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: n, VolumeSource: v})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: n, MountPath: "/" + n})
		}
	}
}

func as(uid int64, fsGroup ...int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &uid}
		if len(fsGroup) > 0 {
			p.Spec.SecurityContext.FSGroup = &fsGroup[0]
		}
	}
}

// The contents and permissions of all files that the rows ask for.
const (
	plain  = "cat /v0/data_1; stat -c %a /v0/data_1"
	mapped = "cat /v0/path/to/data-2; stat -c %a /v0/path/to/data-2; ls /v0"
)

func filledTests() map[string]test {
	rows := map[string]test{}
	for _, k := range kinds() {
		item := func(mode *int32) shape {
			return shape{source: "source", items: []corev1.KeyToPath{{Key: "data_2", Path: "path/to/data-2", Mode: mode}}}
		}
		add := func(name, script string, s shape, want []string, more ...func(*corev1.Pod)) {
			row := said{make: anEnvSource, pod: sh(script, append(more, mounted(k.volume(s)))...), want: want}
			rows[k.rows+"should be consumable "+name] = quickly(row.run)
		}
		whole := shape{source: "source"}
		add("from pods in volume", plain, whole, []string{"value-1644\n"})
		add("from pods in volume with defaultMode set [LinuxOnly]", plain, shape{source: "source", mode: ptr[int32](0o400)}, []string{"value-1400\n"})
		add("from pods in volume with mappings", mapped, item(nil), []string{"value-2644\n", "!data_1"})
		add("from pods in volume with mappings and Item "+k.mode+" set [LinuxOnly]", mapped, item(ptr[int32](0o400)), []string{"value-2400\n"})
		if strings.Contains(k.rows, "onfig") {
			add("from pods in volume as non-root", plain, whole, []string{"value-1644\n"}, as(1000))
			add("from pods in volume with mappings as non-root", mapped, item(nil), []string{"value-2644\n"}, as(1000))
		} else {
			add("from pods in volume as non-root with defaultMode and fsGroup set [LinuxOnly]", plain+"; stat -c %g /v0/data_1",
				shape{source: "source", mode: ptr[int32](0o440)}, []string{"value-1440\n1001\n"}, as(1000, 1001))
		}
		two := said{make: anEnvSource, pod: sh("cat /v0/data_1; cat /v1/data_1", mounted(k.volume(whole), k.volume(whole))), want: []string{"value-1value-1"}}
		rows[k.rows+"should be consumable in multiple volumes in "+k.plural] = quickly(two.run)
		rows[k.rows+"optional updates should be reflected in volume"] = quickly(func(t *testing.T, c *clustertest.Cluster) { optionalUpdates(t, c, k) })
		if strings.Contains(k.rows, "onfig") {
			rows[k.rows+"updates should be reflected in volume"] = quickly(func(t *testing.T, c *clustertest.Cluster) { updates(t, c, k) })
		}
	}
	rows["[sig-storage] Secrets should be able to mount in a volume regardless of a different secret existing with same name in different namespace"] = quickly(said{
		make: func(t *testing.T, c *clustertest.Cluster, ns string) {
			secret(t, c, c.Namespace(t), "source", map[string]string{"data_1": "other"})
			anEnvSource(t, c, ns)
		}, pod: sh(plain, mounted(kinds()[1].volume(shape{source: "source"}))), want: []string{"value-1644\n"}}.run)
	return rows
}

// shows waits until the command in the pod prints want.
func shows(t *testing.T, c *clustertest.Cluster, ns, want, script string) {
	t.Helper()
	c.Eventually(t, 2*time.Minute, script+" to print "+want, func(context.Context) error {
		if out, _ := c.InPod(ns, "one", "sh", "-c", script); !strings.Contains(out, want) {
			return fmt.Errorf("it prints %q", out)
		}
		return nil
	})
}

// put writes data as ConfigMap and as Secret, new or over what is there.
func put(t *testing.T, c *clustertest.Cluster, ns, name string, data map[string]string) {
	t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	if _, err := c.Client.CoreV1().ConfigMaps(ns).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		configMap(t, c, ns, name, data)
		secret(t, c, ns, name, data)
		return
	}
	s := must(c.Client.CoreV1().Secrets(ns).Get(t.Context(), name, metav1.GetOptions{}))(t)
	s.Data, s.StringData = nil, data
	must(c.Client.CoreV1().Secrets(ns).Update(t.Context(), s, metav1.UpdateOptions{}))(t)
}

func updates(t *testing.T, c *clustertest.Cluster, k filled) {
	ns := c.Namespace(t)
	put(t, c, ns, "source", map[string]string{"data": "before"})
	c.RunPod(t, ns, c.Pod("one", nil, mounted(k.volume(shape{source: "source"}))))
	shows(t, c, ns, "before", "cat /v0/data")
	put(t, c, ns, "source", map[string]string{"data": "after"})
	shows(t, c, ns, "after", "cat /v0/data")
}

func optionalUpdates(t *testing.T, c *clustertest.Cluster, k filled) {
	ns := c.Namespace(t)
	put(t, c, ns, "gone", map[string]string{"data": "going"})
	put(t, c, ns, "changed", map[string]string{"data": "before"})
	opt := func(name string) corev1.VolumeSource {
		return k.volume(shape{source: name, optional: ptr(true)})
	}
	c.RunPod(t, ns, c.Pod("one", nil, mounted(opt("gone"), opt("changed"), opt("made"))))
	shows(t, c, ns, "going|before|none", "cat /v0/data; echo -n '|'; cat /v1/data; echo -n '|'; cat /v2/data 2>/dev/null || echo none")
	ok(t, c.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "gone", metav1.DeleteOptions{}))
	ok(t, c.Client.CoreV1().Secrets(ns).Delete(t.Context(), "gone", metav1.DeleteOptions{}))
	put(t, c, ns, "changed", map[string]string{"data": "after"})
	put(t, c, ns, "made", map[string]string{"data": "new"})
	shows(t, c, ns, "none|after|new", "cat /v0/data 2>/dev/null || echo -n none; echo -n '|'; cat /v1/data; echo -n '|'; cat /v2/data")
}

// downward is a volume of one file, named file, of a pod's or container's field.
func downward(projected bool, mode, itemMode *int32, fieldPath, resource string) corev1.VolumeSource {
	item := corev1.DownwardAPIVolumeFile{Path: "file", Mode: itemMode}
	if fieldPath != "" {
		item.FieldRef = &corev1.ObjectFieldSelector{FieldPath: fieldPath}
	} else {
		item.ResourceFieldRef = &corev1.ResourceFieldSelector{ContainerName: "c", Resource: resource}
	}
	items := []corev1.DownwardAPIVolumeFile{item}
	if !projected {
		return corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: mode, Items: items}}
	}
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: mode,
		Sources: []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{Items: items}}}}}
}

func downwardTests() map[string]test {
	rows := map[string]test{}
	for prefix, projected := range map[string]bool{"[sig-storage] Downward API volume should ": false, "[sig-storage] Projected downwardAPI should ": true} {
		add := func(name, want string, mode, item *int32, path, of string, more ...func(*corev1.Pod)) {
			rows[prefix+name] = quickly(said{pod: sh("cat /v0/file; echo; stat -c %a /v0/file", append(more, mounted(downward(projected, mode, item, path, of)))...), want: []string{want}}.run)
		}
		add("provide container's cpu limit", "2\n", nil, nil, "", "limits.cpu", resources)
		add("provide container's cpu request", "1\n", nil, nil, "", "requests.cpu", resources)
		add("provide container's memory limit", "67108864\n", nil, nil, "", "limits.memory", resources)
		add("provide container's memory request", "33554432\n", nil, nil, "", "requests.memory", resources)
		add("provide node allocatable (cpu) as default cpu limit if the limit is not set", "$CPU\n", nil, nil, "", "limits.cpu")
		add("provide node allocatable (memory) as default memory limit if the limit is not set", "$MEMORY\n", nil, nil, "", "limits.memory")
		add("provide podname only", "one\n644\n", nil, nil, "metadata.name", "")
		add("set DefaultMode on files [LinuxOnly]", "one\n400\n", ptr[int32](0o400), nil, "metadata.name", "")
		add("set mode on item file [LinuxOnly]", "one\n400\n", nil, ptr[int32](0o400), "metadata.name", "")
		for _, what := range []string{"annotations", "labels"} {
			rows[prefix+"update "+what+" on modification"] = quickly(func(t *testing.T, c *clustertest.Cluster) {
				ns := c.Namespace(t)
				c.RunPod(t, ns, c.Pod("one", nil, mounted(downward(projected, nil, nil, "metadata."+what, ""))))
				patch := fmt.Sprintf(`{"metadata":{%q:{"builder":"foo"}}}`, what)
				must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}))(t)
				shows(t, c, ns, `builder="foo"`, "cat /v0/file")
			})
		}
	}
	return rows
}

func emptyDirTests() map[string]test {
	rows := map[string]test{}
	const prefix = "[sig-storage] EmptyDir "
	dir := func(m corev1.StorageMedium) corev1.VolumeSource {
		return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: m}}
	}
	for medium, m := range map[string]corev1.StorageMedium{"default": "", "tmpfs": corev1.StorageMediumMemory} {
		for user, uid := range map[string]int64{"root": 0, "non-root": 1001} {
			for _, mode := range []string{"0644", "0666", "0777"} {
				script := fmt.Sprintf("echo content > /v0/f && chmod %s /v0/f && cat /v0/f && stat -c '%%a %%u' /v0/f; mount | grep /v0", mode)
				want := []string{fmt.Sprintf("content\n%s %d\n", mode[1:], uid)}
				if medium == "tmpfs" {
					want = append(want, "/v0 tmpfs")
				}
				rows[fmt.Sprintf("%svolumes should support (%s,%s,%s) [LinuxOnly]", prefix, user, mode, medium)] =
					quickly(said{pod: sh(script, as(uid), mounted(dir(m))), want: want}.run)
			}
		}
	}
	rows[prefix+"volumes volume on default medium should have the correct mode [LinuxOnly]"] = quickly(said{pod: sh("stat -c %a /v0", mounted(dir(""))), want: []string{"777\n"}}.run)
	rows[prefix+"volumes volume on tmpfs should have the correct mode [LinuxOnly]"] = quickly(said{pod: sh("stat -c %a /v0; mount | grep /v0", mounted(dir("Memory"))), want: []string{"777\n", "/v0 tmpfs"}}.run)
	rows[prefix+"volumes pod should support shared volumes between containers"] = quickly(said{pod: sh("while ! cat /v0/f; do sleep 0.1; done", mounted(dir("")), func(p *corev1.Pod) {
		writer := *p.Spec.Containers[0].DeepCopy()
		writer.Name, writer.Command = "writer", []string{"sh", "-c", "echo shared > /v0/f"}
		p.Spec.Containers = append(p.Spec.Containers, writer)
	}), want: []string{"shared\n"}}.run)
	rows[prefix+"wrapper volumes should not conflict"] = quickly(said{make: anEnvSource, pod: sh("cat /v0/data_1 /v1/data_2",
		mounted(kinds()[0].volume(shape{source: "source"}), kinds()[1].volume(shape{source: "source"}))), want: []string{"value-1value-2"}}.run)
	rows[prefix+"wrapper volumes should not cause race condition when used for configmaps"] = slowly(manyConfigMaps)
	return rows
}

func manyConfigMaps(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	var volumes []corev1.VolumeSource
	for i := range 50 {
		name := fmt.Sprintf("many-%d", i)
		configMap(t, c, ns, name, map[string]string{"data": name})
		volumes = append(volumes, kinds()[0].volume(shape{source: name}))
	}
	for i := range 5 {
		createPod(t, c, ns, c.Pod(fmt.Sprintf("pod-%d", i), nil, mounted(volumes...), clustertest.On(c.Nodes[1])))
	}
	for i := range 5 {
		name := fmt.Sprintf("pod-%d", i)
		c.WaitPod(t, ns, name, "ready", clustertest.Ready)
		if out := must(c.InPod(ns, name, "cat", "/v0/data", "/v49/data"))(t); out != "many-0many-49" {
			t.Errorf("%s holds %q", name, out)
		}
	}
}

// subPathed mounts a path of the first volume at another place too.
func subPathed(sub, at string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		ct := &p.Spec.Containers[0]
		ct.VolumeMounts = append(ct.VolumeMounts, corev1.VolumeMount{Name: "v0", MountPath: at, SubPath: sub})
	}
}

// subPath reads a subPath of an API object's volume, and again after a restart of the container.
func subPath(v corev1.VolumeSource, sub, at, want string) test {
	return quickly(func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		anEnvSource(t, c, ns)
		createPod(t, c, ns, c.Pod("one", nil, sh("cat "+at+" && echo && if test -e /v1/again; then sleep 1000; fi; touch /v1/again; exit 1",
			mounted(v, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), subPathed(sub, at))))
		c.WaitPod(t, ns, "one", "restarted and ready", func(p *corev1.Pod) bool {
			return clustertest.Ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1
		})
		c.Eventually(t, 10*time.Second, "the output after a restart", func(context.Context) error {
			if out := logs(t, c, ns, "one"); !strings.HasPrefix(out, want) {
				return fmt.Errorf("it reads %q, want %q", out, want)
			}
			return nil
		})
	})
}

func volumeTests() map[string]test {
	rows := filledTests()
	for _, more := range []map[string]test{downwardTests(), emptyDirTests()} {
		for name, tt := range more {
			rows[name] = tt
		}
	}
	const prefix = "[sig-storage] Subpath Atomic writer volumes should support subpaths with "
	source := shape{source: "source"}
	rows[prefix+"configmap pod"] = subPath(kinds()[0].volume(source), "data_1", "/sub/file", "value-1")
	rows[prefix+"configmap pod with mountPath of existing file"] = subPath(kinds()[0].volume(source), "data_1", "/etc/existing-file", "value-1")
	rows[prefix+"secret pod"] = subPath(kinds()[1].volume(source), "data_1", "/sub/file", "value-1")
	rows[prefix+"projected pod"] = subPath(kinds()[2].volume(source), "data_1", "/sub/file", "value-1")
	rows[prefix+"downward pod"] = subPath(downward(false, nil, nil, "metadata.name", ""), "file", "/sub/file", "one")
	rows["[sig-storage] ConfigMap binary data should be reflected in volume"] = quickly(said{
		make: func(t *testing.T, c *clustertest.Cluster, ns string) {
			_, err := c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "source"},
				Data: map[string]string{"text": "words"}, BinaryData: map[string][]byte{"bin": {0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff}}}, metav1.CreateOptions{})
			ok(t, err)
		}, pod: sh("cat /v0/text /v0/bin", mounted(kinds()[0].volume(source))), want: []string{"words\xde\xca\xfe\xba\xd0\xfe\xff"}}.run)
	rows["[sig-storage] Projected combined should project all components that make up the projection API [Projection]"] = quickly(said{make: anEnvSource,
		pod: sh("cat /v0/cm /v0/secret /v0/file", mounted(combined())), want: []string{"value-1value-2one"}}.run)
	rows["[sig-storage] ConfigMap should be immutable if `immutable` field is set"] = quickly(immutableConfigMap)
	rows["[sig-storage] Secrets should be immutable if `immutable` field is set"] = quickly(immutableSecret)
	return rows
}

func combined() corev1.VolumeSource {
	v := downward(true, nil, nil, "metadata.name", "")
	local := corev1.LocalObjectReference{Name: "source"}
	v.Projected.Sources = append(v.Projected.Sources,
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local, Items: []corev1.KeyToPath{{Key: "data_1", Path: "cm"}}}},
		corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: local, Items: []corev1.KeyToPath{{Key: "data_2", Path: "secret"}}}})
	return v
}

// frozen tries what an immutable object must refuse, and what it must allow.
func frozen(t *testing.T, update func(change string) error) {
	t.Helper()
	refused(t, update("data"), "immutable")
	refused(t, update("flag"), "immutable")
	ok(t, update("label"))
}

func immutableConfigMap(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	configMap(t, c, ns, "source", map[string]string{"data": "a"})
	api := c.Client.CoreV1().ConfigMaps(ns)
	update := func(change string) error {
		cm := must(api.Get(t.Context(), "source", metav1.GetOptions{}))(t)
		switch change {
		case "data":
			cm.Data["data"] += "b"
		case "flag":
			cm.Immutable = ptr(false)
		case "label":
			cm.Labels = map[string]string{"a": "b"}
		case "freeze":
			cm.Immutable = ptr(true)
		}
		_, err := api.Update(t.Context(), cm, metav1.UpdateOptions{})
		return err
	}
	ok(t, update("data"))
	ok(t, update("freeze"))
	frozen(t, update)
	ok(t, api.Delete(t.Context(), "source", metav1.DeleteOptions{}))
}

func immutableSecret(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	secret(t, c, ns, "source", map[string]string{"data": "a"})
	api := c.Client.CoreV1().Secrets(ns)
	update := func(change string) error {
		s := must(api.Get(t.Context(), "source", metav1.GetOptions{}))(t)
		switch change {
		case "data":
			s.Data["data"] = append(s.Data["data"], 'b')
		case "flag":
			s.Immutable = ptr(false)
		case "label":
			s.Labels = map[string]string{"a": "b"}
		case "freeze":
			s.Immutable = ptr(true)
		}
		_, err := api.Update(t.Context(), s, metav1.UpdateOptions{})
		return err
	}
	ok(t, update("data"))
	ok(t, update("freeze"))
	frozen(t, update)
	ok(t, api.Delete(t.Context(), "source", metav1.DeleteOptions{}))
}
