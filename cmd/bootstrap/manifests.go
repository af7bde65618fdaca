package bootstrap

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

const (
	hostPKI  = "/etc/kubernetes/pki"
	hostEtcd = "/var/lib/etcd"

	etcdClientPort  = 2379
	etcdPeerPort    = 2380
	etcdMetricsPort = 2381
	kcmPort         = 10257
	schedulerPort   = 10259

	// systemNodeCritical is the value of that priority class; a static pod
	// carries it itself, because no API server is there to look it up.
	systemNodeCritical = 2000001000
)

// component is one static pod of the control plane.
type component struct {
	name        string
	args        []string
	requests    corev1.ResourceList
	port        int
	scheme      corev1.URIScheme
	host        string
	live, ready string // paths; no readiness probe when ready is ""
	startup     string
	mounts      []mount
	annotations map[string]string
}

type mount struct {
	name, path string
	kind       corev1.HostPathType
	readOnly   bool
}

// components are the four static pods.
func components(c Config) []component {
	return []component{etcdPod(c), apiserverPod(c), controllerManagerPod(c), schedulerPod()}
}

// staticPods are the manifests by file name without extension.
func staticPods(c Config) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, comp := range components(c) {
		content, err := yaml.Marshal(comp.pod(c.image("orlop-server")))
		if err != nil {
			return nil, fmt.Errorf("encode static pod %s: %w", comp.name, err)
		}
		out[comp.name] = content
	}
	return out, nil
}

// image is the full name of one of our images.
func (c Config) image(name string) string {
	return path.Join(c.ImageRepository, name) + ":" + c.Version
}

func etcdPod(c Config) component {
	client := "https://" + addrPort(c.Address, etcdClientPort)
	peer := "https://" + addrPort(c.Address, etcdPeerPort)
	return component{
		name: "etcd",
		args: []string{
			"--name=" + c.NodeName,
			"--data-dir=" + hostEtcd,
			"--listen-client-urls=https://127.0.0.1:" + strconv.Itoa(etcdClientPort) + "," + client,
			"--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer,
			"--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=" + c.NodeName + "=" + peer,
			"--listen-metrics-urls=http://127.0.0.1:" + strconv.Itoa(etcdMetricsPort),
			"--cert-file=" + hostPKI + "/etcd/server.crt",
			"--key-file=" + hostPKI + "/etcd/server.key",
			"--trusted-ca-file=" + hostPKI + "/etcd/ca.crt",
			"--client-cert-auth=true",
			"--peer-cert-file=" + hostPKI + "/etcd/peer.crt",
			"--peer-key-file=" + hostPKI + "/etcd/peer.key",
			"--peer-trusted-ca-file=" + hostPKI + "/etcd/ca.crt",
			"--peer-client-cert-auth=true",
			"--snapshot-count=10000",
			"--feature-gates=InitialCorruptCheck=true",
			"--watch-progress-notify-interval=5s",
		},
		requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi")},
		port:     etcdMetricsPort, scheme: corev1.URISchemeHTTP, host: "127.0.0.1",
		live: "/livez", ready: "/readyz", startup: "/readyz",
		mounts: []mount{
			{"etcd-data", hostEtcd, corev1.HostPathDirectoryOrCreate, false},
			{"etcd-certs", hostPKI + "/etcd", corev1.HostPathDirectoryOrCreate, true},
		},
		annotations: map[string]string{"kubeadm.kubernetes.io/etcd.advertise-client-urls": client},
	}
}

func apiserverPod(c Config) component {
	return component{
		name: "kube-apiserver",
		args: []string{
			"--advertise-address=" + c.Address.String(),
			"--secure-port=" + strconv.Itoa(int(c.Port)),
			"--allow-privileged=true",
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--enable-bootstrap-token-auth=true",
			"--client-ca-file=" + hostPKI + "/ca.crt",
			"--tls-cert-file=" + hostPKI + "/apiserver.crt",
			"--tls-private-key-file=" + hostPKI + "/apiserver.key",
			"--kubelet-client-certificate=" + hostPKI + "/apiserver-kubelet-client.crt",
			"--kubelet-client-key=" + hostPKI + "/apiserver-kubelet-client.key",
			"--kubelet-certificate-authority=" + hostPKI + "/ca.crt",
			"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
			"--service-cluster-ip-range=" + c.ServiceCIDR.String(),
			"--service-account-issuer=https://kubernetes.default.svc." + c.Domain,
			"--service-account-key-file=" + hostPKI + "/sa.pub",
			"--service-account-signing-key-file=" + hostPKI + "/sa.key",
			"--requestheader-username-headers=X-Remote-User",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--requestheader-client-ca-file=" + hostPKI + "/front-proxy-ca.crt",
			"--requestheader-allowed-names=front-proxy-client",
			"--proxy-client-cert-file=" + hostPKI + "/front-proxy-client.crt",
			"--proxy-client-key-file=" + hostPKI + "/front-proxy-client.key",
			"--etcd-servers=https://127.0.0.1:" + strconv.Itoa(etcdClientPort),
			"--etcd-cafile=" + hostPKI + "/etcd/ca.crt",
			"--etcd-certfile=" + hostPKI + "/apiserver-etcd-client.crt",
			"--etcd-keyfile=" + hostPKI + "/apiserver-etcd-client.key",
			"--encryption-provider-config=" + hostEncryption + "/config.yaml",
			"--encryption-provider-config-automatic-reload=true",
		},
		requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")},
		port:     int(c.Port), scheme: corev1.URISchemeHTTPS, host: c.Address.String(),
		live: "/livez", ready: "/readyz", startup: "/livez",
		mounts: append([]mount{
			{"k8s-certs", hostPKI, corev1.HostPathDirectoryOrCreate, true},
			{"encryption", hostEncryption, corev1.HostPathDirectory, true},
		}, rootCAs()...),
		annotations: map[string]string{"kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint": addrPort(c.Address, int(c.Port))},
	}
}

func controllerManagerPod(c Config) component {
	kubeconfig := "/etc/kubernetes/controller-manager.conf"
	return component{
		name: "kube-controller-manager",
		args: []string{
			"--bind-address=127.0.0.1",
			"--leader-elect=true",
			"--kubeconfig=" + kubeconfig,
			"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig,
			"--client-ca-file=" + hostPKI + "/ca.crt",
			"--requestheader-client-ca-file=" + hostPKI + "/front-proxy-ca.crt",
			"--root-ca-file=" + hostPKI + "/ca.crt",
			"--service-account-private-key-file=" + hostPKI + "/sa.key",
			"--cluster-signing-cert-file=" + hostPKI + "/ca.crt",
			"--cluster-signing-key-file=" + hostPKI + "/ca.key",
			"--use-service-account-credentials=true",
			"--controllers=*,bootstrapsigner,tokencleaner",
			"--allocate-node-cidrs=true",
			"--cluster-cidr=" + c.PodCIDR.String(),
			"--service-cluster-ip-range=" + c.ServiceCIDR.String(),
			"--cluster-name=" + clusterName,
			"--local-path-image=" + c.image(agentImage),
		},
		requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")},
		port:     kcmPort, scheme: corev1.URISchemeHTTPS, host: "127.0.0.1",
		live: "/healthz", startup: "/healthz",
		mounts: append([]mount{
			{"k8s-certs", hostPKI, corev1.HostPathDirectoryOrCreate, true},
			{"kubeconfig", kubeconfig, corev1.HostPathFileOrCreate, true},
		}, rootCAs()...),
	}
}

func schedulerPod() component {
	kubeconfig := "/etc/kubernetes/scheduler.conf"
	return component{
		name: "kube-scheduler",
		args: []string{
			"--bind-address=127.0.0.1",
			"--leader-elect=true",
			"--kubeconfig=" + kubeconfig,
			"--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig,
		},
		requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
		port:     schedulerPort, scheme: corev1.URISchemeHTTPS, host: "127.0.0.1",
		live: "/livez", ready: "/readyz", startup: "/livez",
		mounts: []mount{{"kubeconfig", kubeconfig, corev1.HostPathFileOrCreate, true}},
	}
}

// rootCAs are the folders with the host's trusted authorities; /etc/ssl/certs
// alone may hold links into the others.
func rootCAs() []mount {
	mounts := []mount{{"ca-certs", "/etc/ssl/certs", corev1.HostPathDirectoryOrCreate, true}}
	for _, dir := range []string{"/etc/ca-certificates", "/etc/pki/ca-trust", "/etc/pki/tls/certs", "/usr/local/share/ca-certificates", "/usr/share/ca-certificates"} {
		if fileExists(dir) {
			name := dir[1:]
			mounts = append(mounts, mount{dashes(name), dir, corev1.HostPathDirectoryOrCreate, true})
		}
	}
	return mounts
}

func dashes(path string) string {
	out := []byte(path)
	for i, b := range out {
		if b == '/' {
			out[i] = '-'
		}
	}
	return string(out)
}

func (c component) pod(image string) *corev1.Pod {
	container := corev1.Container{
		Name:            c.name,
		Image:           image,
		ImagePullPolicy: corev1.PullIfNotPresent,
		Command:         append([]string{c.name}, c.args...),
		Ports:           []corev1.ContainerPort{{Name: "probe-port", ContainerPort: int32(c.port), Protocol: corev1.ProtocolTCP}},
		Resources:       corev1.ResourceRequirements{Requests: c.requests},
		LivenessProbe:   c.probe(c.live, 10, 10, 8),
		// A thin control plane starts in seconds; until this probe has
		// succeeded the pod does not count as ready.
		StartupProbe: c.probe(c.startup, 0, 1, 240),
	}
	if c.ready != "" {
		container.ReadinessProbe = c.probe(c.ready, 0, 1, 3)
	}
	var volumes []corev1.Volume
	for _, m := range c.mounts {
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: m.name, MountPath: m.path, ReadOnly: m.readOnly})
		volumes = append(volumes, corev1.Volume{Name: m.name, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: m.path, Type: &m.kind},
		}})
	}
	priority := int32(systemNodeCritical)
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        c.name,
			Namespace:   metav1.NamespaceSystem,
			Labels:      map[string]string{"component": c.name, "tier": "control-plane"},
			Annotations: c.annotations,
		},
		Spec: corev1.PodSpec{
			Containers:        []corev1.Container{container},
			Volumes:           volumes,
			HostNetwork:       true,
			PriorityClassName: "system-node-critical",
			Priority:          &priority,
			SecurityContext:   &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		},
	}
}

func (c component) probe(path string, delay, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Host: c.host, Path: path, Port: intstr.FromString("probe-port"), Scheme: c.scheme,
		}},
		InitialDelaySeconds: delay,
		TimeoutSeconds:      15,
		PeriodSeconds:       period,
		FailureThreshold:    failures,
	}
}

func addrPort(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }
