package validation

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// serviceOf is a service of the given spec, with the second field of its address that the strategy sets.
func serviceOf(spec string) string {
	return "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: d}, spec: {" + spec + "}}"
}

func TestServices(t *testing.T) {
	const port = "ports: [{port: 80}]"
	for _, r := range []podRow{
		{"valid", port + ", clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack", ""},
		{"headless", "clusterIP: None, clusterIPs: [None]", ""},
		{"no ports", "", "spec.ports: Required value"},
		{"type", port + ", type: X", `spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},
		{"kubelet's port", "type: LoadBalancer, ports: [{port: 10250}]", "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet"},
		{"headless balancer", port + ", type: LoadBalancer, clusterIP: None, clusterIPs: [None]", "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services"},
		{"headless node port", port + ", type: NodePort, clusterIP: None, clusterIPs: [None]", "may not be set to 'None' for NodePort services"},
		{"external name", "type: ExternalName, externalName: a.b.", ""},
		{"no external name", "type: ExternalName", "spec.externalName: Required value"},
		{"external name's form", "type: ExternalName, externalName: A", `spec.externalName: Invalid value: "A"`},
		{"external name with address", "type: ExternalName, externalName: a.b, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]", "spec.clusterIPs: Forbidden: may not be set for ExternalName services"},
		{"external name with family", "type: ExternalName, externalName: a.b, ipFamilies: [IPv4]", "spec.ipFamilies: Forbidden: may not be set for ExternalName services"},
		{"external name with policy", "type: ExternalName, externalName: a.b, ipFamilyPolicy: SingleStack", "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services"},
		{"unnamed ports", "ports: [{port: 80}, {port: 81, name: a}]", "spec.ports[0].name: Required value"},
		{"port name", "ports: [{port: 80, name: a.b}]", `spec.ports[0].name: Invalid value: "a.b"`},
		{"port name twice", "ports: [{port: 80, name: a}, {port: 81, name: a}]", `spec.ports[1].name: Duplicate value: "a"`},
		{"port", "ports: [{port: 65536, targetPort: 1}]", "spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive"},
		{"protocol", "ports: [{port: 80, protocol: X}]", `spec.ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`},
		{"target port", "ports: [{port: 80, targetPort: 65536}]", "spec.ports[0].targetPort: Invalid value: 65536"},
		{"target name", "ports: [{port: 80, targetPort: a_b}]", `spec.ports[0].targetPort: Invalid value: "a_b"`},
		{"app protocol", "ports: [{port: 80, appProtocol: '!'}]", `spec.ports[0].appProtocol: Invalid value: "!"`},
		{"port twice", "ports: [{port: 80, name: a}, {port: 80, name: b}]", `spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80,"targetPort":0}`},
		{"port of two protocols", "ports: [{port: 80, name: a}, {port: 80, name: b, protocol: UDP}]", ""},
		{"node port", "ports: [{port: 80, nodePort: 30000}]", "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{"node port twice", "type: NodePort, ports: [{port: 80, name: a, nodePort: 30000}, {port: 81, name: b, nodePort: 30000}]", "spec.ports[1].nodePort: Duplicate value: 30000"},
		{"selector", port + ", selector: {a: '!'}", "spec.selector: Invalid value"},
		{"affinity", port + ", sessionAffinity: X", `spec.sessionAffinity: Unsupported value: "X": supported values: "ClientIP", "None"`},
		{"affinity for ever", port + ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}", "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"},
		{"first address", port + ", clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]", "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"},
		{"no first address", port + ", clusterIPs: [10.0.0.2]", "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: must be empty when `clusterIP` is not specified"},
		{"no list", port + ", clusterIP: 10.0.0.1", "spec.clusterIPs: Required value"},
		{"address", port + ", clusterIP: x, clusterIPs: [x]", `spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{"headless and not", port + ", clusterIP: None, clusterIPs: [None, 10.0.0.1]", `'None' must be the first and only value`},
		{"three addresses", port + ", clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1', 10.0.0.2]", "may only hold up to 2 values"},
		{"addresses of a family", port + ", clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 10.0.0.2]", "may specify no more than one IP for each IP family"},
		{"family of an address", port + ", clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv6]", "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`"},
		{"family", port + ", ipFamilies: [IPv5]", `spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"`},
		{"family twice", port + ", ipFamilies: [IPv4, IPv4]", `spec.ipFamilies[1]: Duplicate value: "IPv4"`},
		{"family policy", port + ", ipFamilyPolicy: X", `spec.ipFamilyPolicy: Unsupported value: "X": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"`},
		{"external address", port + ", externalIPs: [x]", `spec.externalIPs[0]: Invalid value: "x"`},
		{"external loopback", port + ", externalIPs: [127.0.0.1]", "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{"external nothing", port + ", externalIPs: [0.0.0.0]", "may not be unspecified (0.0.0.0)"},
		{"external link", port + ", externalIPs: [169.254.0.1]", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{"external multicast", port + ", externalIPs: [224.0.0.1]", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"},
		{"source ranges", port + ", type: LoadBalancer, loadBalancerSourceRanges: [' 10.0.0.0/8 ']", ""},
		{"source range", port + ", type: LoadBalancer, loadBalancerSourceRanges: [x]", `spec.LoadBalancerSourceRanges[0]: Invalid value: "x"`},
		{"source ranges of another type", port + ", loadBalancerSourceRanges: [10.0.0.0/8]", "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"node ports of another type", port + ", allocateLoadBalancerNodePorts: true", "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"class", port + ", type: LoadBalancer, loadBalancerClass: '!'", `spec.loadBalancerClass: Invalid value: "!"`},
		{"class of another type", port + ", loadBalancerClass: a.b/c", "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"external policy", port + ", type: NodePort, externalTrafficPolicy: X", `spec.externalTrafficPolicy: Unsupported value: "X": supported values: "Cluster", "Local"`},
		{"external policy inside", port + ", externalTrafficPolicy: Local", "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"},
		{"health check", port + ", type: LoadBalancer, healthCheckNodePort: 30000", "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"},
		{"health check port", port + ", type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 65536", "spec.healthCheckNodePort: Invalid value: 65536: must be between 1 and 65535, inclusive"},
		{"internal policy", port + ", internalTrafficPolicy: X", `spec.internalTrafficPolicy: Unsupported value: "X": supported values: "Cluster", "Local"`},
		{"distribution", port + ", trafficDistribution: X", `spec.trafficDistribution: Unsupported value: "X": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"`},
	} {
		t.Run(r.name, func(t *testing.T) { compare(t, Create(decode(t, serviceOf(r.spec))), r.want) })
	}
}

// TestUndefaultedServices holds the rules of fields that defaulting fills.
func TestUndefaultedServices(t *testing.T) {
	for _, r := range []struct {
		name   string
		change func(s *corev1.Service)
		want   string
	}{
		{"affinity", func(s *corev1.Service) { s.Spec.SessionAffinity = "" }, "spec.sessionAffinity: Required value"},
		{"no client", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }, "spec.sessionAffinityConfig: Required value: when session affinity type is ClientIP"},
		{"client without need", func(s *corev1.Service) { s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{} }, "spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None"},
		{"internal policy", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = nil }, "spec.internalTrafficPolicy: Required value"},
		{"external policy", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, "spec.externalTrafficPolicy: Required value"},
		{"node ports", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }, "spec.allocateLoadBalancerNodePorts: Required value"},
		{"ranges by annotation", func(s *corev1.Service) {
			s.Annotations = map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: "10.0.0.0/8,x"}
		}, `metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: "x"`},
	} {
		t.Run(r.name, func(t *testing.T) {
			s := decode(t, serviceOf("ports: [{port: 80}]")).(*corev1.Service)
			r.change(s)
			compare(t, Create(s), r.want)
		})
	}
}

func TestServiceUpdates(t *testing.T) {
	const one = "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack"
	const both = "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack"
	for _, r := range []struct{ name, was, now, want string }{
		{"unchanged", both, both, ""},
		{"second stack comes", one, both, ""},
		{"second stack goes", both, one, ""},
		{"second address goes alone", both, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack", "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary clusterIP"},
		{"second family goes alone", both, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack", "must be set to 'SingleStack' when releasing the secondary ipFamily"},
		{"address goes", one, "ports: [{port: 80}]", "spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset"},
		{"address changes", one, "ports: [{port: 80}], clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ipFamilies: [IPv4]", `spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set`},
		{"second address changes", both, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::2'], ipFamilies: [IPv4, IPv6]", "spec.clusterIPs[1]: Invalid value"},
		{"family goes", one, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]", "spec.ipFamilies[0]: Invalid value: null: primary ipFamily can not be unset"},
		{"family changes", one, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv6]", `spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set`},
		{"to a name", one, "type: ExternalName, externalName: a.b", ""},
		{"from a name", "type: ExternalName, externalName: a.b", one, ""},
		{"families of endpoints alone", "clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4]", "clusterIP: None, clusterIPs: [None], ipFamilies: [IPv6]", ""},
		{"class", "type: LoadBalancer, loadBalancerClass: a, " + one, "type: LoadBalancer, loadBalancerClass: b, " + one, `spec.loadBalancerClass: Invalid value: "b": may not change once set`},
		{"health check port changes", "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30000, " + one,
			"type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001, " + one, "spec.healthCheckNodePort: Forbidden: field is immutable"},
		{"health check port goes", "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30000, " + one, "type: LoadBalancer, externalTrafficPolicy: Cluster, " + one, ""},
		{"class with type", one, "type: LoadBalancer, loadBalancerClass: b, " + one, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			compare(t, Update(decode(t, serviceOf(r.now)), decode(t, serviceOf(r.was))), r.want)
		})
	}
}

func TestServiceStatus(t *testing.T) {
	vip, other := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPMode("X")
	const at = "status.loadBalancer.ingress[0]."
	for _, r := range []struct {
		name, kind string
		in         corev1.LoadBalancerIngress
		want       string
	}{
		{"valid", "LoadBalancer", corev1.LoadBalancerIngress{IP: "1.2.3.4", IPMode: &vip}, ""},
		{"another type", "NodePort", corev1.LoadBalancerIngress{IP: "1.2.3.4", IPMode: &vip}, `status.loadBalancer.ingress: Forbidden: may only be used when ` + "`spec.type`" + ` is "LoadBalancer"`},
		{"address", "LoadBalancer", corev1.LoadBalancerIngress{IP: "x", IPMode: &vip}, at + `ip: Invalid value: "x"`},
		{"no mode", "LoadBalancer", corev1.LoadBalancerIngress{IP: "1.2.3.4"}, at + "ipMode: Required value: must be specified when `ip` is set"},
		{"mode alone", "LoadBalancer", corev1.LoadBalancerIngress{IPMode: &vip}, at + "ipMode: Forbidden: may not be specified when `ip` is not set"},
		{"mode", "LoadBalancer", corev1.LoadBalancerIngress{IP: "1.2.3.4", IPMode: &other}, at + `ipMode: Unsupported value: "X": supported values: "Proxy", "VIP"`},
		{"hostname", "LoadBalancer", corev1.LoadBalancerIngress{Hostname: "A"}, at + `hostname: Invalid value: "A"`},
		{"address as hostname", "LoadBalancer", corev1.LoadBalancerIngress{Hostname: "1.2.3.4"}, at + `hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address`},
	} {
		t.Run(r.name, func(t *testing.T) {
			was := decode(t, serviceOf("type: "+r.kind+", ports: [{port: 80}]")).(*corev1.Service)
			now := was.DeepCopy()
			now.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{r.in}
			compare(t, UpdateStatus(now, was), r.want)
		})
	}
}

func TestEndpoints(t *testing.T) {
	for _, r := range []podRow{
		{"valid", "{addresses: [{ip: 10.0.0.1, hostname: a, nodeName: m}], ports: [{port: 80}]}", ""},
		{"no address", "{ports: [{port: 80}]}", "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"},
		{"address", "{notReadyAddresses: [{ip: x}]}", `subsets[0].notReadyAddresses[0].ip: Invalid value: "x": must be a valid IP address`},
		{"loopback", "{addresses: [{ip: 127.0.0.1}]}", "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{"hostname", "{addresses: [{ip: 10.0.0.1, hostname: a.b}]}", `subsets[0].addresses[0].hostname: Invalid value: "a.b"`},
		{"node", "{addresses: [{ip: 10.0.0.1, nodeName: A}]}", `subsets[0].addresses[0].nodeName: Invalid value: "A"`},
		{"unnamed ports", "{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}, {port: 81, name: a}]}", "subsets[0].ports[0].name: Required value"},
		{"port name", "{addresses: [{ip: 10.0.0.1}], ports: [{port: 80, name: a.b}]}", `subsets[0].ports[0].name: Invalid value: "a.b"`},
		{"port", "{addresses: [{ip: 10.0.0.1}], ports: [{port: 0}]}", "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"},
		{"protocol", "{addresses: [{ip: 10.0.0.1}], ports: [{port: 80, protocol: X}]}", `subsets[0].ports[0].protocol: Unsupported value: "X"`},
		{"app protocol", "{addresses: [{ip: 10.0.0.1}], ports: [{port: 80, appProtocol: '!'}]}", `subsets[0].ports[0].appProtocol: Invalid value: "!"`},
	} {
		t.Run(r.name, func(t *testing.T) {
			compare(t, Create(decode(t, "{apiVersion: v1, kind: Endpoints, metadata: {name: e, namespace: d}, subsets: ["+r.spec+"]}")), r.want)
		})
	}
}
