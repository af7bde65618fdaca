package system

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// secretsAreEncrypted looks into etcd as who stole its disk would, before and after the key is replaced.
func secretsAreEncrypted(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	const text = "correct horse battery staple"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": text}}
	if _, err := c.Client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	first := keyInEtcd(t, c, ns, text)

	mode, err := c.Exec(c.Nodes[0], "stat", "-c", "%a", "/etc/kubernetes/encryption/config.yaml")
	if err != nil || strings.TrimSpace(mode) != "600" {
		t.Errorf("the keys' file has mode %q (%v)", mode, err)
	}
	if out, err := c.Exec(c.Nodes[0], filepath.Join(c.Bin, "orlop"), "encryption", "rotate"); err != nil {
		t.Fatalf("rotate: %v\n%s", err, out)
	}
	if second := keyInEtcd(t, c, ns, text); second == first {
		t.Errorf("after the rotation the secret is still encrypted with %s", first)
	}
	got, err := c.Client.CoreV1().Secrets(ns).Get(t.Context(), "s", metav1.GetOptions{})
	if err != nil || !bytes.Equal(got.Data["k"], []byte(text)) {
		t.Errorf("the API server reads %q, %v", got.Data["k"], err)
	}
	keys, err := c.Exec(c.Nodes[0], "cat", "/etc/kubernetes/encryption/config.yaml")
	if err != nil || strings.Contains(keys, first) {
		t.Errorf("the old key %s is still there (%v)", first, err)
	}
	withoutKeys(t, c)
}

// keyInEtcd returns the name of the key that the secret s is encrypted with.
func keyInEtcd(t *testing.T, c *clustertest.Cluster, ns, text string) string {
	t.Helper()
	raw, err := c.Orlop("etcdctl", "--name", c.Name, "get", "/registry/secrets/"+ns+"/s")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(raw, text) {
		t.Fatal("the secret stands in etcd for all to read")
	}
	found := regexp.MustCompile(`k8s:enc:secretbox:v1:(key-\d{14}):`).FindStringSubmatch(raw)
	if found == nil {
		t.Fatalf("etcd has %.80q", raw)
	}
	return found[1]
}

// withoutKeys takes the configuration from the API server's command line: it must end with one clear error.
func withoutKeys(t *testing.T, c *clustertest.Cluster) {
	host := c.Nodes[0]
	const manifest, kept = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/kube-apiserver.yaml"
	replace := "cp " + manifest + " " + kept + " && grep -v encryption-provider-config " + kept + " > /etc/kubernetes/without.yaml && mv /etc/kubernetes/without.yaml " + manifest
	if _, err := c.Exec(host, "sh", "-c", replace); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := c.Exec(host, "mv", kept, manifest); err != nil {
			t.Error(err)
		}
		c.Eventually(t, 2*time.Minute, "API server to be back", func(ctx context.Context) error {
			_, err := c.Client.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
			return err
		})
	}()
	c.Eventually(t, 2*time.Minute, "API server to refuse its start", func(context.Context) error {
		logs, err := c.Exec(host, "sh", "-c", "cat /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log")
		if err == nil && !strings.Contains(logs, "etcd holds encrypted objects and no encryption configuration is given") {
			err = fmt.Errorf("its log does not say why")
		}
		return err
	})
}
