package validation

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

const anIngress = `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: x, namespace: d}, spec: {ingressClassName: c, tls: [{hosts: [a.b], secretName: s}],
  defaultBackend: {resource: {kind: K, name: r}}, rules: [{host: "*.a.b", http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: sv, port: {number: 80}}}}]}}]}}`

func TestIngress(t *testing.T) {
	p := "spec.rules[0].http.paths[0]."
	testCreate(t, anIngress, []edit{
		{"empty", strings.Split(anIngress, "spec: ")[1], "{}}", "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"},
		{"class", "ingressClassName: c", "ingressClassName: C", `spec.ingressClassName: Invalid value: "C"`},
		{"two classes", "namespace: d}", "namespace: d, annotations: {kubernetes.io/ingress.class: other}}", "annotations.kubernetes.io/ingress.class: Invalid value: \"other\": must match `ingressClassName` when both are specified"},
		{"class twice", "namespace: d}", "namespace: d, annotations: {kubernetes.io/ingress.class: c}}", ""},
		{"address", `"*.a.b"`, "10.0.0.1", `spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address`},
		{"host", `"*.a.b"`, "a_b", `spec.rules[0].host: Invalid value: "a_b": a lowercase RFC 1123 subdomain`},
		{"wildcard", `"*.a.b"`, `"a.*.b"`, `spec.rules[0].host: Invalid value: "a.*.b": a wildcard DNS-1123 subdomain must start with '*.'`},
		{"tls host", "hosts: [a.b]", "hosts: [a..b]", `spec.tls[0].hosts[0]: Invalid value: "a..b"`},
		{"tls secret", "secretName: s", "secretName: S", `spec.tls[0].secretName: Invalid value: "S"`},
		{"no paths", "paths: [{path: /, pathType: Prefix, backend: {service: {name: sv, port: {number: 80}}}}]", "paths: []", "spec.rules[0].http.paths: Required value"},
		{"no path type", "pathType: Prefix, ", "", p + "pathType: Required value: pathType must be specified"},
		{"path type", "pathType: Prefix", "pathType: Regex", p + `pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"`},
		{"relative", "path: /,", "path: a,", p + `path: Invalid value: "a": must be an absolute path`},
		{"empty path", "path: /, ", "", p + `path: Invalid value: "": must be an absolute path`},
		{"empty path, own type", "path: /, pathType: Prefix", "pathType: ImplementationSpecific", ""},
		{"slashes", "path: /,", "path: /a//b,", p + `path: Invalid value: "/a//b": must not contain '//'`},
		{"dots", "path: /,", "path: /a/../b,", p + `path: Invalid value: "/a/../b": must not contain '/../'`},
		{"escaped", "path: /,", "path: /a%2Fb,", p + `path: Invalid value: "/a%2Fb": must not contain '%2F'`},
		{"dots last", "path: /,", "path: /a/..,", p + `path: Invalid value: "/a/..": cannot end with '/..'`},
		{"two backends", "backend: {", "backend: {resource: {kind: K, name: r}, ", p + `backend: Invalid value: "": cannot set both resource and service backends`},
		{"no backend", "backend: {service: {name: sv, port: {number: 80}}}", "backend: {}", p + `backend: Invalid value: "": resource or service backend is required`},
		{"no service name", "name: sv, ", "", p + "backend.service.name: Required value"},
		{"service name", "name: sv", "name: a.b", p + `backend.service.name: Invalid value: "a.b"`},
		{"no port", "port: {number: 80}", "port: {}", p + "backend: Required value: port name or number is required"},
		{"two ports", "number: 80", "number: 80, name: http", p + `backend: Invalid value: "": cannot set both port name & port number`},
		{"port", "number: 80", "number: 80000", p + "backend.service.port.number: Invalid value: 80000: must be between 1 and 65535, inclusive"},
		{"port name", "number: 80", "name: '-'", p + `backend.service.port.name: Invalid value: "-"`},
		{"resource's kind", "{kind: K, name: r}", "{name: r}", "spec.defaultBackend.resource.kind: Required value"},
		{"resource's name", "{kind: K, name: r}", "{kind: K, name: a/b}", `spec.defaultBackend.resource.name: Invalid value: "a/b": may not contain '/'`},
		{"resource's group", "{kind: K, name: r}", "{apiGroup: G, kind: K, name: r}", `spec.defaultBackend.resource.apiGroup: Invalid value: "G"`},
	})
	in := decode(t, anIngress).(*networkingv1.Ingress)
	now := in.DeepCopy()
	now.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "1.2.3"}, {Hostname: "1.2.3.4"}, {Hostname: "A"}}
	errs := UpdateStatus(now, in)
	compare(t, errs, `status.loadBalancer.ingress[0].ip: Invalid value: "1.2.3": must be a valid IP address`)
	compare(t, errs, `status.loadBalancer.ingress[1].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address`)
	compare(t, errs, `status.loadBalancer.ingress[2].hostname: Invalid value: "A"`)
}

func TestIngressClass(t *testing.T) {
	const class = `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: x}, spec: {controller: a.b/c, parameters: {apiGroup: g, kind: K, name: sv, scope: Namespace, namespace: ns}}}`
	testCreate(t, class, []edit{
		{"controller", "a.b/c", "nothing", `spec.controller: Invalid value: "nothing": must be a domain-prefixed path`},
		{"long controller", "a.b/c", "a.b/" + strings.Repeat("c", 250), "spec.controller: Too long: may not be more than 250 bytes"},
		{"scope", "scope: Namespace", "scope: World", `spec.parameters.scope: Unsupported value: "World": supported values: "Cluster", "Namespace"`},
		{"no namespace", ", namespace: ns", "", "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"},
		{"namespace", "namespace: ns", "namespace: NS", `spec.parameters.namespace: Invalid value: "NS"`},
		{"needless namespace", "scope: Namespace", "scope: Cluster", "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"},
		{"kind", "kind: K, ", "", "spec.parameters.kind: Required value"},
		{"name", "name: sv, ", "", "spec.parameters.name: Required value"},
	})
	testUpdate(t, class, []edit{{"controller", "a.b/c", "a.b/d", `spec.controller: Invalid value: "a.b/d": field is immutable`}})
}

func TestNetworkPolicy(t *testing.T) {
	const policy = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: x, namespace: d}, spec: {podSelector: {}, policyTypes: [Ingress],
  ingress: [{ports: [{port: 80, endPort: 90}], from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}], egress: [{to: [{podSelector: {}}]}]}}`
	from := "spec.ingress[0].from[0]"
	testCreate(t, policy, []edit{
		{"selector", "spec: {podSelector: {}", "spec: {podSelector: {matchLabels: {'-': a}}", `spec.podSelector.matchLabels: Invalid value: "-"`},
		{"types", "[Ingress]", "[Ingress, Egress, Ingress]", "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not specify more than two policyTypes"},
		{"type", "[Ingress]", "[Sideways]", `spec.policyTypes[0]: Unsupported value: "Sideways": supported values: "Egress", "Ingress"`},
		{"protocol", "{port: 80", "{protocol: ICMP, port: 80", `spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`},
		{"port", "port: 80, endPort: 90", "port: 0", "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"},
		{"port name", "port: 80, endPort: 90", "port: A_", `spec.ingress[0].ports[0].port: Invalid value: "A_"`},
		{"end of a name", "port: 80,", "port: http,", "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric"},
		{"end of nothing", "port: 80, ", "", "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is not specified"},
		{"end before begin", "endPort: 90", "endPort: 9", "spec.ingress[0].ports[0].endPort: Invalid value: 9: must be greater than or equal to `port`"},
		{"end", "endPort: 90", "endPort: 90000", "spec.ingress[0].ports[0].endPort: Invalid value: 90000: must be between 1 and 65535, inclusive"},
		{"nobody", "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}", "{}", from + ": Required value: must specify a peer"},
		{"two peers", "{ipBlock: {", "{podSelector: {}, ipBlock: {", from + ": Forbidden: may not specify both ipBlock and another peer"},
		{"no block", "cidr: 10.0.0.0/8, ", "", from + ".ipBlock.cidr: Required value"},
		{"block", "cidr: 10.0.0.0/8, ", "cidr: ten, ", from + `.ipBlock.cidr: Invalid value: "ten": must be a valid CIDR value`},
		{"exception", "[10.1.0.0/16]", "[x]", from + `.ipBlock.except[0]: Invalid value: "x": must be a valid CIDR value`},
		{"exception without", "[10.1.0.0/16]", "[11.0.0.0/16]", from + ".ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"},
		{"all but all", "[10.1.0.0/16]", "[10.0.0.0/8]", "must be a strict subset of `cidr`"},
		{"peer's selector", "to: [{podSelector: {}}]", "to: [{namespaceSelector: {matchLabels: {'-': a}}}]", `spec.egress[0].to[0].namespaceSelector.matchLabels: Invalid value: "-"`},
	})
}

func TestEndpointSlice(t *testing.T) {
	const slice = `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: d}, addressType: IPv4,
  endpoints: [{addresses: [10.0.0.1], nodeName: node, hostname: h, hints: {forZones: [{name: z}]}}], ports: [{name: http, port: 80, appProtocol: kubernetes.io/h2c}]}`
	e := "endpoints[0]."
	testCreate(t, slice, []edit{
		{"no type", "addressType: IPv4,", "", "addressType: Required value"},
		{"type", "addressType: IPv4,", "addressType: IPX,", `addressType: Unsupported value: "IPX": supported values: "FQDN", "IPv4", "IPv6"`},
		{"other family", "10.0.0.1", "'fd00::1'", e + `addresses[0]: Invalid value: "fd00::1": must be an IPv4 address`},
		{"not an address", "10.0.0.1", "ten", e + `addresses[0]: Invalid value: "ten": must be a valid IP address`},
		{"loopback", "10.0.0.1", "127.0.0.1", e + `addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`},
		{"names", "IPv4,\n  endpoints: [{addresses: [10.0.0.1]", "FQDN,\n  endpoints: [{addresses: [a.example.com]", ""},
		{"name", "IPv4,\n  endpoints: [{addresses: [10.0.0.1]", "FQDN,\n  endpoints: [{addresses: [localhost]", e + `addresses[0]: Invalid value: "localhost": should be a domain with at least two segments separated by dots`},
		{"no address", "[10.0.0.1]", "[]", e + "addresses: Required value"},
		{"many addresses", "[10.0.0.1]", "[" + strings.Repeat("10.0.0.1,", 101) + "]", e + "addresses: Too many: 101: must have at most 100 items"},
		{"many endpoints", "endpoints: [", "endpoints: [" + strings.Repeat("{addresses: [10.0.0.1]},", 1000), "endpoints: Too many: 1001: must have at most 1000 items"},
		{"node", "nodeName: node,", "nodeName: N_,", e + `nodeName: Invalid value: "N_"`},
		{"host", "hostname: h,", "hostname: a.b,", e + `hostname: Invalid value: "a.b"`},
		{"hint", "{name: z}", "{name: 'z z'}", e + `hints.forZones[0].name: Invalid value: "z z"`},
		{"no hint", "{name: z}", "{}", e + "hints.forZones[0].name: Required value"},
		{"hint twice", "[{name: z}]", "[{name: z}, {name: z}]", e + `hints.forZones[1].name: Duplicate value: "z"`},
		{"many hints", "[{name: z}]", "[" + strings.Repeat("{name: z},", 9) + "]", e + "hints.forZones: Too many: 9: must have at most 8 items"},
		{"node hint", "forZones: [{name: z}]", "forNodes: [{name: N_}]", e + `hints.forNodes[0].name: Invalid value: "N_"`},
		{"port's name", "{name: http", "{name: HTTP", `ports[0].name: Invalid value: "HTTP"`},
		{"port twice", "ports: [", "ports: [{name: http, port: 1},", `ports[1].name: Duplicate value: "http"`},
		{"unnamed port twice", "ports: [{name: http, ", "ports: [{}, {", `ports[1].name: Duplicate value: ""`},
		{"protocol", "port: 80", "port: 80, protocol: ICMP", `ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`},
		{"port", "port: 80", "port: 80000", "ports[0].port: Invalid value: 80000: must be between 1 and 65535, inclusive"},
		{"application", "kubernetes.io/h2c", "'a b'", `ports[0].appProtocol: Invalid value: "a b"`},
	})
	testUpdate(t, slice, []edit{{"type", "IPv4,\n  endpoints: [{addresses: [10.0.0.1]", "IPv6,\n  endpoints: [{addresses: ['fd00::1']", "addressType: Invalid value: null: field is immutable"}})
}
