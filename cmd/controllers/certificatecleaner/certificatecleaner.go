// Package certificatecleaner deletes PodCertificateRequests: a kubelet that made one has its answer within minutes, or
// has given up and will make another.
package certificatecleaner

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// life is how long a request is kept, whatever became of it.
	life = 15 * time.Minute
	// period is the time between looks.
	period = 5 * time.Minute
	page   = 500
)

// Cleaner looks at all requests now and then. It keeps none.
type Cleaner struct {
	client kubernetes.Interface
	log    *slog.Logger
}

// New returns a Cleaner that has done nothing yet.
func New(client kubernetes.Interface, log *slog.Logger) *Cleaner { return &Cleaner{client, log} }

// Run cleans until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error {
	for {
		if err := c.clean(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.log.Warn("clean pod certificate requests", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(period):
		}
	}
}

func (c *Cleaner) clean(ctx context.Context, now time.Time) error {
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := c.client.CertificatesV1().PodCertificateRequests("").List(ctx, options)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		for i := range list.Items {
			r := &list.Items[i]
			if now.Sub(r.CreationTimestamp.Time) < life {
				continue
			}
			err := c.client.CertificatesV1().PodCertificateRequests(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return fmt.Errorf("delete %s/%s: %w", r.Namespace, r.Name, err)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return nil
		}
	}
}
