package environ

import (
	"net"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// serviceVars describes services the way containers learned of them before there was a cluster DNS: host and port,
// and the names that Docker's links gave.
func serviceVars(services []*v1.Service, namespace string, links bool) map[string]string {
	out := map[string]string{}
	var api *v1.Service
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		if s.Namespace == v1.NamespaceDefault && s.Name == "kubernetes" {
			api = s
		}
		if links && s.Namespace == namespace {
			describe(out, s)
		}
	}
	// The API server's address is given to every pod. A service of the same name in the pod's namespace goes before it.
	if _, own := out["KUBERNETES_SERVICE_HOST"]; api != nil && !own {
		describe(out, api)
	}
	return out
}

func describe(out map[string]string, s *v1.Service) {
	prefix := variable(s.Name)
	out[prefix+"_SERVICE_HOST"] = s.Spec.ClusterIP
	out[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			out[prefix+"_SERVICE_PORT_"+variable(p.Name)] = port
		}
		proto := strings.ToLower(string(p.Protocol))
		if proto == "" {
			proto = "tcp"
		}
		url := proto + "://" + net.JoinHostPort(s.Spec.ClusterIP, port)
		if i == 0 {
			out[prefix+"_PORT"] = url
		}
		link := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
		out[link] = url
		out[link+"_PROTO"] = proto
		out[link+"_PORT"] = port
		out[link+"_ADDR"] = s.Spec.ClusterIP
	}
}

func variable(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
