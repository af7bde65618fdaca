package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// trustName is the ConfigMap in kube-system from which extension API servers learn whom to believe.
const trustName = "extension-apiserver-authentication"

// Trust is what extension API servers need for authenticating requests that come through this server.
type Trust struct {
	// ClientCA returns the present PEM bundle for client certificates; nil means none.
	ClientCA func() []byte
	// ProxyCA returns the present PEM bundle for front proxies; nil means none, and then the rest is not published.
	ProxyCA         func() []byte
	UsernameHeaders []string
	UIDHeaders      []string
	GroupHeaders    []string
	ExtraPrefixes   []string
	AllowedNames    []string
}

func (t Trust) data() (map[string]string, error) {
	out := map[string]string{}
	if t.ClientCA != nil {
		out["client-ca-file"] = string(t.ClientCA())
	}
	if t.ProxyCA == nil {
		return out, nil
	}
	out["requestheader-client-ca-file"] = string(t.ProxyCA())
	for key, list := range map[string][]string{
		"requestheader-username-headers":     t.UsernameHeaders,
		"requestheader-uid-headers":          t.UIDHeaders,
		"requestheader-group-headers":        t.GroupHeaders,
		"requestheader-extra-headers-prefix": t.ExtraPrefixes,
		"requestheader-allowed-names":        t.AllowedNames,
	} {
		if list == nil {
			list = []string{}
		}
		b, err := json.Marshal(list)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", key, err)
		}
		out[key] = string(b)
	}
	return out, nil
}

// EnsureTrust writes t into its ConfigMap where it differs. It is to be called again from time to time: CA files change.
func EnsureTrust(ctx context.Context, client kubernetes.Interface, t Trust) error {
	data, err := t.data()
	if err != nil {
		return err
	}
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := maps.Get(ctx, trustName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: trustName, Namespace: metav1.NamespaceSystem}, Data: data}, metav1.CreateOptions{})
		return existing("create config map "+trustName, err)
	}
	if err != nil {
		return fmt.Errorf("get config map %s: %w", trustName, err)
	}
	if !differs(have.Data, data) {
		return nil
	}
	have = have.DeepCopy()
	have.Data = data
	if _, err := maps.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update config map %s: %w", trustName, err)
	}
	return nil
}

func differs(a, b map[string]string) bool { return !maps.Equal(a, b) }
