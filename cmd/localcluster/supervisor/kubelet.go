package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	kubeletConfig = "/var/lib/kubelet/config.yaml"
	kubeletFlags  = "/var/lib/kubelet/kubeadm-flags.env"
	kubeletHealth = "127.0.0.1:10248"
	// kubeletDropIns has configuration that goes over the cluster's, on this host alone.
	kubeletDropIns = "/var/lib/kubelet/config.d"
)

// localConfig lets the kubelet leave the disk alone: it is the whole machine's, and all hosts of all clusters on it would
// evict their pods because of what has nothing to do with them.
const localConfig = `# Written by orlop up at each start of the kubelet. Files with higher names go over this one.
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard:
  memory.available: 100Mi
  nodefs.available: 0%
  nodefs.inodesFree: 0%
  imagefs.available: 0%
  imagefs.inodesFree: 0%
imageGCHighThresholdPercent: 100
`

// parseFlagsEnv finds KUBELET_KUBEADM_ARGS in an environment file as systemd reads them.
func parseFlagsEnv(content string) []string {
	for line := range strings.Lines(content) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && strings.TrimSpace(name) == "KUBELET_KUBEADM_ARGS" {
			value = strings.TrimSpace(value)
			if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
				value = value[1 : n-1]
			}
			return strings.Fields(value)
		}
	}
	return nil
}

// kubeletCommand is how to start the kubelet that lies beside the orlop binary; nothing before
// the host has been configured for a cluster.
func kubeletCommand(exe string) (argv []string, err error) {
	if _, err := os.Stat(kubeletConfig); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("look for the kubelet's configuration: %w", err)
	}
	kubelet := filepath.Join(filepath.Dir(exe), "orlop-kubelet")
	if _, err := os.Stat(kubelet); err != nil {
		return nil, fmt.Errorf("find the kubelet: %w", err)
	}
	flags, err := os.ReadFile(kubeletFlags)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the kubelet's flags: %w", err)
	}
	if err := errors.Join(os.MkdirAll(kubeletDropIns, 0o755), os.WriteFile(filepath.Join(kubeletDropIns, "00-local.conf"), []byte(localConfig), 0o644)); err != nil {
		return nil, fmt.Errorf("write the host's own kubelet configuration: %w", err)
	}
	return append([]string{kubelet,
		"--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
		"--kubeconfig=/etc/kubernetes/kubelet.conf",
		"--config=" + kubeletConfig,
		"--config-dir=" + kubeletDropIns,
	}, parseFlagsEnv(string(flags))...), nil
}

func kubeletAnswers() bool {
	c, err := net.DialTimeout("tcp", kubeletHealth, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
