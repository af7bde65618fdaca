package store_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// behind is a watch cache that shows pods as it was told, not as they are.
type behind struct {
	storage.Interface
	shows *corev1.Pod
	slow  int // updates that went the library's way
}

func (b *behind) Get(ctx context.Context, key string, o storage.GetOptions, into runtime.Object) error {
	if o.ResourceVersion != "0" || b.shows == nil {
		return b.Interface.Get(ctx, key, o, into)
	}
	*into.(*corev1.Pod) = *b.shows
	return nil
}

func (b *behind) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, p *storage.Preconditions, update storage.UpdateFunc, cached runtime.Object) error {
	b.slow++
	return b.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, p, update, cached)
}

func openPods(t *testing.T, begin func()) (*store.Storage, *behind, *registry.Store) {
	t.Helper()
	dir, err := os.MkdirTemp("", "unread") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.UnsafeNoFsync = filepath.Join(dir, "d"), "fatal", true
	client, peer := url.URL{Scheme: "unix", Path: filepath.Join(dir, "c")}, url.URL{Scheme: "unix", Path: filepath.Join(dir, "p")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Server.ReadyNotify()
	t.Cleanup(func() { e.Server.HardStop(); os.RemoveAll(dir) })
	types, err := scheme.New()
	if err != nil {
		t.Fatal(err)
	}
	backend := storagebackend.NewDefaultConfig("/registry", nil)
	backend.Transport.ServerList = []string{"unix://" + client.Path}
	backend.Codec = types.Codecs.LegacyCodec(corev1.SchemeGroupVersion)
	options := genericoptions.NewEtcdOptions(backend)
	options.StorageConfig = *backend
	getter := &genericoptions.StorageFactoryRestOptionsFactory{Options: *options, StorageFactory: &genericoptions.SimpleStorageFactory{StorageConfig: *backend}}
	s, err := store.New(store.Config{Scheme: types.Scheme, Options: getter,
		ValidateCreate: func(runtime.Object) field.ErrorList { return nil },
		ValidateUpdate: func(runtime.Object, runtime.Object) field.ErrorList { return nil },
		ValidateStatus: func(runtime.Object, runtime.Object) field.ErrorList { return nil },
		Begin:          begin,
		Table:          func(gr schema.GroupResource) rest.TableConvertor { return rest.NewDefaultTableConvertor(gr) },
	}, &store.Resource{GV: corev1.SchemeGroupVersion, Kind: "Pod", Plural: "pods", Singular: "pod"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Destroy)
	cache := &behind{Interface: s.Store.Storage.Storage}
	s.Store.Storage.Storage = cache
	unread, destroy, err := s.Unread()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return s, cache, unread
}

// An update whose result nobody reads is one of what the watch cache has, if that is true still; else of what is stored.
// What the watch cache has stays as it is.
func TestUnread(t *testing.T) {
	s, cache, unread := openPods(t, nil)
	ctx := request.WithNamespace(t.Context(), "n")
	get := func(name string) *corev1.Pod {
		t.Helper()
		obj, err := s.Get(ctx, name, &metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*corev1.Pod)
	}
	// toNode is an update as a binding is: of a pod that has no node, into a shallow copy.
	toNode := func(name, node string, uid types.UID) error {
		info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			p := *old.(*corev1.Pod)
			if p.Spec.NodeName != "" {
				return nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, name, os.ErrExist)
			}
			p.Spec.NodeName = node
			return &p, nil
		})
		conditions := &metav1.Preconditions{}
		if uid != "" {
			conditions.UID = &uid
		}
		_, _, err := unread.Update(ctx, name, conditioned{info, conditions}, nil, nil, false, &metav1.UpdateOptions{})
		return err
	}
	for _, tc := range []struct {
		name string
		// change is what happens to the pod after the watch cache saw it.
		change func(p *corev1.Pod) error
		uid    func(p *corev1.Pod) types.UID
		slow   int
		fails  func(error) bool
		node   string
	}{
		{name: "as-it-was", node: "n1"},
		{name: "by-uid", uid: func(p *corev1.Pod) types.UID { return p.UID }, node: "n1"},
		{name: "of-another", uid: func(*corev1.Pod) types.UID { return "another" }, slow: 1, fails: apierrors.IsConflict},
		{name: "changed", slow: 1, node: "n1", change: func(p *corev1.Pod) error {
			p.Labels["app"] = "new"
			_, _, err := s.Update(ctx, p.Name, rest.DefaultUpdatedObjectInfo(p), nil, nil, false, &metav1.UpdateOptions{})
			return err
		}},
		{name: "bound-meanwhile", slow: 1, node: "n0", fails: apierrors.IsConflict, change: func(p *corev1.Pod) error {
			p.Spec.NodeName = "n0"
			_, _, err := s.Update(ctx, p.Name, rest.DefaultUpdatedObjectInfo(p), nil, nil, false, &metav1.UpdateOptions{})
			return err
		}},
		{name: "gone", fails: apierrors.IsNotFound, change: func(p *corev1.Pod) error {
			_, _, err := s.Delete(ctx, p.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			made := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: tc.name, Labels: map[string]string{"app": "old"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
			if _, err := s.Create(ctx, made, nil, &metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			seen := get(tc.name)
			if tc.change != nil {
				if err := tc.change(seen.DeepCopy()); err != nil {
					t.Fatal(err)
				}
			}
			before := seen.DeepCopy()
			cache.shows, cache.slow = seen, 0
			defer func() { cache.shows = nil }()
			var uid types.UID
			if tc.uid != nil {
				uid = tc.uid(seen)
			}
			err := toNode(tc.name, "n1", uid)
			if tc.fails == nil && err != nil || tc.fails != nil && !tc.fails(err) {
				t.Fatalf("update: %v", err)
			}
			if cache.slow != tc.slow {
				t.Errorf("%d went the library's way, want %d", cache.slow, tc.slow)
			}
			if diff := cmp.Diff(before, seen); diff != "" {
				t.Errorf("what the watch cache has was changed (-before +after):\n%s", diff)
			}
			if tc.name == "gone" {
				return
			}
			want, got := before.DeepCopy(), get(tc.name)
			want.Spec.NodeName, want.ResourceVersion = tc.node, got.ResourceVersion
			if tc.name == "changed" {
				want.Labels["app"] = "new"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
			if tc.node == "n1" && got.ResourceVersion == before.ResourceVersion {
				t.Error("stored without a new version")
			}
		})
	}
}

type conditioned struct {
	rest.UpdatedObjectInfo
	conditions *metav1.Preconditions
}

func (c conditioned) Preconditions() *metav1.Preconditions { return c.conditions }
