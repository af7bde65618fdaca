package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// flags are upstream's, as far as kubeadm, Orlop's bootstrap and operators give them on the
// command line. What both a flag and the configuration file say, the flag decides.
type flags struct {
	config, configDir                      string
	kubeconfig, bootstrap                  string
	nodeIP, hostname, providerID           string
	rootDir, certDir, manifests            string
	endpoint, imageEndpoint                string
	cgroupDriver, cgroupRoot               string
	clusterDNS                             []string
	clusterDomain, resolvConf              string
	nodeLabels                             map[string]string
	taints                                 []string
	registerNode, unschedulable            bool
	maxPods                                int32
	parallelStarts, verbosity              int
	pauseImage, nodeCgroup, kubeletCgroups string
	fields                                 *fieldValues
}

func (f *flags) register(fs *pflag.FlagSet) {
	f.fields = registerFields(fs)
	fs.StringVar(&f.config, "config", "", "file with a KubeletConfiguration (kubelet.config.k8s.io/v1beta1)")
	fs.StringVar(&f.configDir, "config-dir", "", "directory of files *.conf, each with parts of a KubeletConfiguration that go over --config in the order of their names")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "credentials for the API server; waited for if absent; without the flag there is no API server")
	fs.StringVar(&f.bootstrap, "bootstrap-kubeconfig", "", "credentials to ask for a client certificate with, used while --kubeconfig does not exist")
	fs.StringVar(&f.nodeIP, "node-ip", "", "addresses of the node, one for each IP family, separated by comma")
	fs.StringVar(&f.hostname, "hostname-override", "", "name of the node instead of the host name")
	fs.StringVar(&f.providerID, "provider-id", "", "identity of the machine at its cloud")
	fs.StringVar(&f.rootDir, "root-dir", "/var/lib/kubelet", "directory for volumes and the like")
	fs.StringVar(&f.certDir, "cert-dir", "", "directory of certificates (default <root-dir>/pki)")
	fs.StringVar(&f.manifests, "pod-manifest-path", "", "directory of static pods")
	fs.StringVar(&f.endpoint, "container-runtime-endpoint", "unix:///run/containerd/containerd.sock", "socket of the container runtime")
	fs.StringVar(&f.imageEndpoint, "image-service-endpoint", "", "socket of the image service, if it is another")
	fs.StringVar(&f.cgroupDriver, "cgroup-driver", "", "cgroupfs or systemd, as the runtime has it")
	fs.StringVar(&f.cgroupRoot, "cgroup-root", "", "cgroup above those of pods")
	fs.StringSliceVar(&f.clusterDNS, "cluster-dns", nil, "addresses of the cluster's DNS")
	fs.StringVar(&f.clusterDomain, "cluster-domain", "", "domain of the cluster")
	fs.StringVar(&f.resolvConf, "resolv-conf", "", "resolver configuration that pods get from the node")
	fs.StringToStringVar(&f.nodeLabels, "node-labels", nil, "labels of the node, as name=value,...")
	fs.StringSliceVar(&f.taints, "register-with-taints", nil, "taints of the node at registration, as key=value:effect,...")
	fs.BoolVar(&f.registerNode, "register-node", true, "register the node with the API server")
	fs.BoolVar(&f.unschedulable, "register-schedulable", true, "register the node open for pods")
	fs.Int32Var(&f.maxPods, "max-pods", 0, "pods that the node may run")
	fs.IntVar(&f.parallelStarts, "parallel-starts", 0, "sandboxes and containers to make at once (default twice the processors, at least 4)")
	fs.IntVarP(&f.verbosity, "v", "v", 0, "verbosity; from 4 on every decision is logged")
	fs.StringVar(&f.pauseImage, "pod-infra-container-image", "", "image of sandboxes, kept from garbage collection where the runtime does not tell it")
	fs.StringVar(&f.kubeletCgroups, "kubelet-cgroups", "", "accepted and not used")
	fs.StringVar(&f.nodeCgroup, "runtime-cgroups", "", "accepted and not used")
}

// parseTaint reads key[=value]:effect.
func parseTaint(s string) (v1.Taint, error) {
	key, effect, ok := strings.Cut(s, ":")
	if !ok {
		return v1.Taint{}, fmt.Errorf("taint %q is not key=value:effect", s)
	}
	t := v1.Taint{Effect: v1.TaintEffect(effect)}
	t.Key, t.Value, _ = strings.Cut(key, "=")
	switch t.Effect {
	case v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute:
	default:
		return v1.Taint{}, fmt.Errorf("taint %q: effect %q is not NoSchedule, PreferNoSchedule or NoExecute", s, effect)
	}
	if bad := validation.IsQualifiedName(t.Key); len(bad) > 0 {
		return v1.Taint{}, fmt.Errorf("taint %q: key: %s", s, strings.Join(bad, "; "))
	}
	return t, nil
}
