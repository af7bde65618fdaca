package bootstrap

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const clusterName = "kubernetes"

// kubeconfigFile is one kubeconfig with a client certificate of its own.
type kubeconfigFile struct {
	name   string
	user   string
	org    []string
	server string
}

// kubeconfigs lists those of a control plane node. Controller manager and
// scheduler talk to the API server beside them, so that a node whose balancer
// is away still works.
func kubeconfigs(c Config) []kubeconfigFile {
	return []kubeconfigFile{
		{"admin.conf", "kubernetes-admin", []string{"kubeadm:cluster-admins"}, c.server()},
		{"super-admin.conf", "kubernetes-super-admin", []string{"system:masters"}, c.server()},
		{"kubelet.conf", "system:node:" + c.NodeName, []string{"system:nodes"}, c.server()},
		{"controller-manager.conf", "system:kube-controller-manager", nil, c.localServer()},
		{"scheduler.conf", "system:kube-scheduler", nil, c.localServer()},
	}
}

// ensureKubeconfigs writes the missing ones; an existing one must belong to
// the same authority.
func ensureKubeconfigs(p Paths, c Config, ca identity, now time.Time) error {
	for _, f := range kubeconfigs(c) {
		path := p.kubernetes(f.name)
		have, err := clientcmd.LoadFromFile(path)
		switch {
		case err == nil:
			if err := checkKubeconfig(path, have, ca.cert); err != nil {
				return err
			}
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("read %s: %w", path, err)
		}
		id, err := issue(leaf{cn: f.user, org: f.org, usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, now)
		if err != nil {
			return fmt.Errorf("make client certificate of %s: %w", f.name, err)
		}
		key, err := id.keyPEM()
		if err != nil {
			return err
		}
		auth := &clientcmdapi.AuthInfo{ClientCertificateData: id.certPEM(), ClientKeyData: key}
		if f.name == "kubelet.conf" {
			if auth, err = kubeletIdentity(p, id.certPEM(), key, now); err != nil {
				return err
			}
		}
		if err := writeKubeconfig(path, f.server, ca.certPEM(), f.user, auth); err != nil {
			return err
		}
	}
	return nil
}

// kubeletIdentity keeps a kubelet's client certificate where kubelets keep what they were signed, and gives its user: from
// there on the kubelet renews it by itself.
func kubeletIdentity(p Paths, cert, key []byte, now time.Time) (*clientcmdapi.AuthInfo, error) {
	const current = "pki/kubelet-client-current.pem"
	file := "kubelet-client-" + now.UTC().Format("2006-01-02-15-04-05") + ".pem"
	if err := writeFile(p.kubelet("pki/"+file), slices.Concat(cert, key), 0o600); err != nil {
		return nil, err
	}
	if err := os.Remove(p.kubelet(current)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.Symlink(file, p.kubelet(current)); err != nil {
		return nil, fmt.Errorf("name the kubelet's client certificate: %w", err)
	}
	return &clientcmdapi.AuthInfo{ClientCertificate: p.kubelet(current), ClientKey: p.kubelet(current)}, nil
}

func checkKubeconfig(path string, have *clientcmdapi.Config, ca *x509.Certificate) error {
	ctx := have.Contexts[have.CurrentContext]
	if ctx == nil || have.Clusters[ctx.Cluster] == nil {
		return fmt.Errorf("%s has no current context: move it away to have it made anew", path)
	}
	block, _ := pem.Decode(have.Clusters[ctx.Cluster].CertificateAuthorityData)
	if block == nil || string(block.Bytes) != string(ca.Raw) {
		return fmt.Errorf("%s trusts another authority than %s: move it away to have it made anew", path, ca.Subject.CommonName)
	}
	return nil
}

func writeKubeconfig(path, server string, ca []byte, user string, auth *clientcmdapi.AuthInfo) error {
	content, err := clientcmd.Write(*kubeconfig(server, ca, user, auth))
	if err != nil {
		return err
	}
	return writeFile(path, content, 0o600)
}

func kubeconfig(server string, ca []byte, user string, auth *clientcmdapi.AuthInfo) *clientcmdapi.Config {
	k := clientcmdapi.NewConfig()
	k.Clusters[clusterName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	if user == "" {
		return k
	}
	context := user + "@" + clusterName
	k.AuthInfos[user] = auth
	k.Contexts[context] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: user}
	k.CurrentContext = context
	return k
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
