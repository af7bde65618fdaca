package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// fieldFlag is one of upstream's flags that say the same as a field of the configuration, and go over it.
type fieldFlag struct {
	path string // of the field, parts joined by dots
	kind flagKind
}

type flagKind int

const (
	text flagKind = iota
	boolean
	number
	list
	pairs      // a=b,c=d
	thresholds // a<b,c<d
	switches   // a=true,b=false
)

// fieldFlags are those flags, by name.
func fieldFlags() map[string]fieldFlag {
	return map[string]fieldFlag{
		"address": {"address", text}, "port": {"port", number}, "healthz-port": {"healthzPort", number}, "healthz-bind-address": {"healthzBindAddress", text},
		"anonymous-auth":                               {"authentication.anonymous.enabled", boolean},
		"authentication-token-webhook":                 {"authentication.webhook.enabled", boolean},
		"authentication-token-webhook-cache-ttl":       {"authentication.webhook.cacheTTL", text},
		"authorization-mode":                           {"authorization.mode", text},
		"authorization-webhook-cache-authorized-ttl":   {"authorization.webhook.cacheAuthorizedTTL", text},
		"authorization-webhook-cache-unauthorized-ttl": {"authorization.webhook.cacheUnauthorizedTTL", text},
		"client-ca-file":                               {"authentication.x509.clientCAFile", text},
		"tls-cert-file":                                {"tlsCertFile", text},
		"tls-private-key-file":                         {"tlsPrivateKeyFile", text},
		"tls-min-version":                              {"tlsMinVersion", text},
		"tls-cipher-suites":                            {"tlsCipherSuites", list},
		"rotate-certificates":                          {"rotateCertificates", boolean},
		"rotate-server-certificates":                   {"serverTLSBootstrap", boolean},
		"allowed-unsafe-sysctls":                       {"allowedUnsafeSysctls", list},
		"container-log-max-files":                      {"containerLogMaxFiles", number},
		"container-log-max-size":                       {"containerLogMaxSize", text},
		"cpu-cfs-quota":                                {"cpuCFSQuota", boolean},
		"cpu-cfs-quota-period":                         {"cpuCFSQuotaPeriod", text},
		"enforce-node-allocatable":                     {"enforceNodeAllocatable", list},
		"eviction-hard":                                {"evictionHard", thresholds},
		"eviction-soft":                                {"evictionSoft", thresholds},
		"eviction-soft-grace-period":                   {"evictionSoftGracePeriod", pairs},
		"eviction-minimum-reclaim":                     {"evictionMinimumReclaim", pairs},
		"eviction-max-pod-grace-period":                {"evictionMaxPodGracePeriod", number},
		"eviction-pressure-transition-period":          {"evictionPressureTransitionPeriod", text},
		"fail-swap-on":                                 {"failSwapOn", boolean},
		"feature-gates":                                {"featureGates", switches},
		"image-gc-high-threshold":                      {"imageGCHighThresholdPercent", number},
		"image-gc-low-threshold":                       {"imageGCLowThresholdPercent", number},
		"minimum-image-ttl-duration":                   {"imageMinimumGCAge", text},
		"kube-api-qps":                                 {"kubeAPIQPS", number},
		"kube-api-burst":                               {"kubeAPIBurst", number},
		"event-qps":                                    {"eventRecordQPS", number},
		"event-burst":                                  {"eventBurst", number},
		"kube-reserved":                                {"kubeReserved", pairs},
		"kube-reserved-cgroup":                         {"kubeReservedCgroup", text},
		"system-reserved":                              {"systemReserved", pairs},
		"system-reserved-cgroup":                       {"systemReservedCgroup", text},
		"node-status-max-images":                       {"nodeStatusMaxImages", number},
		"node-status-update-frequency":                 {"nodeStatusUpdateFrequency", text},
		"oom-score-adj":                                {"oomScoreAdj", number},
		"pod-max-pids":                                 {"podPidsLimit", number},
		"pods-per-core":                                {"podsPerCore", number},
		"registry-qps":                                 {"registryPullQPS", number},
		"registry-burst":                               {"registryBurst", number},
		"seccomp-default":                              {"seccompDefault", boolean},
		"serialize-image-pulls":                        {"serializeImagePulls", boolean},
		"max-parallel-image-pulls":                     {"maxParallelImagePulls", number},
		"logging-format":                               {"logging.format", text},
	}
}

// registerFields registers the flags and returns where their values are kept.
func registerFields(fs *pflag.FlagSet) *fieldValues {
	out := &fieldValues{tree: map[string]any{}}
	for name, f := range fieldFlags() {
		flag := fs.VarPF(&fieldValue{field: f, into: out}, name, "", "as "+f.path+" in the configuration")
		if f.kind == boolean {
			flag.NoOptDefVal = "true"
		}
	}
	return out
}

// fieldValues is the configuration that the flags given amount to.
type fieldValues struct{ tree map[string]any }

type fieldValue struct {
	field fieldFlag
	into  *fieldValues
	said  string
}

func (v *fieldValue) String() string { return v.said }

func (v *fieldValue) Type() string {
	return [...]string{"string", "bool", "number", "strings", "name=value,...", "signal<value,...", "name=bool,..."}[v.field.kind]
}

// Set takes the value of a flag. Of a list or map that is given twice, the later one adds.
func (v *fieldValue) Set(s string) error {
	value, err := v.field.kind.parse(s)
	if err != nil {
		return err
	}
	v.said = s
	parts := strings.Split(v.field.path, ".")
	tree := v.into.tree
	for _, p := range parts[:len(parts)-1] {
		next, ok := tree[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			tree[p] = next
		}
		tree = next
	}
	last := parts[len(parts)-1]
	before, twice := tree[last].([]any)
	if more, isList := value.([]any); isList && twice {
		value = append(before, more...)
	}
	merge(tree, map[string]any{last: value})
	return nil
}

func (k flagKind) parse(s string) (any, error) {
	switch k {
	case boolean:
		return strconv.ParseBool(s)
	case number:
		return strconv.ParseInt(s, 10, 64)
	case list:
		out := []any{}
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
		return out, nil
	case pairs, thresholds, switches:
		return k.parseMap(s)
	}
	return s, nil
}

func (k flagKind) parseMap(s string) (any, error) {
	out := map[string]any{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		sep := "="
		if k == thresholds {
			sep = "<"
		}
		name, value, ok := strings.Cut(part, sep)
		if !ok {
			return nil, fmt.Errorf("%q is not name%svalue", part, sep)
		}
		if k != switches {
			out[strings.TrimSpace(name)] = strings.TrimSpace(value)
			continue
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", part, err)
		}
		out[strings.TrimSpace(name)] = on
	}
	return out, nil
}
