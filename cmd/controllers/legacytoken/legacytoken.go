// Package legacytoken invalidates, and later deletes, tokens of service accounts in Secrets that old clusters made by
// themselves and that nobody has used for long.
//
// It owns the label kubernetes.io/legacy-token-invalid-since. A Secret that a person made is left alone: its service
// account does not list it.
package legacytoken

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	lastUsed     = "kubernetes.io/legacy-token-last-used"
	invalidSince = "kubernetes.io/legacy-token-invalid-since"
	// tracking says since when the API server notes which tokens are used.
	tracking = "kube-apiserver-legacy-service-account-token-tracking"
	period   = 24 * time.Hour
	page     = 500
)

// Cleaner looks at all such Secrets once a day. It keeps none.
type Cleaner struct {
	root, client kubernetes.Interface
	unused       time.Duration
	accounts     corelisters.ServiceAccountLister
	pods         corelisters.PodLister
	log          *slog.Logger
	synced       []cache.InformerSynced
}

// New returns a Cleaner that has done nothing yet. It lists Secrets by root, writes by client, and takes for unused
// what was not used for so long.
func New(root, client kubernetes.Interface, unused time.Duration, shared informers.SharedInformerFactory, log *slog.Logger) *Cleaner {
	accounts, pods := shared.Core().V1().ServiceAccounts(), shared.Core().V1().Pods()
	return &Cleaner{root: root, client: client, unused: unused, accounts: accounts.Lister(), pods: pods.Lister(), log: log,
		synced: []cache.InformerSynced{accounts.Informer().HasSynced, pods.Informer().HasSynced}}
}

// Run cleans until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return ctx.Err()
	}
	for {
		if err := c.clean(ctx, time.Now().UTC()); err != nil && ctx.Err() == nil {
			c.log.Warn("clean legacy tokens", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(period):
		}
	}
}

// Step is what to do about one Secret.
type Step int

// The steps.
const (
	Keep Step = iota
	Invalidate
	Delete
)

// Decide says what to do about a token that was made by the cluster itself, which has noted uses since tracked.
func Decide(secret *corev1.Secret, tracked, now time.Time, unused time.Duration) Step {
	old := func(t time.Time) bool { return now.Sub(t) > unused }
	if !old(tracked) || !old(secret.CreationTimestamp.Time) {
		return Keep
	}
	if day, noted := secret.Labels[lastUsed]; noted {
		if used, err := time.Parse(time.DateOnly, day); err != nil || !old(used) {
			return Keep
		}
	}
	day, invalid := secret.Labels[invalidSince]
	if !invalid {
		return Invalidate
	}
	since, err := time.Parse(time.DateOnly, day)
	switch {
	case err != nil:
		return Invalidate // nobody can tell since when: from now on
	case old(since):
		return Delete
	}
	return Keep
}

func (c *Cleaner) clean(ctx context.Context, now time.Time) error {
	noted, err := c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, tracking, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read since when uses are noted: %w", err)
	}
	tracked, err := time.Parse(time.DateOnly, noted.Data["since"])
	if err != nil {
		return fmt.Errorf("read since when uses are noted: %w", err)
	}
	if now.Sub(tracked) <= c.unused {
		return nil
	}
	options := metav1.ListOptions{Limit: page, FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)}
	var errs []error
	for {
		list, err := c.root.CoreV1().Secrets("").List(ctx, options)
		if err != nil {
			return fmt.Errorf("list secrets: %w", err)
		}
		for i := range list.Items {
			errs = append(errs, c.look(ctx, &list.Items[i], tracked, now))
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return errors.Join(errs...)
		}
	}
}

func (c *Cleaner) look(ctx context.Context, secret *corev1.Secret, tracked, now time.Time) error {
	step := Decide(secret, tracked, now, c.unused)
	if step == Keep || !c.generated(secret) {
		return nil
	}
	mounted, err := c.mounted(secret)
	if mounted || err != nil {
		return err
	}
	secrets := c.client.CoreV1().Secrets(secret.Namespace)
	if step == Delete {
		err = secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}})
	} else {
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"resourceVersion":%q,"labels":{%q:%q}}}`, secret.UID, secret.ResourceVersion, invalidSince, now.Format(time.DateOnly))
		_, err = secrets.Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("clean token %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}

// generated tells whether the cluster made secret: only then does its account list it.
func (c *Cleaner) generated(secret *corev1.Secret) bool {
	account, err := c.accounts.ServiceAccounts(secret.Namespace).Get(secret.Annotations[corev1.ServiceAccountNameKey])
	return err == nil && string(account.UID) == secret.Annotations[corev1.ServiceAccountUIDKey] &&
		slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == secret.Name })
}

func (c *Cleaner) mounted(secret *corev1.Secret) (bool, error) {
	pods, err := c.pods.Pods(secret.Namespace).List(labels.Everything())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(pods, func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Secret != nil && v.Secret.SecretName == secret.Name })
	}), nil
}
