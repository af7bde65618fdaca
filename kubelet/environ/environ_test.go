package environ

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type stored struct {
	maps    map[string]map[string]string
	secrets map[string]map[string][]byte
}

func (s stored) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if data, ok := s.maps[name]; ok {
		return &v1.ConfigMap{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
}

func (s stored) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if data, ok := s.secrets[name]; ok {
		return &v1.Secret{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
}

func TestExpand(t *testing.T) {
	env := []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "EMPTY"}}
	for in, want := range map[string]string{
		"$(A)":        "1",
		"x$(A)y$(A)":  "x1y1",
		"$$(A)":       "$(A)",
		"$$$(A)":      "$1",
		"$(B)":        "$(B)",
		"$(EMPTY)|":   "|",
		"$(A":         "$(A",
		"$A $":        "$A $",
		"$()":         "$()",
		"$(A)$(":      "1$(",
		"a$xb $(A)$$": "a$xb 1$",
	} {
		if got := Expand([]string{in}, env)[0]; got != want {
			t.Errorf("%q: want %q, got %q", in, want, got)
		}
	}
}

func TestExpandPath(t *testing.T) {
	env := []v1.EnvVar{{Name: "A", Value: "1"}}
	if got, err := ExpandPath("x/$(A)", env); got != "x/1" || err != nil {
		t.Errorf("want x/1, got %q, %v", got, err)
	}
	if _, err := ExpandPath("x/$(B)", env); err == nil || err.Error() != `missing value for "B"` {
		t.Errorf("want an error that names B, got %v", err)
	}
}

func service(namespace, name, ip string, ports ...v1.ServicePort) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func TestMake(t *testing.T) {
	yes, no := true, false
	base := func() Inputs {
		return Inputs{
			Pod: &v1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "web"}},
				Spec:       v1.PodSpec{EnableServiceLinks: &no, NodeName: "n1"},
			},
			Container:   &v1.Container{Name: "c"},
			PodIPs:      []string{"10.0.0.1", "fd::1"},
			Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi")},
		}
	}
	from := stored{
		maps:    map[string]map[string]string{"cm": {"KEY": "a", "bad=key": "b", "other.key": "c"}},
		secrets: map[string]map[string][]byte{"s": {"PASS": []byte("w")}},
	}
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
	}
	ref := func(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }
	for _, tt := range []struct {
		name   string
		mutate func(*Inputs)
		want   string // NAME=value, blank between
		err    string
	}{
		{name: "nothing", mutate: func(*Inputs) {}},
		{name: "a value may use those before it", mutate: func(in *Inputs) {
			in.Container.Env = []v1.EnvVar{{Name: "B", Value: "$(A)"}, {Name: "A", Value: "1"}, {Name: "C", Value: "$(A)2"}}
		}, want: "A=1 B=$(A) C=12"},
		{name: "all keys of a map with a prefix", mutate: func(in *Inputs) {
			in.Container.EnvFrom = []v1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}}
		}, want: "P_KEY=a P_other.key=c"},
		{name: "env goes before envFrom", mutate: func(in *Inputs) {
			in.Container.EnvFrom = []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: ref("s")}}}
			in.Container.Env = []v1.EnvVar{{Name: "PASS", Value: "[$(PASS)]"}}
		}, want: "PASS=[w]"},
		{name: "an optional map that is missing", mutate: func(in *Inputs) {
			in.Container.EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: ref("none"), Optional: &yes}}}
		}},
		{name: "a map that is missing", mutate: func(in *Inputs) {
			in.Container.EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: ref("none")}}}
		}, err: `configmap "none" not found`},
		{name: "a key that is missing", mutate: func(in *Inputs) {
			in.Container.Env = []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: ref("s"), Key: "x"}}}}
		}, err: "couldn't find key x in Secret ns/s"},
		{name: "an optional key that is missing", mutate: func(in *Inputs) {
			in.Container.Env = []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: ref("cm"), Key: "x", Optional: &yes}}}}
		}},
		{name: "fields", mutate: func(in *Inputs) {
			in.Container.Env = []v1.EnvVar{{Name: "IP", ValueFrom: field("status.podIP")}, {Name: "IPS", ValueFrom: field("status.podIPs")},
				{Name: "N", ValueFrom: field("spec.nodeName")}, {Name: "L", ValueFrom: field("metadata.labels['app']")}, {Name: "U", ValueFrom: field("metadata.uid")}}
		}, want: "IP=10.0.0.1 IPS=10.0.0.1,fd::1 L=web N=n1 U=u"},
		{name: "a resource without a limit is the node's", mutate: func(in *Inputs) {
			in.Container.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
			for _, r := range []string{"limits.cpu", "limits.memory"} {
				in.Container.Env = append(in.Container.Env, v1.EnvVar{Name: r, ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: r}}})
			}
		}, want: "limits.cpu=2 limits.memory=67108864"},
		{name: "without links, the API server only", mutate: func(in *Inputs) {
			in.Services = []*v1.Service{service("ns", "web", "10.96.0.9", v1.ServicePort{Port: 80}), service("default", "kubernetes", "10.96.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"})}
		}, want: "KUBERNETES_PORT=tcp://10.96.0.1:443 KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443 KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1 " +
			"KUBERNETES_PORT_443_TCP_PORT=443 KUBERNETES_PORT_443_TCP_PROTO=tcp KUBERNETES_SERVICE_HOST=10.96.0.1 KUBERNETES_SERVICE_PORT=443 KUBERNETES_SERVICE_PORT_HTTPS=443"},
		{name: "links, but no headless and no foreign services", mutate: func(in *Inputs) {
			in.Pod.Spec.EnableServiceLinks = &yes
			in.Services = []*v1.Service{service("ns", "my-web", "10.96.0.9", v1.ServicePort{Port: 53, Protocol: "UDP"}),
				service("ns", "headless", "None", v1.ServicePort{Port: 80}), service("other", "web", "10.96.0.8", v1.ServicePort{Port: 80})}
		}, want: "MY_WEB_PORT=udp://10.96.0.9:53 MY_WEB_PORT_53_UDP=udp://10.96.0.9:53 MY_WEB_PORT_53_UDP_ADDR=10.96.0.9 " +
			"MY_WEB_PORT_53_UDP_PORT=53 MY_WEB_PORT_53_UDP_PROTO=udp MY_WEB_SERVICE_HOST=10.96.0.9 MY_WEB_SERVICE_PORT=53"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := base()
			tt.mutate(&in)
			env, err := Make(t.Context(), in, from)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("want error %q, got %v", tt.err, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range env {
				got = append(got, v.Name+"="+v.Value)
			}
			if diff := cmp.Diff(strings.Fields(tt.want), got); diff != "" && len(got)+len(tt.want) > 0 {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestResolvConf(t *testing.T) {
	host := ParseResolver([]byte("# c\nsearch example.com. \nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions edns0 ndots:2\n"))
	two := "2"
	for _, tt := range []struct {
		name string
		spec v1.PodSpec
		want Resolver
	}{
		{"cluster", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst}, Resolver{
			[]string{"10.96.0.10"}, []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"}, []string{"ndots:5"}}},
		{"host network falls to the host", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true}, host},
		{"host network with cluster", v1.PodSpec{DNSPolicy: v1.DNSClusterFirstWithHostNet, HostNetwork: true}, Resolver{
			[]string{"10.96.0.10"}, []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"}, []string{"ndots:5"}}},
		{"default", v1.PodSpec{DNSPolicy: v1.DNSDefault}, host},
		{"none", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Searches: []string{"x"}, Options: []v1.PodDNSConfigOption{{Name: "debug"}}}},
			Resolver{[]string{"9.9.9.9"}, []string{"x"}, []string{"debug"}}},
		{"own options replace", v1.PodSpec{DNSPolicy: v1.DNSDefault, DNSConfig: &v1.PodDNSConfig{
			Nameservers: []string{"1.1.1.1", "3.3.3.3", "4.4.4.4"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}},
			Resolver{[]string{"1.1.1.1", "2.2.2.2", "3.3.3.3"}, []string{"example.com"}, []string{"ndots:2", "edns0"}}},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: tt.spec}
		got := ResolvConf(pod, host, []string{"10.96.0.10"}, "cluster.local")
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, diff)
		}
	}
}

func TestHostsFile(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("a", 62) + ".b", Namespace: "ns"}, Spec: v1.PodSpec{
		Subdomain: "sub", HostAliases: []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"x", "y"}}}}}
	got := string(HostsFile(pod, []string{"10.0.0.1"}, nil, "cluster.local"))
	name := strings.Repeat("a", 62)
	for _, want := range []string{
		"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n",
		"\n10.0.0.1\t" + name + ".sub.ns.svc.cluster.local\t" + name + "\n",
		"\n\n# Entries added by HostAliases.\n1.2.3.4\tx\ty\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	pod.Spec.HostNetwork = true
	got = string(HostsFile(pod, nil, []byte("127.0.0.1 here\n"), "cluster.local"))
	if !strings.HasPrefix(got, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 here\n") {
		t.Errorf("want the host's own lines, got\n%s", got)
	}
}

func TestSearchesFitOnALine(t *testing.T) {
	long := slices.Repeat([]string{strings.Repeat("x", 1000)}, 1)
	if got := fitting(append(long, strings.Repeat("y", 1047), "z")); len(got) != 2 {
		t.Errorf("want the two that fill the line to its last character, got %d", len(got))
	}
}
