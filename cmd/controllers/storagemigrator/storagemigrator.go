// Package storagemigrator writes stored objects anew for StorageVersionMigrations (KEP-4192): with the version, and the key, that the API
// server stores their resource with now. Each object gets a patch that changes nothing; the API server stores it where the bytes differ.
package storagemigrator

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/storagemigration/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

const (
	manager = "storage-version-migrator-controller"
	// page is how many objects are listed at once.
	page = 500
	// Reasons of the conditions Running, Succeeded and Failed.
	inProgress, succeeded, failed = "StorageVersionMigrationInProgress", "StorageVersionMigrationSucceeded", "StorageVersionMigrationFailed"
)

// Controller watches all migrations, and does one after the other.
type Controller struct {
	client     kubernetes.Interface
	objects    metadata.Interface
	mapper     meta.ResettableRESTMapper
	migrations listers.StorageVersionMigrationLister
	loop       *loop.Loop
	synced     cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, objects metadata.Interface, mapper meta.ResettableRESTMapper, shared informers.SharedInformerFactory, log *slog.Logger) (*Controller, error) {
	migrations := shared.Storagemigration().V1().StorageVersionMigrations()
	c := &Controller{client: client, objects: objects, mapper: mapper, migrations: migrations.Lister(), synced: migrations.Informer().HasSynced}
	c.loop = loop.New("storage-version-migrator", c.sync, log)
	_, err := migrations.Informer().AddEventHandler(c.loop.Handler())
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced) }

// sync does a migration as far as it goes. One that was cut off begins again: what it wrote is newer than its resource version.
func (c *Controller) sync(ctx context.Context, name string) error {
	m, err := c.migrations.Get(name)
	if apierrors.IsNotFound(err) || err == nil && (m.DeletionTimestamp != nil || ended(m)) {
		return nil
	}
	if err != nil {
		return err
	}
	of, err := c.find(m.Spec.Resource)
	if meta.IsNoMatchError(err) {
		return c.end(ctx, m, fmt.Errorf("there is no resource %s", m.Spec.Resource.String()))
	}
	if err != nil {
		return fmt.Errorf("look up resource %s: %w", m.Spec.Resource.String(), err)
	}
	if m.Status.ResourceVersion == "" {
		return c.begin(ctx, m, of)
	}
	err = c.migrate(ctx, of, m.Status.ResourceVersion)
	if err != nil && !final(err) {
		return err
	}
	return c.end(ctx, m, err)
}

// kind is a resource with the kind of its objects.
type kind struct {
	resource schema.GroupVersionResource
	schema.GroupVersionKind
}

func (c *Controller) find(r metav1.GroupResource) (kind, error) {
	partial := schema.GroupVersionResource{Group: r.Group, Resource: r.Resource}
	resource, err := c.mapper.ResourceFor(partial)
	if meta.IsNoMatchError(err) { // it may be new
		c.mapper.Reset()
		resource, err = c.mapper.ResourceFor(partial)
	}
	if err == nil && (resource.Group != r.Group || resource.Resource != r.Resource) { // the mapper takes beginnings of names, too
		err = &meta.NoResourceMatchError{PartialResource: partial}
	}
	if err != nil {
		return kind{}, err
	}
	of, err := c.mapper.KindFor(resource)
	return kind{resource, of}, err
}

// begin writes down from when on all that is stored is right, so that it need not be written again.
func (c *Controller) begin(ctx context.Context, m *migrationv1.StorageVersionMigration, of kind) error {
	list, err := c.objects.Resource(of.resource).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		err = fmt.Errorf("list %s: %w", m.Spec.Resource.String(), err)
	}
	if apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err) {
		return c.end(ctx, m, err)
	}
	if err != nil {
		return err
	}
	m = m.DeepCopy()
	m.Status.ResourceVersion = list.ResourceVersion
	set(m, migrationv1.MigrationRunning, metav1.ConditionTrue, inProgress, "")
	return c.write(ctx, m)
}

// migrate patches all objects that were not written since the resource version.
func (c *Controller) migrate(ctx context.Context, of kind, since string) error {
	for next := ""; ; {
		list, err := c.objects.Resource(of.resource).List(ctx, metav1.ListOptions{Limit: page, Continue: next})
		if err != nil {
			return fmt.Errorf("list %s: %w", of.resource.GroupResource(), err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			if n, err := resourceversion.CompareResourceVersion(o.ResourceVersion, since); err == nil && n > 0 {
				continue
			}
			if err := c.patch(ctx, of, o); err != nil {
				return fmt.Errorf("migrate %s %s: %w", of.Kind, cache.MetaObjectToName(o), err)
			}
		}
		if next = list.Continue; next == "" {
			return nil
		}
	}
}

// patch has an object stored again. One that was written meanwhile, or is another by now, is stored as it should be.
func (c *Controller) patch(ctx context.Context, of kind, o *metav1.PartialObjectMetadata) error {
	version, name := of.ToAPIVersionAndKind()
	text, err := json.Marshal(map[string]any{
		"apiVersion": version, "kind": name,
		"metadata": map[string]any{"name": o.Name, "namespace": o.Namespace, "uid": o.UID, "resourceVersion": o.ResourceVersion},
	})
	if err != nil {
		return err
	}
	_, err = c.objects.Resource(of.resource).Namespace(o.Namespace).Patch(ctx, o.Name, types.ApplyPatchType, text, metav1.PatchOptions{FieldManager: manager})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// final tells an error that would come again.
func final(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err) ||
		apierrors.IsRequestEntityTooLargeError(err) || apierrors.IsUnsupportedMediaType(err)
}

func ended(m *migrationv1.StorageVersionMigration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationSucceeded)) || meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationFailed))
}

// end says that a migration is over, and why it failed if it did.
func (c *Controller) end(ctx context.Context, m *migrationv1.StorageVersionMigration, why error) error {
	m = m.DeepCopy()
	condition, reason, message := migrationv1.MigrationSucceeded, succeeded, ""
	if why != nil {
		condition, reason, message = migrationv1.MigrationFailed, failed, why.Error()
	}
	set(m, migrationv1.MigrationRunning, metav1.ConditionFalse, reason, "")
	set(m, condition, metav1.ConditionTrue, reason, message)
	return c.write(ctx, m)
}

func set(m *migrationv1.StorageVersionMigration, condition migrationv1.MigrationConditionType, is metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: string(condition), Status: is, Reason: reason, Message: message})
}

func (c *Controller) write(ctx context.Context, m *migrationv1.StorageVersionMigration) error {
	_, err := c.client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, m, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of migration: %w", err)
	}
	return nil
}
