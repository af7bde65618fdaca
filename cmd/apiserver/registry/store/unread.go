package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
)

// Unread returns the store of s for updates that change nothing that the object before points to, but replace it, and whose result
// nobody reads: Update gives an empty object back. Such an update needs no copy of the object in the watch cache, which the library makes
// for each, nor what was written decoded again. The second function closes what the first opened.
func (s *Storage) Unread() (*registry.Store, func(), error) {
	gr := s.r.GroupResource()
	options, err := s.cfg.Options.GetRESTOptions(gr, s.NewFunc())
	if err != nil {
		return nil, nil, fmt.Errorf("options of %s: %w", gr, err)
	}
	config := *options.StorageConfig
	config.Codec = unreadCodec{config.Codec}
	raw, destroy, err := generic.NewRawStorage(&config, s.NewFunc, s.NewListFunc, "/"+strings.TrimPrefix(options.ResourcePrefix, "/"))
	if err != nil {
		return nil, nil, fmt.Errorf("open storage of %s: %w", gr, err)
	}
	other := *s.Store
	other.Storage.Storage = unreadStorage{other.Storage.Storage, raw, s.NewFunc}
	return &other, destroy, nil
}

// unreadStorage updates what the watch cache has. All else, and what has changed since, is the library's.
type unreadStorage struct {
	storage.Interface
	raw       storage.Interface
	newObject func() runtime.Object
}

// errChanged says that the watch cache is behind.
var errChanged = errors.New("changed meanwhile")

func (u unreadStorage) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions,
	update storage.UpdateFunc, cached runtime.Object) error {
	library := func() error {
		return u.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, update, cached)
	}
	// This shares with the watch cache all that the object points to.
	obj := u.newObject()
	if err := u.Interface.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, obj); err != nil || preconditions.Check(key, obj) != nil {
		return library()
	}
	now := &known{obj, accessor(obj)}
	err := u.raw.GuaranteedUpdate(ctx, key, &unread{}, false, nil, func(current runtime.Object, m storage.ResponseMeta) (runtime.Object, *uint64, error) {
		if current != runtime.Object(now) {
			return nil, nil, errChanged
		}
		return update(obj, m)
	}, now)
	if errors.Is(err, errChanged) {
		return library()
	}
	return err
}

// known is an object of the watch cache. Nobody compares its encoded form with another's, so it has none.
type known struct {
	runtime.Object
	meta metav1.Object
}

func (k *known) GetObjectMeta() metav1.Object { return k.meta }

// unread is what becomes of stored objects that nobody reads.
type unread struct {
	metav1.TypeMeta
	metav1.ObjectMeta
}

func (u *unread) DeepCopyObject() runtime.Object {
	return &unread{u.TypeMeta, *u.ObjectMeta.DeepCopy()}
}

// unreadCodec encodes and decodes all but those two.
type unreadCodec struct{ runtime.Codec }

func (c unreadCodec) Encode(obj runtime.Object, w io.Writer) error {
	if _, ok := obj.(*known); ok {
		return nil
	}
	return c.Codec.Encode(obj, w)
}

func (c unreadCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if _, ok := into.(*unread); ok {
		return into, &schema.GroupVersionKind{}, nil
	}
	return c.Codec.Decode(data, defaults, into)
}
