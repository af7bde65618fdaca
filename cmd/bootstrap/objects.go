package bootstrap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/yaml"

	staticmanifests "github.com/orlop-io/orlop/static-manifests"
)

const (
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
	noBalancerLabel   = "node.kubernetes.io/exclude-from-external-load-balancers"
	fieldManager      = "orlop"
)

// clusterObjects are all objects that init makes. Equal configs give equal
// objects, but for the token's end.
func clusterObjects(c Config, ca []byte, now time.Time) ([]*unstructured.Unstructured, error) {
	var objs []*unstructured.Unstructured
	for _, dir := range slices.Concat([]string{"bootstrap"}, c.agentManifests(), []string{"addons"}) {
		found, err := readManifests(staticmanifests.Files, dir)
		if err != nil {
			return nil, err
		}
		objs = append(objs, found...)
	}
	for _, o := range objs {
		fillIn(o, c)
	}
	own, err := configMaps(c, ca)
	if err != nil {
		return nil, err
	}
	var typed []runtime.Object
	for _, cm := range own {
		typed = append(typed, cm)
	}
	if c.Token != "" {
		var expires time.Time
		if c.TokenTTL > 0 {
			expires = now.Add(c.TokenTTL)
		}
		typed = append(typed, tokenSecret(c.Token, "made by orlop init", expires))
	}
	for _, obj := range typed {
		raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		if err != nil {
			return nil, err
		}
		objs = append(objs, &unstructured.Unstructured{Object: raw})
	}
	return objs, nil
}

// readManifests decodes every YAML document of a file or below a folder, in the files' order.
func readManifests(files fs.FS, dir string) ([]*unstructured.Unstructured, error) {
	var objs []*unstructured.Unstructured
	err := fs.WalkDir(files, dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, "kustomization.yaml") {
			return err
		}
		content, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
		for {
			o := &unstructured.Unstructured{}
			if err := dec.Decode(&o.Object); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("decode %s: %w", path, err)
			}
			if len(o.Object) > 0 {
				objs = append(objs, o)
			}
		}
	})
	return objs, err
}

// fillIn sets in o what depends on the cluster: image names, the address of
// the DNS Service, the cluster's domain, the pod network, the agent's proxy mode.
func fillIn(o *unstructured.Unstructured, c Config) {
	walkStrings(o.Object, func(key, s string) string {
		if name, ok := strings.CutPrefix(s, "localhost/"); ok && key == "image" {
			return c.image(strings.TrimSuffix(name, ":dev"))
		}
		s = strings.ReplaceAll(s, "cluster.local", c.Domain)
		return strings.ReplaceAll(s, "10.244.0.0/16", c.PodCIDR.String())
	})
	if o.GetKind() == "DaemonSet" && o.GetName() == "orlop-agent" && c.ProxyMode != "" {
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		agent := containers[0].(map[string]any)
		agent["args"] = append(agent["args"].([]any), "--proxy-mode="+c.ProxyMode)
		_ = unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers")
	}
	if o.GetKind() == "Service" && o.GetName() == "kube-dns" {
		// The path exists in the manifest, so this cannot fail.
		_ = unstructured.SetNestedField(o.Object, c.dnsAddress().String(), "spec", "clusterIP")
	}
}

func walkStrings(v any, edit func(key, s string) string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if s, ok := e.(string); ok {
				v[k] = edit(k, s)
			} else {
				walkStrings(e, edit)
			}
		}
	case []any:
		for i, e := range v {
			if s, ok := e.(string); ok {
				v[i] = edit("", s)
			} else {
				walkStrings(e, edit)
			}
		}
	}
}

func configMaps(c Config, ca []byte) ([]*corev1.ConfigMap, error) {
	info, err := clientcmd.Write(*anonymousKubeconfig(c.server(), ca))
	if err != nil {
		return nil, err
	}
	kubelet, err := yaml.Marshal(kubeletConfiguration(c))
	if err != nil {
		return nil, err
	}
	cluster, err := yaml.Marshal(clusterConfiguration(c))
	if err != nil {
		return nil, err
	}
	agent, err := clientcmd.Write(*agentKubeconfig(c.server()))
	if err != nil {
		return nil, err
	}
	maps := []struct{ namespace, name, key, value string }{
		{metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo, bootstrapapi.KubeConfigKey, string(info)},
		{metav1.NamespaceSystem, "kubelet-config", "kubelet", string(kubelet)},
		{metav1.NamespaceSystem, "kubeadm-config", "ClusterConfiguration", string(cluster)},
		{metav1.NamespaceSystem, "orlop-agent", "kubeconfig.conf", string(agent)},
	}
	var out []*corev1.ConfigMap
	for _, m := range maps {
		out = append(out, &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: m.namespace, Name: m.name},
			Data:       map[string]string{m.key: m.value},
		})
	}
	return out, nil
}

// anonymousKubeconfig names the cluster and nobody: what a host that wants to
// join may read.
func anonymousKubeconfig(server string, ca []byte) *clientcmdapi.Config {
	k := clientcmdapi.NewConfig()
	k.Clusters[""] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	return k
}

// agentKubeconfig reaches the API server at its own address: the Service
// `kubernetes` works only once the agent does.
func agentKubeconfig(server string) *clientcmdapi.Config {
	const tokens = "/var/run/secrets/kubernetes.io/serviceaccount/"
	k := clientcmdapi.NewConfig()
	k.Clusters["default"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: tokens + "ca.crt"}
	k.AuthInfos["default"] = &clientcmdapi.AuthInfo{TokenFile: tokens + "token"}
	k.Contexts["default"] = &clientcmdapi.Context{Cluster: "default", AuthInfo: "default", Namespace: "default"}
	k.CurrentContext = "default"
	return k
}

// clusterConfiguration is what tools that know kubeadm read of a cluster.
func clusterConfiguration(c Config) map[string]any {
	return map[string]any{
		"apiVersion":           "kubeadm.k8s.io/v1beta4",
		"kind":                 "ClusterConfiguration",
		"clusterName":          clusterName,
		"certificatesDir":      hostPKI,
		"imageRepository":      c.ImageRepository,
		"controlPlaneEndpoint": c.Endpoint,
		"networking": map[string]any{
			"dnsDomain": c.Domain, "podSubnet": c.PodCIDR.String(), "serviceSubnet": c.ServiceCIDR.String(),
		},
	}
}

// applyAll applies the objects side by side and converges: what the API server
// cannot take yet (it is still starting) is tried again until ctx ends; what it
// refuses for good is told at once.
func applyAll(ctx context.Context, client dynamic.Interface, objs []*unstructured.Unstructured) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, o := range objs {
		group.Go(func() error {
			what := strings.TrimPrefix(o.GetNamespace()+"/", "/") + o.GetName()
			var final error
			err := waitFor(ctx, 200*time.Millisecond, "API server to take "+o.GetKind()+" "+what, func(ctx context.Context) error {
				err := apply(ctx, client, o)
				if (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)) && !aboutAddress(err) {
					final = fmt.Errorf("apply %s %s: %w", o.GetKind(), what, err)
					return nil
				}
				return err
			})
			return errors.Join(final, err)
		})
	}
	return group.Wait()
}

// aboutAddress says whether a Service was refused for its cluster IP. That passes: where an earlier try was cut off, its
// address is taken until the API server has given it back.
func aboutAddress(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "spec.clusterIPs" })
}

func apply(ctx context.Context, client dynamic.Interface, o *unstructured.Unstructured) error {
	// All kinds in our manifests have regular plurals.
	gvr, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	var r dynamic.ResourceInterface = client.Resource(gvr)
	if ns := o.GetNamespace(); ns != "" {
		r = client.Resource(gvr).Namespace(ns)
	}
	_, err := r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// markControlPlane labels the node, and taints it unless it also runs ordinary pods.
func markControlPlane(ctx context.Context, client kubernetes.Interface, c Config) error {
	return waitFor(ctx, 50*time.Millisecond, "node "+c.NodeName+" to register and be marked", func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, c.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		metadata := map[string]any{"labels": map[string]string{controlPlaneLabel: "", noBalancerLabel: ""}}
		patch := map[string]any{"metadata": metadata}
		taint := corev1.Taint{Key: controlPlaneLabel, Effect: corev1.TaintEffectNoSchedule}
		if !c.Untainted && !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
			// The whole list travels, so the version guards against another writer.
			metadata["resourceVersion"] = node.ResourceVersion
			patch["spec"] = map[string]any{"taints": append(node.Spec.Taints, taint)}
		}
		content, err := json.Marshal(patch)
		if err != nil {
			return err
		}
		_, err = client.CoreV1().Nodes().Patch(ctx, c.NodeName, types.MergePatchType, content, metav1.PatchOptions{FieldManager: fieldManager})
		return err
	})
}
