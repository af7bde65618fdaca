package environ

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// What resolvers in use read, and no more: glibc takes three name servers, and searches since 2.26 without a bound,
// for which Kubernetes set these.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// Resolver is what a resolv.conf says.
type Resolver struct {
	Servers  []string
	Searches []string
	Options  []string
}

// ParseResolver reads a resolv.conf. Lines it does not know it passes over, as resolvers do.
func ParseResolver(text []byte) Resolver {
	var r Resolver
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			r.Servers = append(r.Servers, words[1])
		case "search", "domain":
			r.Searches = nil // the last one wins
			for _, s := range words[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				r.Searches = append(r.Searches, s)
			}
		case "options":
			r.Options = append(r.Options, words[1:]...)
		}
	}
	return r
}

// ResolvConf decides what the pod's resolver is told. cluster are the cluster DNS's addresses; without any, a pod that
// asks for the cluster's DNS gets the node's.
func ResolvConf(pod *v1.Pod, host Resolver, cluster []string, domain string) Resolver {
	var r Resolver
	policy := pod.Spec.DNSPolicy
	wantsCluster := policy == v1.DNSClusterFirstWithHostNet || (policy == v1.DNSClusterFirst || policy == "") && !pod.Spec.HostNetwork
	switch {
	case policy == v1.DNSNone:
	case wantsCluster && len(cluster) > 0:
		r.Servers = append(r.Servers, cluster...)
		if domain != "" {
			r.Searches = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		}
		r.Searches = append(r.Searches, host.Searches...)
		r.Options = []string{"ndots:5"}
	default:
		r = Resolver{
			Servers:  append(r.Servers, host.Servers...),
			Searches: append(r.Searches, host.Searches...),
			Options:  append(r.Options, host.Options...),
		}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		r.Servers = append(r.Servers, own.Nameservers...)
		r.Searches = append(r.Searches, own.Searches...)
		r.Options = mergeOptions(r.Options, own.Options)
	}
	r.Servers = limit(distinct(r.Servers), maxServers)
	r.Searches = fitting(limit(distinct(r.Searches), maxSearches))
	return r
}

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(base []string, own []v1.PodDNSConfigOption) []string {
	replaced := map[string]bool{}
	var added []string
	for _, o := range own {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		replaced[o.Name] = true
		added = append(added, text)
	}
	var out []string
	for _, o := range base {
		if name, _, _ := strings.Cut(o, ":"); !replaced[name] {
			out = append(out, o)
		}
	}
	return append(out, added...)
}

func distinct(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func limit(list []string, n int) []string {
	return list[:min(n, len(list))]
}

// fitting keeps the searches, from the first on, that fit on one line.
func fitting(list []string) []string {
	chars := -1
	for i, s := range list {
		if chars += 1 + len(s); chars > maxSearchChars {
			return list[:i]
		}
	}
	return list
}
