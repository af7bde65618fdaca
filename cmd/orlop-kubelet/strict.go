package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// standing is what the kubelet does with a field of its configuration.
type standing int

const (
	// obeyed: it does what the field says.
	obeyed standing = iota
	// moot: the field tunes something that this kubelet does not have or need, such as the period of a poll where it waits
	// for events. Any value is taken.
	moot
	// fixed: only the values listed are taken, upstream's default among them.
	fixed
)

type fieldStanding struct {
	standing standing
	// values of a fixed field, as JSON. Absent is always taken.
	values []string
}

func only(values ...string) fieldStanding { return fieldStanding{fixed, values} }

// absent is a field that must not be set.
func absent() fieldStanding { return fieldStanding{fixed, nil} }

// standings has every field of a KubeletConfiguration.
func standings() map[string]fieldStanding {
	yes, whatever := fieldStanding{standing: obeyed}, fieldStanding{standing: moot}
	out := map[string]fieldStanding{
		"enableServer":       only("true"),
		"staticPodURL":       absent(),
		"staticPodURLHeader": absent(),
		"readOnlyPort":       absent(),

		"tlsCurvePreferences":                       absent(),
		"enableDebuggingHandlers":                   only("true"),
		"enableContentionProfiling":                 only("false"),
		"streamingConnectionIdleTimeout":            only(`"4h0m0s"`),
		"systemCgroups":                             absent(),
		"cgroupsPerQOS":                             only("true"),
		"cpuManagerPolicy":                          only(`"none"`),
		"cpuManagerPolicyOptions":                   absent(),
		"memoryManagerPolicy":                       only(`"None"`),
		"topologyManagerPolicy":                     only(`"none"`),
		"topologyManagerScope":                      only(`"container"`),
		"topologyManagerPolicyOptions":              absent(),
		"qosReserved":                               absent(),
		"runtimeRequestTimeout":                     only(`"2m0s"`),
		"podCIDR":                                   absent(),
		"runOnce":                                   only("false"),
		"contentType":                               only(`"application/vnd.kubernetes.protobuf"`),
		"enableControllerAttachDetach":              only("true"),
		"protectKernelDefaults":                     only("false"),
		"memorySwap":                                only(`{}`, `{"swapBehavior":"NoSwap"}`),
		"configMapAndSecretChangeDetectionStrategy": only(`"Watch"`),
		"reservedSystemCPUs":                        absent(),
		"showHiddenMetricsForVersion":               absent(),
		"enableSystemLogQuery":                      only("false"),
		"shutdownGracePeriod":                       only(`"0s"`),
		"shutdownGracePeriodCriticalPods":           only(`"0s"`),
		"shutdownGracePeriodByPodPriority":          absent(),
		"reservedMemory":                            absent(),
		"enableDebugFlagsHandler":                   only("true", "false"),
		"memoryThrottlingFactor":                    only("0.9"),
		"memoryReservationPolicy":                   only(`"None"`),
		"tracing":                                   absent(),
		"localStorageCapacityIsolation":             only("true"),
		"userNamespaces":                            only(`{}`, `{"idsPerPod":65536}`),
	}
	for _, f := range []string{"syncFrequency", "fileCheckFrequency", "httpCheckFrequency", "volumeStatsAggPeriod", "kubeletCgroups",
		"cpuManagerReconcilePeriod", "hairpinMode", "makeIPTablesUtilChains", "iptablesMasqueradeBit", "iptablesDropBit", "volumePluginDir",
		"kernelMemcgNotification", "maxOpenFiles"} {
		out[f] = whatever
	}
	for _, f := range []string{"kind", "apiVersion", "staticPodPath", "podLogsDir", "address", "port", "tlsCertFile", "tlsPrivateKeyFile", "tlsCipherSuites",
		"tlsMinVersion", "rotateCertificates", "serverTLSBootstrap", "authentication", "authorization", "registryPullQPS", "registryBurst", "healthzPort",
		"healthzBindAddress", "oomScoreAdj", "clusterDomain", "clusterDNS", "nodeStatusUpdateFrequency", "nodeStatusReportFrequency",
		"nodeLeaseDurationSeconds", "imageMinimumGCAge", "imageMaximumGCAge", "imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "cgroupRoot",
		"cgroupDriver", "singleProcessOOMKill", "maxPods", "podPidsLimit", "resolvConf", "cpuCFSQuota", "cpuCFSQuotaPeriod", "nodeStatusMaxImages",
		"kubeAPIQPS", "kubeAPIBurst", "eventRecordQPS", "eventBurst", "imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist", "serializeImagePulls", "maxParallelImagePulls", "evictionHard", "evictionSoft", "evictionSoftGracePeriod",
		"evictionPressureTransitionPeriod", "evictionMaxPodGracePeriod", "evictionMinimumReclaim", "mergeDefaultEvictionSettings", "podsPerCore",
		"featureGates", "failSwapOn", "containerLogMaxSize", "containerLogMaxFiles", "containerLogMaxWorkers", "containerLogMonitorInterval",
		"systemReserved", "kubeReserved", "systemReservedCgroup", "kubeReservedCgroup", "enforceNodeAllocatable", "allowedUnsafeSysctls",
		"defaultPodSysctls", "providerID", "logging", "crashLoopBackOff", "enableProfilingHandler", "seccompDefault", "registerWithTaints",
		"registerNode", "enableSystemLogHandler", "containerRuntimeEndpoint", "imageServiceEndpoint", "failCgroupV1"} {
		out[f] = yes
	}
	return out
}

// unsupported names the fields whose values this kubelet cannot follow.
func unsupported(file *kubeletconfig.KubeletConfiguration) []error {
	var errs []error
	known := standings()
	v := reflect.ValueOf(file).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name == "" || v.Field(i).IsZero() {
			continue
		}
		f, ok := known[name]
		if ok && f.standing != fixed {
			continue
		}
		if err := takes(name, v.Field(i).Interface(), f.values); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, gates(file.FeatureGates)...)
	return append(errs, logging(file)...)
}

// takes says that a field has a value that is not among those taken.
func takes(name string, value any, values []string) error {
	have, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("configuration field %s: %w", name, err)
	}
	for _, text := range values {
		if text == string(have) {
			return nil
		}
	}
	if len(values) == 0 {
		return fmt.Errorf("configuration field %s is not supported by this kubelet", name)
	}
	return fmt.Errorf("configuration field %s: %s is not supported by this kubelet: it knows only %s", name, have, strings.Join(values, ", "))
}

// gates says which feature gates ask for what this kubelet does not do. Those that are listed are what it always does.
func gates(asked map[string]bool) []error {
	fixed := map[string]bool{
		"InPlacePodVerticalScaling": true, "PodObservedGenerationTracking": true, "PodReadyToStartContainersCondition": true, "KubeletFineGrainedAuthz": true,
		"ClusterTrustBundle": true, "ClusterTrustBundleProjection": true, "PodCertificateRequest": true, "SidecarContainers": true, "ContainerRestartRules": true,
		"RotateKubeletServerCertificate": true, "RotateKubeletClientCertificate": true, "ImageMaximumGCAge": true, "KubeletCrashLoopBackOffMax": true,
		"ExecProbeTimeout": true, "NodeSwap": false, "DynamicResourceAllocation": false, "UserNamespacesSupport": false, "MemoryQoS": false, "PodLevelResources": false,
		"GracefulNodeShutdown": false, "KubeletEnsureSecretPulledImages": false, "KubeletTracing": false, "PodsAPI": false, "EventedPLEG": false,
		"CPUManager": false, "MemoryManager": false, "TopologyManager": false, "DevicePlugins": false, "NodeLogQuery": false, "KubeletInUserNamespace": false,
	}
	var errs []error
	for name, want := range asked {
		switch have, ok := fixed[name]; {
		case !ok:
			errs = append(errs, fmt.Errorf("unrecognized feature gate: %s", name))
		case have != want:
			errs = append(errs, fmt.Errorf("cannot set feature gate %s to %v: in this kubelet it is always %v", name, want, have))
		}
	}
	return errs
}

func logging(file *kubeletconfig.KubeletConfiguration) []error {
	var errs []error
	if f := file.Logging.Format; f != "" && f != "text" && f != "json" {
		errs = append(errs, fmt.Errorf("configuration field logging.format: %q is not supported by this kubelet: it knows only text, json", f))
	}
	if len(file.Logging.VModule) > 0 {
		errs = append(errs, fmt.Errorf("configuration field logging.vmodule is not supported by this kubelet"))
	}
	return errs
}
