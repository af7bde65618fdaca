// Package bootstraptoken signs the public cluster-info ConfigMap with every bootstrap
// token, so that a node that knows a token can trust it, and deletes tokens that have expired.
package bootstraptoken

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"k8s.io/cluster-bootstrap/util/secrets"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

const infoKey = metav1.NamespacePublic + "/" + api.ConfigMapClusterInfo

// Signer keeps the signatures.
type Signer struct {
	client  kubernetes.Interface
	maps    corelisters.ConfigMapLister
	secrets corelisters.SecretLister
	loop    *loop.Loop
	synced  []cache.InformerSynced
}

// NewSigner returns a Signer that has done nothing yet. tokens need to hold only bootstrap tokens, infos only cluster-info.
func NewSigner(client kubernetes.Interface, infos coreinformers.ConfigMapInformer, tokens coreinformers.SecretInformer, log *slog.Logger) (*Signer, error) {
	s := &Signer{
		client: client, maps: infos.Lister(), secrets: tokens.Lister(),
		synced: []cache.InformerSynced{infos.Informer().HasSynced, tokens.Informer().HasSynced},
	}
	s.loop = loop.New("bootstrapsigner", s.sync, log)
	_, err1 := infos.Informer().AddEventHandler(loop.On(func(*corev1.ConfigMap) { s.loop.Add(infoKey) }))
	_, err2 := tokens.Informer().AddEventHandler(loop.On(func(*corev1.Secret) { s.loop.Add(infoKey) }))
	return s, errors.Join(err1, err2)
}

// Run signs until ctx ends.
func (s *Signer) Run(ctx context.Context) error { return s.loop.Run(ctx, 1, s.synced...) }

func (s *Signer) sync(ctx context.Context, _ string) error {
	info, err := s.maps.ConfigMaps(metav1.NamespacePublic).Get(api.ConfigMapClusterInfo)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	tokens, err := s.secrets.Secrets(metav1.NamespaceSystem).List(labels.Everything())
	if err != nil {
		return err
	}
	data, err := Signed(info.Data, tokens, time.Now())
	if err != nil || maps.Equal(data, info.Data) {
		return err
	}
	changed := info.DeepCopy()
	changed.Data = data
	if _, err := s.client.CoreV1().ConfigMaps(metav1.NamespacePublic).Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write signatures: %w", err)
	}
	return nil
}

// Signed returns data with one signature of its kubeconfig for each token that may sign at now.
func Signed(data map[string]string, tokens []*corev1.Secret, now time.Time) (map[string]string, error) {
	result := map[string]string{}
	for k, v := range data {
		if !strings.HasPrefix(k, api.JWSSignatureKeyPrefix) {
			result[k] = v
		}
	}
	content, ok := data[api.KubeConfigKey]
	if !ok {
		return result, nil
	}
	for _, token := range tokens {
		id, secret, ok := usable(token, now)
		if !ok {
			continue
		}
		signature, err := jws.ComputeDetachedSignature(content, id, secret)
		if err != nil {
			return nil, fmt.Errorf("sign cluster-info with token %s: %w", id, err)
		}
		key := api.JWSSignatureKeyPrefix + id
		if old := data[key]; old != "" && jws.DetachedTokenIsValid(old, content, id, secret) {
			signature = old
		}
		result[key] = signature
	}
	return result, nil
}

func usable(token *corev1.Secret, now time.Time) (id, secret string, ok bool) {
	if token.Type != corev1.SecretTypeBootstrapToken || token.DeletionTimestamp != nil || secrets.HasExpired(token, now) {
		return "", "", false
	}
	named, ok := secrets.ParseName(token.Name)
	id, secret = secrets.GetData(token, api.BootstrapTokenIDKey), secrets.GetData(token, api.BootstrapTokenSecretKey)
	if !ok || id != named || secret == "" || secrets.GetData(token, api.BootstrapTokenUsageSigningKey) != "true" {
		return "", "", false
	}
	return id, secret, true
}

// Cleaner deletes expired tokens.
type Cleaner struct {
	client  kubernetes.Interface
	secrets corelisters.SecretLister
	loop    *loop.Loop
	synced  cache.InformerSynced
}

// NewCleaner returns a Cleaner that has done nothing yet.
func NewCleaner(client kubernetes.Interface, tokens coreinformers.SecretInformer, log *slog.Logger) (*Cleaner, error) {
	c := &Cleaner{client: client, secrets: tokens.Lister(), synced: tokens.Informer().HasSynced}
	c.loop = loop.New("tokencleaner", c.sync, log)
	_, err := tokens.Informer().AddEventHandler(c.loop.Handler())
	return c, err
}

// Run deletes until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced) }

func (c *Cleaner) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	token, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (token.Type != corev1.SecretTypeBootstrapToken || namespace != metav1.NamespaceSystem) {
		return nil
	} else if err != nil {
		return err
	}
	left, expired := secrets.GetExpiration(token, time.Now())
	if !expired {
		if left > 0 {
			c.loop.AddAfter(key, left+time.Millisecond)
		}
		return nil
	}
	// Somebody may have given it longer, which the cache does not show yet.
	err = c.client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &token.UID, ResourceVersion: &token.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete expired token: %w", err)
	}
	return nil
}
