package bootstrap

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

const (
	kubeletHealthzAddress = "127.0.0.1:10248"
	kubeletHealthz        = "http://" + kubeletHealthzAddress + "/healthz"
)

// kubeletConfiguration is what every node of the cluster shares; it is also
// kept in ConfigMap kube-system/kubelet-config, for those who join.
func kubeletConfiguration(c Config) *kubeletconfig.KubeletConfiguration {
	yes, no := true, false
	readOnlyPort := int32(0)
	healthzPort := int32(10248)
	return &kubeletconfig.KubeletConfiguration{
		TypeMeta:                 metav1.TypeMeta{APIVersion: kubeletconfig.SchemeGroupVersion.String(), Kind: "KubeletConfiguration"},
		StaticPodPath:            "/etc/kubernetes/manifests",
		ClusterDNS:               []string{c.dnsAddress().String()},
		ClusterDomain:            c.Domain,
		CgroupDriver:             "cgroupfs",
		ReadOnlyPort:             readOnlyPort,
		HealthzPort:              &healthzPort,
		HealthzBindAddress:       "127.0.0.1",
		RotateCertificates:       true,
		ServerTLSBootstrap:       true,
		ContainerRuntimeEndpoint: c.CRISocket,
		Authentication: kubeletconfig.KubeletAuthentication{
			X509:      kubeletconfig.KubeletX509Authentication{ClientCAFile: hostPKI + "/ca.crt"},
			Webhook:   kubeletconfig.KubeletWebhookAuthentication{Enabled: &yes},
			Anonymous: kubeletconfig.KubeletAnonymousAuthentication{Enabled: &no},
		},
		Authorization: kubeletconfig.KubeletAuthorization{Mode: kubeletconfig.KubeletAuthorizationModeWebhook},
	}
}

// nodeKubelet is what differs from node to node.
type nodeKubelet struct {
	name      string // "" is the host's own name
	ip        string
	criSocket string
	systemd   bool // systemd owns the cgroup tree
	taint     bool
}

// writeKubelet writes the kubelet's two files. config.yaml comes last: it is
// what the kubelet's supervisor waits for.
func writeKubelet(p Paths, shared *kubeletconfig.KubeletConfiguration, n nodeKubelet) error {
	cfg := shared.DeepCopy()
	if n.systemd {
		cfg.CgroupDriver = "systemd"
	}
	cfg.ContainerRuntimeEndpoint = n.criSocket
	content, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	args := []string{"--node-ip=" + n.ip}
	if n.name != defaultNodeName() {
		args = append(args, "--hostname-override="+n.name)
	}
	if n.taint {
		args = append(args, "--register-with-taints=node-role.kubernetes.io/control-plane:NoSchedule")
	}
	env := fmt.Sprintf("KUBELET_KUBEADM_ARGS=%q\n", strings.Join(args, " "))
	if err := writeFile(p.kubelet("kubeadm-flags.env"), []byte(env), 0o644); err != nil {
		return err
	}
	return writeFile(p.kubelet("config.yaml"), content, 0o644)
}

const unitPath = "/etc/systemd/system/kubelet.service"

// unit is the systemd unit of the kubelet. Killing it must not kill pods
// (KillMode), and pods' cgroups are the kubelet's business (Delegate).
func unit(program string) string {
	return `[Unit]
Description=Orlop kubelet: the pods of this node
Documentation=https://github.com/orlop-io/orlop
Wants=network-online.target
After=network-online.target containerd.service

[Service]
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=` + program + ` --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=1
KillMode=process
Delegate=yes
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
`
}

// systemdRuns says whether systemd is the host's init, as sd_booted(3) does.
func systemdRuns() bool { return fileExists("/run/systemd/system") }

// startKubelet has systemd run the kubelet. Without systemd whoever supervises
// the host starts it when config.yaml appears.
func startKubelet(ctx context.Context, out io.Writer, program string) error {
	if !systemdRuns() {
		say(out, "kubelet-start", "No systemd here: waiting for the host's supervisor to run "+program)
		return nil
	}
	if err := writeFile(unitPath, []byte(unit(program)), 0o644); err != nil {
		return err
	}
	say(out, "kubelet-start", "Starting the kubelet through "+unitPath)
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "kubelet.service"}, {"restart", "kubelet.service"}} {
		if msg, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(msg)))
		}
	}
	return nil
}

// waitKubelet waits until the kubelet says that it is healthy.
func waitKubelet(ctx context.Context) error {
	return waitFor(ctx, 50*time.Millisecond, "kubelet at "+kubeletHealthz+" (see its log: journalctl -u kubelet)", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, kubeletHealthz, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", resp.Status)
		}
		return nil
	})
}

// waitFor tries check until it succeeds or ctx ends; then it tells what it
// waited for and the last reason.
func waitFor(ctx context.Context, every time.Duration, what string, check func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := check(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return &ExitError{Code: 4, Err: fmt.Errorf("wait for %s: %w (last: %v)", what, context.Cause(ctx), err)}
		case <-tick.C:
		}
	}
}
