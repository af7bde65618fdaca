// Package trustbundle publishes the CA by which the API server is known, as the one ClusterTrustBundle of the signer
// kubernetes.io/kube-apiserver-serving: pods may mount it.
//
// The bundle's name has the CA's hash: a new CA gets a bundle of its own, and those of old ones go after it is there.
package trustbundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	certinformers "k8s.io/client-go/informers/certificates/v1"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Signer is whose bundle it is.
const Signer = "kubernetes.io/kube-apiserver-serving"

// Publisher keeps the bundle.
type Publisher struct {
	client  kubernetes.Interface
	ca      string
	bundles certlisters.ClusterTrustBundleLister
	loop    *loop.Loop
	synced  cache.InformerSynced
}

// New returns a Publisher that has done nothing yet. ca is PEM; bundles need to hold only the Signer's.
func New(client kubernetes.Interface, ca []byte, bundles certinformers.ClusterTrustBundleInformer, log *slog.Logger) (*Publisher, error) {
	p := &Publisher{client: client, ca: string(ca), bundles: bundles.Lister(), synced: bundles.Informer().HasSynced}
	p.loop = loop.New("trustbundle", p.sync, log)
	_, err := bundles.Informer().AddEventHandler(loop.On(func(b *certificatesv1.ClusterTrustBundle) {
		if b.Spec.SignerName == Signer {
			p.loop.Add(Signer)
		}
	}))
	return p, err
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	p.loop.Add(Signer)
	return p.loop.Run(ctx, 1, p.synced)
}

// name is the bundle's, by what it holds.
func (p *Publisher) name() string {
	sum := sha256.Sum256([]byte(p.ca))
	return strings.ReplaceAll(Signer, "/", ":") + ":" + hex.EncodeToString(sum[:16])
}

func (p *Publisher) sync(ctx context.Context, _ string) error {
	bundles := p.client.CertificatesV1().ClusterTrustBundles()
	current, err := p.bundles.Get(p.name())
	switch {
	case apierrors.IsNotFound(err):
		wanted := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: p.name()},
			Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: Signer, TrustBundle: p.ca}}
		if _, err = bundles.Create(ctx, wanted, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			return nil // its event comes
		}
	case err == nil && current.Spec.TrustBundle != p.ca:
		wanted := current.DeepCopy()
		wanted.Spec.TrustBundle = p.ca
		_, err = bundles.Update(ctx, wanted, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish trust bundle: %w", err)
	}
	all, err := p.bundles.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range all {
		if b.Spec.SignerName != Signer || b.Name == p.name() {
			continue
		}
		err := bundles.Delete(ctx, b.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(b.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("delete old trust bundle %s: %w", b.Name, err))
		}
	}
	return errors.Join(errs...)
}
