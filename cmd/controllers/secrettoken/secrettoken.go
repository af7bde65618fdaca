// Package secrettoken fills Secrets of type kubernetes.io/service-account-token, and deletes
// those whose service account is gone.
//
// Such a Secret is made by hand, for what cannot ask for tokens that end. None is made here.
package secrettoken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller keeps all Secrets with tokens.
type Controller struct {
	client   kubernetes.Interface
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister
	signer   *Signer
	ca       []byte
	loop     *loop.Loop
	synced   []cache.InformerSynced
}

// New returns a Controller that has done nothing yet. secrets must hold Secrets with tokens only;
// ca, where there is one, is told to whoever uses a token.
func New(client kubernetes.Interface, secrets coreinformers.SecretInformer, accounts coreinformers.ServiceAccountInformer, signer *Signer, ca []byte, log *slog.Logger) (*Controller, error) {
	c := &Controller{
		client: client, secrets: secrets.Lister(), accounts: accounts.Lister(), signer: signer, ca: ca,
		synced: []cache.InformerSynced{secrets.Informer().HasSynced, accounts.Informer().HasSynced},
	}
	c.loop = loop.New("serviceaccount-token", c.sync, log)
	_, err1 := secrets.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := accounts.Informer().AddEventHandler(loop.On(func(account *corev1.ServiceAccount) {
		all, err := c.secrets.Secrets(account.Namespace).List(labels.Everything())
		if err != nil {
			return
		}
		for _, s := range all {
			if s.Annotations[corev1.ServiceAccountNameKey] == account.Name {
				c.loop.AddObject(s)
			}
		}
	}))
	return c, errors.Join(err1, err2)
}

// Run fills and deletes until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 2, c.synced...) }

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	secret, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (secret.DeletionTimestamp != nil || secret.Type != corev1.SecretTypeServiceAccountToken) {
		return nil
	} else if err != nil {
		return err
	}
	// The cache may lag: a Secret must not be deleted for an account that is only not yet seen.
	account, err := c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, secret.Annotations[corev1.ServiceAccountNameKey], metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read service account: %w", err)
	}
	if uid := secret.Annotations[corev1.ServiceAccountUIDKey]; err != nil || uid != "" && uid != string(account.UID) {
		err := c.client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion},
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete secret of a service account that is gone: %w", err)
		}
		return nil
	}
	filled, err := c.fill(secret, account)
	if err != nil || filled == nil {
		return err
	}
	if _, err := c.client.CoreV1().Secrets(namespace).Update(ctx, filled, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("fill secret: %w", err)
	}
	return nil
}

// fill returns secret with what it lacks; nil where it lacks nothing. A token that is there stays.
func (c *Controller) fill(secret *corev1.Secret, account *corev1.ServiceAccount) (*corev1.Secret, error) {
	want := map[string][]byte{corev1.ServiceAccountNamespaceKey: []byte(secret.Namespace)}
	if len(c.ca) > 0 {
		want[corev1.ServiceAccountRootCAKey] = c.ca
	}
	if token := secret.Data[corev1.ServiceAccountTokenKey]; len(token) > 0 {
		want[corev1.ServiceAccountTokenKey] = token
	}
	has := func(key string) bool { return bytes.Equal(secret.Data[key], want[key]) && want[key] != nil }
	whole := has(corev1.ServiceAccountTokenKey) && has(corev1.ServiceAccountNamespaceKey) && (len(c.ca) == 0 || has(corev1.ServiceAccountRootCAKey))
	if whole && secret.Annotations[corev1.ServiceAccountUIDKey] == string(account.UID) {
		return nil, nil
	}
	if want[corev1.ServiceAccountTokenKey] == nil {
		token, err := c.signer.sign(account, secret.Name)
		if err != nil {
			return nil, err
		}
		want[corev1.ServiceAccountTokenKey] = token
	}
	filled := secret.DeepCopy()
	if filled.Data == nil {
		filled.Data = map[string][]byte{}
	}
	maps.Copy(filled.Data, want)
	filled.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	return filled, nil
}
