package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func networkTests() map[string]test {
	return under("[sig-network] ", map[string]test{
		"DNS should provide DNS for the cluster":                                                                                     quickly(resolves("kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")),
		"DNS should resolve DNS of partial qualified names for services [LinuxOnly]":                                                 quickly(resolves("web", "web.$NS", "web.$NS.svc")),
		"DNS should provide DNS for services":                                                                                        quickly(resolves("web.$NS.svc.cluster.local", "headless.$NS.svc.cluster.local")),
		"DNS should provide DNS for pods for Hostname":                                                                               quickly(resolves("named.headless.$NS.svc.cluster.local", "named.headless")),
		"DNS should provide DNS for pods for Subdomain":                                                                              quickly(resolves("named.headless.$NS.svc.cluster.local", "headless")),
		"DNS should provide /etc/hosts entries for the cluster":                                                                      quickly(ownName),
		"DNS should provide DNS for ExternalName services":                                                                           slowly(externalName),
		"Services should be able to change the type from ExternalName to ClusterIP":                                                  slowly(changeType(corev1.ServiceTypeExternalName, corev1.ServiceTypeClusterIP)),
		"Services should be able to change the type from ExternalName to NodePort":                                                   slowly(changeType(corev1.ServiceTypeExternalName, corev1.ServiceTypeNodePort)),
		"Services should be able to change the type from ClusterIP to ExternalName":                                                  quickly(changeType(corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName)),
		"Services should be able to change the type from NodePort to ExternalName":                                                   quickly(changeType(corev1.ServiceTypeNodePort, corev1.ServiceTypeExternalName)),
		"Services should be able to create a functioning NodePort service":                                                           slowly(nodePort),
		"Services should have session affinity work for NodePort service [LinuxOnly]":                                                slowly(affinity(corev1.ServiceTypeNodePort, false)),
		"Services should have session affinity work for service with type clusterIP [LinuxOnly]":                                     slowly(affinity(corev1.ServiceTypeClusterIP, false)),
		"Services should be able to switch session affinity for NodePort service [LinuxOnly]":                                        slowly(affinity(corev1.ServiceTypeNodePort, true)),
		"Services should be able to switch session affinity for service with type clusterIP [LinuxOnly]":                             slowly(affinity(corev1.ServiceTypeClusterIP, true)),
		"Services should serve a basic endpoint from pods":                                                                           quickly(basicEndpoint),
		"Services should serve multiport endpoints from pods":                                                                        slowly(multiPort),
		"Services should serve endpoints on same port and different protocols":                                                       slowly(twoProtocols),
		"Service endpoints latency should not be very high":                                                                          slowly(endpointsLatency),
		"EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service":                                       slowly(basicEndpoint),
		"EndpointsController should create Endpoints for Pods matching a Service":                                                    slowly(basicEndpoint),
		"EndpointSlice should create and delete EndpointSlices for a Service with a selector that matches no pods":                   quickly(emptyEndpoints),
		"EndpointsController should create and delete Endpoints for a Service with a selector that matches no pods":                  quickly(emptyEndpoints),
		"EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices":                            quickly(manualSlicesOfPorts),
		"EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices":                     slowly(manualSlices),
		"EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete":                          quickly(mirrored),
		"Networking Granular Checks: Pods should function for intra-pod communication: http":                                         slowly(reaches("http", false)),
		"Networking Granular Checks: Pods should function for intra-pod communication: udp":                                          slowly(reaches("udp", false)),
		"Networking Granular Checks: Pods should function for node-pod communication: http [LinuxOnly]":                              slowly(reaches("http", true)),
		"Networking Granular Checks: Pods should function for node-pod communication: udp [LinuxOnly]":                               slowly(reaches("udp", true)),
		"Proxy version v1 A set of valid responses are returned for both pod and service Proxy":                                      slowly(proxied("")),
		"Proxy version v1 A set of valid responses are returned for both pod and service ProxyWithPath":                              slowly(proxied("some/path/with/http")),
		"Proxy version v1 should proxy through a service and a pod":                                                                  quickly(proxied("hostname")),
		"HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol [LinuxOnly]": slowly(hostPorts),
	})
}

// webPod is a ready netexec server.
func webPod(t *testing.T, c *clustertest.Cluster, ns, name, app string, mutate ...func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	return c.RunPod(t, ns, c.Pod(name, []string{"netexec"}, append(mutate, func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": app}
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
	})...))
}

func service(t *testing.T, c *clustertest.Cluster, ns, name string, mutate ...func(*corev1.Service)) *corev1.Service {
	t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
	for _, m := range mutate {
		m(s)
	}
	return must(c.Client.CoreV1().Services(ns).Create(t.Context(), s, metav1.CreateOptions{}))(t)
}

// answers waits until a GET from the pod named client gets an answer that holds want.
func answers(t *testing.T, c *clustertest.Cluster, ns, client, target, want string) {
	t.Helper()
	c.Eventually(t, 30*time.Second, target+" to answer "+want, func(context.Context) error {
		out, err := c.InPod(ns, client, "wget", "-q", "-T", "2", "-O-", "http://"+target)
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
}

func resolves(names ...string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		service(t, c, ns, "web")
		service(t, c, ns, "headless", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
		webPod(t, c, ns, "one", "web", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "named", "headless" })
		for _, name := range names {
			name = strings.ReplaceAll(name, "$NS", ns)
			c.Eventually(t, 30*time.Second, name+" to resolve", func(context.Context) error {
				_, err := c.InPod(ns, "one", "nslookup", name)
				return err
			})
		}
	}
}

func ownName(t *testing.T, c *clustertest.Cluster) {
	said{pod: sh("cat /etc/hosts", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "me", "sub" }), want: []string{"$IP\tme.sub.$NS.svc.cluster.local\tme\n"}}.run(t, c)
}

func externalName(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("one", nil))
	service(t, c, ns, "target")
	service(t, c, ns, "other", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	s := service(t, c, ns, "ext", func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "target." + ns + ".svc.cluster.local"}
	})
	looks := func(want string) {
		t.Helper()
		c.Eventually(t, 90*time.Second, "the external name to give "+want, func(context.Context) error {
			out, err := c.InPod(ns, "one", "nslookup", "ext."+ns+".svc.cluster.local")
			if err == nil && !strings.Contains(out, want+"\n") {
				err = fmt.Errorf("%q", out)
			}
			return err
		})
	}
	looks(must(c.Client.CoreV1().Services(ns).Get(t.Context(), "target", metav1.GetOptions{}))(t).Spec.ClusterIP)
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Port: 80}}}
	s = must(c.Client.CoreV1().Services(ns).Update(t.Context(), s, metav1.UpdateOptions{}))(t)
	looks(s.Spec.ClusterIP)
}

func changeType(from, to corev1.ServiceType) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		shape := func(s *corev1.Service, kind corev1.ServiceType) {
			s.Spec = corev1.ServiceSpec{Type: kind, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}
			if kind == corev1.ServiceTypeExternalName {
				s.Spec = corev1.ServiceSpec{Type: kind, ExternalName: "example.com"}
			}
		}
		s := service(t, c, ns, "s", func(s *corev1.Service) { shape(s, from) })
		shape(s, to)
		s = must(c.Client.CoreV1().Services(ns).Update(t.Context(), s, metav1.UpdateOptions{}))(t)
		if to == corev1.ServiceTypeExternalName {
			if s.Spec.ClusterIP != "" || len(s.Spec.ClusterIPs) > 0 || len(s.Spec.Ports) > 0 && s.Spec.Ports[0].NodePort != 0 {
				t.Errorf("it keeps %+v", s.Spec)
			}
			return
		}
		webPod(t, c, ns, "server", "web")
		c.RunPod(t, ns, c.Pod("client", nil))
		answers(t, c, ns, "client", "s/hostname", "server")
		answers(t, c, ns, "client", s.Spec.ClusterIP+"/hostname", "server")
		if to == corev1.ServiceTypeNodePort {
			onNodes(t, c, ns, s)
		}
	}
}

func onNodes(t *testing.T, c *clustertest.Cluster, ns string, s *corev1.Service) {
	t.Helper()
	nodes := must(c.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/os=linux"}))(t)
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				answers(t, c, ns, "client", fmt.Sprintf("%s:%d/hostname", a.Address, s.Spec.Ports[0].NodePort), "server")
			}
		}
	}
}

func nodePort(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	s := service(t, c, ns, "s", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	webPod(t, c, ns, "server", "web")
	c.RunPod(t, ns, c.Pod("client", nil))
	answers(t, c, ns, "client", "s/hostname", "server")
	answers(t, c, ns, "client", s.Spec.ClusterIP+"/hostname", "server")
	onNodes(t, c, ns, s)
}

func affinity(kind corev1.ServiceType, turn bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		s := service(t, c, ns, "s", func(s *corev1.Service) {
			s.Spec.Type = kind
			if !turn {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			}
		})
		for _, n := range []string{"a", "b", "d"} {
			webPod(t, c, ns, n, "web")
		}
		node := must(c.Client.CoreV1().Nodes().Get(t.Context(), c.Nodes[1], metav1.GetOptions{}))(t)
		target := s.Spec.ClusterIP
		c.RunPod(t, ns, c.Pod("client", []string{"netexec"}))
		if kind == corev1.ServiceTypeNodePort {
			target = fmt.Sprintf("%s:%d", node.Status.Addresses[0].Address, s.Spec.Ports[0].NodePort)
		}
		sticks := func(want bool) {
			t.Helper()
			c.Eventually(t, 30*time.Second, fmt.Sprintf("sticking %v", want), func(context.Context) error {
				out, err := c.InPod(ns, "client", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do wget -q -T 2 -O- http://"+target+"/hostname; echo; done")
				if err != nil {
					return err
				}
				seen := map[string]bool{}
				for _, f := range strings.Fields(out) {
					seen[f] = true
				}
				if (len(seen) == 1) != want {
					return fmt.Errorf("%d pods answered", len(seen))
				}
				return nil
			})
		}
		if !turn {
			sticks(true)
			return
		}
		for _, a := range []corev1.ServiceAffinity{corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone} {
			s = must(c.Client.CoreV1().Services(ns).Get(t.Context(), "s", metav1.GetOptions{}))(t)
			s.Spec.SessionAffinity = a
			must(c.Client.CoreV1().Services(ns).Update(t.Context(), s, metav1.UpdateOptions{}))(t)
			sticks(a == corev1.ServiceAffinityClientIP)
		}
	}
}

// endpointsAre waits until Endpoints and slices of a Service are "IP:port" in want, and no more.
func endpointsAre(t *testing.T, c *clustertest.Cluster, ns, name string, want ...string) {
	t.Helper()
	slices.Sort(want)
	c.Eventually(t, 30*time.Second, fmt.Sprintf("endpoints %v", want), func(ctx context.Context) error {
		e, err := c.Client.CoreV1().Endpoints(ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		list, err := c.Client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
		if err != nil || len(list.Items) == 0 {
			return fmt.Errorf("%d slices: %v", len(list.Items), err)
		}
		var old, sliced []string
		for _, s := range e.Subsets {
			for _, a := range s.Addresses {
				for _, p := range s.Ports {
					old = append(old, fmt.Sprintf("%s:%d", a.IP, p.Port))
				}
			}
		}
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				for _, p := range s.Ports {
					if p.Port != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
						sliced = append(sliced, fmt.Sprintf("%s:%d", e.Addresses[0], *p.Port))
					}
				}
			}
		}
		slices.Sort(old)
		slices.Sort(sliced)
		if !slices.Equal(old, want) || !slices.Equal(sliced, want) {
			return fmt.Errorf("Endpoints %v, slices %v", old, sliced)
		}
		return nil
	})
}

func goneWithService(t *testing.T, c *clustertest.Cluster, ns, name string) {
	t.Helper()
	ok(t, c.Client.CoreV1().Services(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	c.Eventually(t, 30*time.Second, "endpoints and slices to go", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Endpoints(ns).Get(ctx, name, metav1.GetOptions{})
		list, lerr := c.Client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
		if !apierrors.IsNotFound(err) || lerr != nil || len(list.Items) > 0 {
			return fmt.Errorf("Endpoints: %v; %d slices: %v", err, len(list.Items), lerr)
		}
		return nil
	})
}

func basicEndpoint(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	service(t, c, ns, "s", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("web") })
	endpointsAre(t, c, ns, "s")
	named := first(func(ct *corev1.Container) { ct.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}} })
	one := webPod(t, c, ns, "one", "web", named)
	endpointsAre(t, c, ns, "s", one.Status.PodIP+":8080")
	two := webPod(t, c, ns, "two", "web", named)
	endpointsAre(t, c, ns, "s", one.Status.PodIP+":8080", two.Status.PodIP+":8080")
	answers(t, c, ns, "one", "s/hostname", "two")
	ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), "one", metav1.DeleteOptions{}))
	endpointsAre(t, c, ns, "s", two.Status.PodIP+":8080")
	goneWithService(t, c, ns, "s")
}

func multiPort(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	service(t, c, ns, "s", func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "p1", Port: 80, TargetPort: intstr.FromString("p1")}, {Name: "p2", Port: 81, TargetPort: intstr.FromString("p2")}}
	})
	pod := func(name, port string, n int32) string {
		return webPod(t, c, ns, name, "web", first(func(ct *corev1.Container) { ct.Ports = []corev1.ContainerPort{{Name: port, ContainerPort: n}} })).Status.PodIP
	}
	one := pod("one", "p1", 8080) + ":8080"
	endpointsAre(t, c, ns, "s", one)
	two := pod("two", "p2", 8081) + ":8081"
	endpointsAre(t, c, ns, "s", one, two)
	ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), "one", metav1.DeleteOptions{}))
	endpointsAre(t, c, ns, "s", two)
}

func twoProtocols(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	s := service(t, c, ns, "s", func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "t", Protocol: "TCP", Port: 80, TargetPort: intstr.FromInt32(8080)}, {Name: "u", Protocol: "UDP", Port: 80, TargetPort: intstr.FromInt32(8081)}}
	})
	webPod(t, c, ns, "server", "web")
	webPod(t, c, ns, "client", "client")
	dials(t, c, ns, "client", s.Spec.ClusterIP, 80, "http", "server", true)
	dials(t, c, ns, "client", s.Spec.ClusterIP, 80, "udp", "server", true)
	s.Spec.Ports = s.Spec.Ports[:1]
	must(c.Client.CoreV1().Services(ns).Update(t.Context(), s, metav1.UpdateOptions{}))(t)
	dials(t, c, ns, "client", s.Spec.ClusterIP, 80, "udp", "server", false)
	dials(t, c, ns, "client", s.Spec.ClusterIP, 80, "http", "server", true)
}

// dials has the netexec in pod client ask host by protocol, until want answers, or until nobody does.
func dials(t *testing.T, c *clustertest.Cluster, ns, client, host string, port int, protocol, want string, reached bool) {
	t.Helper()
	q := url.Values{"request": {"hostname"}, "protocol": {protocol}, "host": {host}, "port": {fmt.Sprint(port)}, "tries": {"1"}}
	c.Eventually(t, 40*time.Second, fmt.Sprintf("%s %s:%d to reach %s: %v", protocol, host, port, want, reached), func(context.Context) error {
		out, err := c.InPod(ns, client, "wget", "-q", "-T", "10", "-O-", "http://127.0.0.1:8080/dial?"+q.Encode())
		if err != nil {
			return err
		}
		var answer map[string][]string
		if err := json.Unmarshal([]byte(out), &answer); err != nil {
			return err
		}
		if slices.Contains(answer["responses"], want) != reached {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

func reaches(protocol string, fromNode bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		port := map[string]int{"http": 8080, "udp": 8081}[protocol]
		for i, n := range c.Nodes {
			name := fmt.Sprintf("server-%d", i)
			ip := webPod(t, c, ns, name, "web", clustertest.On(n)).Status.PodIP
			if i == 0 && !fromNode {
				webPod(t, c, ns, "client", "client")
			} else if i == 0 {
				c.RunPod(t, ns, c.Pod("client", nil, func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
			}
			switch {
			case !fromNode:
				dials(t, c, ns, "client", ip, port, protocol, name, true)
			case protocol == "http":
				answers(t, c, ns, "client", ip+":8080/hostname", name)
			default:
				c.Eventually(t, 30*time.Second, "the UDP answer", func(context.Context) error {
					out, err := c.InPod(ns, "client", "sh", "-c", "echo -n hostname | nc -u -w 1 "+ip+" 8081 || true")
					if err == nil && !strings.Contains(out, name) {
						err = fmt.Errorf("%q", out)
					}
					return err
				})
			}
		}
	}
}

func endpointsLatency(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	one := webPod(t, c, ns, "one", "web")
	var took []time.Duration
	for i := range 100 {
		name, began := fmt.Sprintf("s%d", i), time.Now()
		service(t, c, ns, name)
		endpointsAre(t, c, ns, name, one.Status.PodIP+":8080")
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	if took[50] > 20*time.Second || took[98] > 50*time.Second {
		t.Errorf("median %s, 99th %s", took[50], took[98])
	}
}

func emptyEndpoints(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	service(t, c, ns, "s")
	endpointsAre(t, c, ns, "s")
	goneWithService(t, c, ns, "s")
}

func manualSlices(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	service(t, c, ns, "s", func(s *corev1.Service) { s.Spec.Selector = nil })
	webPod(t, c, ns, "client", "client")
	for _, n := range []string{"one", "two"} {
		ip := webPod(t, c, ns, n, "web").Status.PodIP
		must(c.Client.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "s-" + n, Labels: map[string]string{"kubernetes.io/service-name": "s"}}, AddressType: "IPv4",
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}}}, Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr[int32](8080)}}}, metav1.CreateOptions{}))(t)
	}
	answers(t, c, ns, "client", "s/hostname", "one")
	answers(t, c, ns, "client", "s/hostname", "two")
}

// manualSlicesOfPorts has one pod that answers on two ports, each in a slice of its own.
func manualSlicesOfPorts(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	service(t, c, ns, "s", func(s *corev1.Service) {
		s.Spec.Selector = nil
		s.Spec.Ports = []corev1.ServicePort{{Name: "one", Port: 81, Protocol: "TCP"}, {Name: "two", Port: 82, Protocol: "TCP"}}
	})
	webPod(t, c, ns, "client", "client")
	ip := c.RunPod(t, ns, c.Pod("ports", []string{"porter"}, first(func(ct *corev1.Container) {
		ct.Env = []corev1.EnvVar{{Name: "SERVE_PORT_8081", Value: "one"}, {Name: "SERVE_PORT_8082", Value: "two"}}
	}))).Status.PodIP
	for i, n := range []string{"one", "two"} {
		must(c.Client.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "s-" + n, Labels: map[string]string{"kubernetes.io/service-name": "s"}}, AddressType: "IPv4",
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}}}, Ports: []discoveryv1.EndpointPort{{Name: &n, Port: ptr(int32(8081 + i))}}}, metav1.CreateOptions{}))(t)
	}
	answers(t, c, ns, "client", "s:81/", "one")
	answers(t, c, ns, "client", "s:82/", "two")
}

func mirrored(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	service(t, c, ns, "s", func(s *corev1.Service) { s.Spec.Selector = nil })
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.1.2.3"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 80}}}}}
	e = must(c.Client.CoreV1().Endpoints(ns).Create(t.Context(), e, metav1.CreateOptions{}))(t)
	endpointsAre(t, c, ns, "s", "10.1.2.3:80")
	e.Subsets[0].Addresses[0].IP = "10.2.3.4"
	must(c.Client.CoreV1().Endpoints(ns).Update(t.Context(), e, metav1.UpdateOptions{}))(t)
	endpointsAre(t, c, ns, "s", "10.2.3.4:80")
	ok(t, c.Client.CoreV1().Endpoints(ns).Delete(t.Context(), "s", metav1.DeleteOptions{}))
	c.Eventually(t, 30*time.Second, "the slice to go", func(ctx context.Context) error {
		list, err := c.Client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=s"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d slices", len(list.Items))
		}
		return err
	})
}

// proxied asks a pod and a Service through the API server's proxy, by every method.
func proxied(path string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		service(t, c, ns, "s")
		webPod(t, c, ns, "one", "web")
		endpoints := []string{"pods/one:8080", "pods/http:one:8080", "services/s:http", "services/s:80", "services/http:s:http"}
		for _, target := range endpoints {
			for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"} {
				c.Eventually(t, 20*time.Second, method+" "+target, func(context.Context) error {
					code, _, body := raw(t, c, method, "/api/v1/namespaces/"+ns+"/"+target+"/proxy/"+path, "*/*", "")
					if code != 200 || path == "hostname" && method == "GET" && body != "one" {
						return fmt.Errorf("%d %s", code, body)
					}
					return nil
				})
			}
		}
	}
}

func hostPorts(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	node := must(c.Client.CoreV1().Nodes().Get(t.Context(), c.Nodes[1], metav1.GetOptions{}))(t)
	ip := node.Status.Addresses[0].Address
	c.RunPod(t, ns, c.Pod("client", []string{"netexec", "--http-port=18080", "--udp-port=-1"}, clustertest.On(c.Nodes[1]), func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	port := func(hostIP string, protocol corev1.Protocol, to int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": c.Nodes[1]}
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 54323, ContainerPort: to, Protocol: protocol, HostIP: hostIP}}
		}
	}
	webPod(t, c, ns, "one", "web", port("127.0.0.1", "TCP", 8080))
	webPod(t, c, ns, "two", "web", port(ip, "TCP", 8080))
	webPod(t, c, ns, "three", "web", port(ip, "UDP", 8081))
	answers(t, c, ns, "client", "127.0.0.1:54323/hostname", "one")
	answers(t, c, ns, "client", ip+":54323/hostname", "two")
	c.Eventually(t, 30*time.Second, "the UDP answer", func(context.Context) error {
		out, err := c.InPod(ns, "client", "sh", "-c", "echo -n hostname | nc -u -w 1 "+ip+" 54323 || true")
		if err == nil && !strings.Contains(out, "three") {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
}
