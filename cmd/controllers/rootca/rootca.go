// Package rootca publishes the cluster's CA in every namespace, as the ConfigMap
// kube-root-ca.crt that each pod's service account volume holds.
package rootca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Name is the ConfigMap's.
const Name = "kube-root-ca.crt"

const (
	key         = "ca.crt"
	description = "kubernetes.io/description"
	text        = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal " +
		"service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Controller syncs all namespaces.
type Controller struct {
	client     kubernetes.Interface
	ca         string
	namespaces corelisters.NamespaceLister
	maps       corelisters.ConfigMapLister
	loop       *loop.Loop
	synced     []cache.InformerSynced
}

// New returns a Controller that has done nothing yet. ca is PEM; maps need to hold only
// ConfigMaps called Name.
func New(client kubernetes.Interface, ca []byte, namespaces coreinformers.NamespaceInformer, maps coreinformers.ConfigMapInformer, log *slog.Logger) (*Controller, error) {
	c := &Controller{
		client: client, ca: string(ca), namespaces: namespaces.Lister(), maps: maps.Lister(),
		synced: []cache.InformerSynced{namespaces.Informer().HasSynced, maps.Informer().HasSynced},
	}
	c.loop = loop.New("rootca", c.sync, log)
	_, err1 := namespaces.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := maps.Informer().AddEventHandler(loop.On(func(m *corev1.ConfigMap) {
		if m.Name == Name {
			c.loop.Add(m.Namespace)
		}
	}))
	return c, errors.Join(err1, err2)
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 2, c.synced...) }

func (c *Controller) sync(ctx context.Context, namespace string) error {
	ns, err := c.namespaces.Get(namespace)
	if apierrors.IsNotFound(err) || err == nil && ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	} else if err != nil {
		return err
	}
	current, err := c.maps.ConfigMaps(namespace).Get(Name)
	switch {
	case apierrors.IsNotFound(err):
		wanted := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: Name, Annotations: map[string]string{description: text}},
			Data:       map[string]string{key: c.ca},
		}
		_, err = c.client.CoreV1().ConfigMaps(namespace).Create(ctx, wanted, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // somebody was first, or the namespace goes
		}
	case err != nil:
		return err
	case len(current.Data) == 1 && current.Data[key] == c.ca && current.Annotations[description] != "":
		return nil
	default:
		wanted := current.DeepCopy()
		wanted.Data = map[string]string{key: c.ca}
		metav1.SetMetaDataAnnotation(&wanted.ObjectMeta, description, text)
		_, err = c.client.CoreV1().ConfigMaps(namespace).Update(ctx, wanted, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap: %w", err)
	}
	return nil
}
