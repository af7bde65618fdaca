package kubeletclient

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestKubelet(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "host"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"},
	}}}
	for _, tt := range []struct {
		name  string
		types []corev1.NodeAddressType
		port  int32
		want  string
		err   string
	}{
		{name: "first of the preferred type", types: []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName}, want: "[fd00::1]:10250"},
		{name: "the node's own port", types: []corev1.NodeAddressType{corev1.NodeHostName}, port: 1250, want: "host:1250"},
		{name: "none of the types", types: []corev1.NodeAddressType{corev1.NodeExternalIP}, err: "no preferred addresses found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Config{AddressTypes: tt.types}, func(context.Context, string) (*corev1.Node, error) {
				n := node.DeepCopy()
				n.Status.DaemonEndpoints.KubeletEndpoint.Port = tt.port
				return n, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			k, err := c.Kubelet(t.Context(), "n")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || k.Host != tt.want {
				t.Errorf("got %q, %v, want %q", k.Host, err, tt.want)
			}
		})
	}
}
