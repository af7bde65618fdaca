package services

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/component-base/metrics"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// startEtcd runs an etcd in this process and returns its endpoint.
func startEtcd(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "svc") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "d")
	cfg.LogLevel, cfg.UnsafeNoFsync = "fatal", true
	client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "c")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(dir, "p")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Server.ReadyNotify()
	t.Cleanup(func() { e.Server.HardStop(); os.RemoveAll(dir) })
	return "unix://" + client.Path
}

// openAllocator is what a server that starts on this etcd has.
func openAllocator(t *testing.T, endpoint string) (*Allocator, *faulty) {
	t.Helper()
	types, err := scheme.New()
	if err != nil {
		t.Fatal(err)
	}
	cfg := storagebackend.NewDefaultConfig("/registry", nil)
	cfg.Transport.ServerList = []string{endpoint}
	options := genericoptions.NewEtcdOptions(cfg)
	cfg.Codec = types.Codecs.LegacyCodec(corev1.SchemeGroupVersion, networkingv1.SchemeGroupVersion)
	options.StorageConfig = *cfg
	getter := &genericoptions.StorageFactoryRestOptionsFactory{Options: *options, StorageFactory: &genericoptions.SimpleStorageFactory{StorageConfig: *cfg}}
	none := func(runtime.Object) field.ErrorList { return nil }
	unchanged := func(runtime.Object, runtime.Object) field.ErrorList { return nil }
	config := store.Config{Scheme: types.Scheme, Options: getter, ValidateCreate: none, ValidateUpdate: unchanged, ValidateStatus: unchanged,
		Table: func(gr schema.GroupResource) rest.TableConvertor { return rest.NewDefaultTableConvertor(gr) }}
	open := func(r *store.Resource) *store.Storage {
		s, err := store.New(config, r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Destroy)
		return s
	}
	ranges, err := NewRanges(getter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ranges.DestroyFunc)
	s := Stores{Services: open(Resource()), Addresses: open(AddressResource()), Ranges: ranges,
		CIDRs: open(&store.Resource{GV: networkingv1.SchemeGroupVersion, Kind: "ServiceCIDR", Plural: "servicecidrs", Singular: "servicecidr", Cluster: true})}
	f := &faulty{Interface: s.Services.Storage.Storage}
	s.Services.Storage.Storage = f
	a, err := Allocate(t.Context(), Config{Families: families(v4, v6), NodePorts: utilnet.PortRange{Base: 30000, Size: 2768}}, s)
	if err != nil {
		t.Fatal(err)
	}
	return a, f
}

// faulty is a store whose writes of new objects fail: before they happen, or, as when an answer is lost, after.
type faulty struct {
	storage.Interface
	before, after error
}

func (f *faulty) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if f.before != nil {
		return f.before
	}
	if err := f.Interface.Create(ctx, key, obj, out, ttl); err != nil {
		return err
	}
	return f.after
}

func addCIDR(t *testing.T, a *Allocator, name string, cidrs ...string) {
	t.Helper()
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	if _, err := a.ips.cidrs.Create(request.WithNamespace(t.Context(), metav1.NamespaceNone), c, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func inNS(ctx context.Context) context.Context { return request.WithNamespace(ctx, "ns") }

func nodePortService(name string) *corev1.Service {
	require := corev1.IPFamilyPolicyRequireDualStack
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"a": "b"}, IPFamilyPolicy: &require,
		Ports: []corev1.ServicePort{{Name: "tcp", Port: 53, Protocol: "TCP"}, {Name: "udp", Port: 53, Protocol: "UDP"}}}}
}

func create(ctx context.Context, a *Allocator, svc *corev1.Service, o metav1.CreateOptions) (*corev1.Service, error) {
	obj, err := a.services.Create(inNS(ctx), svc, rest.ValidateAllObjectFunc, &o)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Service), nil
}

// heldClaims and heldPorts say what is taken in the store.
func heldClaims(t *testing.T, a *Allocator) map[string]bool {
	t.Helper()
	out, err := a.ips.taken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func heldPorts(t *testing.T, a *Allocator) map[int]bool {
	t.Helper()
	var out map[int]bool
	err := a.ports.change(t.Context(), func(b *bitmap) error {
		out = map[int]bool{}
		for n := range a.ports.span.Size {
			if b.has(n) {
				out[a.ports.span.Base+n] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func silent(Event) {}

func TestAllocatorOverEtcd(t *testing.T) {
	endpoint := startEtcd(t)
	a, fault := openAllocator(t, endpoint)
	b, _ := openAllocator(t, endpoint) // a second server
	ctx := t.Context()
	for {
		_, err := create(ctx, a, nodePortService("early"), metav1.CreateOptions{})
		if apierrors.IsTooManyRequests(err) { // the caches are still being filled
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "allocator not ready") {
			t.Fatalf("without any ServiceCIDR: %v", err)
		}
		break
	}
	addCIDR(t, a, "kubernetes", "10.0.0.0/16", "fd00::/108")

	nothing := func(t *testing.T) {
		t.Helper()
		if ips, ports := heldClaims(t, a), heldPorts(t, a); len(ips) > 0 || len(ports) > 0 {
			t.Errorf("taken: %v, %v; want nothing", ips, ports)
		}
	}
	t.Run("dry run takes nothing", func(t *testing.T) {
		svc, err := create(ctx, a, nodePortService("dry"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil || len(svc.Spec.ClusterIPs) != 2 || svc.Spec.Ports[0].NodePort == 0 || svc.Spec.Ports[1].NodePort != svc.Spec.Ports[0].NodePort {
			t.Fatalf("%v, %v; want what a real one would get", svc, err)
		}
		nothing(t)
	})
	t.Run("a write that fails gives all back", func(t *testing.T) {
		fault.before = errors.New("disk on fire")
		defer func() { fault.before = nil }()
		if _, err := create(ctx, a, nodePortService("failed"), metav1.CreateOptions{}); err == nil {
			t.Fatal("it did not fail")
		}
		nothing(t)
	})
	t.Run("a write whose answer is lost keeps all", func(t *testing.T) {
		fault.after = errors.New("connection lost")
		_, err := create(ctx, a, nodePortService("lost"), metav1.CreateOptions{})
		fault.after = nil
		if err == nil {
			t.Fatal("it did not fail")
		}
		if ips, ports := heldClaims(t, a), heldPorts(t, a); len(ips) != 2 || len(ports) != 1 {
			t.Errorf("taken: %v, %v; want what the Service has", ips, ports)
		}
		if _, _, err := a.services.Delete(inNS(ctx), "lost", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		nothing(t)
	})
	t.Run("what a crash leaves behind is mended", func(t *testing.T) { crash(t, a, b) })
	t.Run("a second family comes and goes", func(t *testing.T) { upgrade(t, a); nothing(t) })
	t.Run("a range more", func(t *testing.T) { moreRanges(t, a); nothing(t) })
	t.Run("hundreds at once on two servers", func(t *testing.T) { hundreds(t, a, b); nothing(t) })
}

// crash stops between taking and writing, and takes claims away behind the allocator's back.
func crash(t *testing.T, a, b *Allocator) {
	ctx := t.Context()
	whole, err := create(ctx, a, nodePortService("whole"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.begin(inNS(ctx), nodePortService("crashed"), nil, false); err != nil {
		t.Fatal(err)
	}
	if len(heldClaims(t, a)) != 4 || len(heldPorts(t, a)) != 2 {
		t.Fatalf("taken: %v, %v", heldClaims(t, a), heldPorts(t, a))
	}
	lost := whole.Spec.ClusterIPs[1]
	b.ips.release(ctx, lost, "ns", "whole")
	var told []string
	// b is the server after the restart; nothing that is young is touched.
	if err := b.Repair(ctx, time.Now(), func(e Event) { told = append(told, e.Reason) }); err != nil {
		t.Fatal(err)
	}
	if ips := heldClaims(t, b); len(ips) != 4 || !ips[lost] || len(heldPorts(t, b)) != 2 || len(told) != 1 || told[0] != "ClusterIPNotAllocated" {
		t.Errorf("after the first repair: %v, %v, told %v; want the lost claim back", ips, heldPorts(t, b), told)
	}
	if err := b.Repair(ctx, time.Now().Add(2*grace), silent); err != nil {
		t.Fatal(err)
	}
	if ips, ports := heldClaims(t, b), heldPorts(t, b); len(ips) != 2 || !ips[lost] || len(ports) != 1 || !ports[int(whole.Spec.Ports[0].NodePort)] {
		t.Errorf("after the second repair: %v, %v; want those of the Service alone", ips, ports)
	}
	if _, _, err := a.services.Delete(inNS(ctx), "whole", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The memory of the crashed one goes with its server.
	clear(a.ports.unsettled)
}

func upgrade(t *testing.T, a *Allocator) {
	ctx := t.Context()
	svc := nodePortService("up")
	single, prefer := corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack
	svc.Spec.IPFamilyPolicy = &single
	svc, err := create(ctx, a, svc, metav1.CreateOptions{})
	if err != nil || len(svc.Spec.ClusterIPs) != 1 {
		t.Fatalf("%v, %v", svc, err)
	}
	first := svc.Spec.ClusterIP
	to := func(p corev1.IPFamilyPolicy, dry ...string) *corev1.Service {
		t.Helper()
		obj, _, err := a.services.Update(inNS(ctx), "up", rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			changed := old.DeepCopyObject().(*corev1.Service)
			changed.Spec.IPFamilyPolicy = &p
			return changed, nil
		}), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{DryRun: dry})
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*corev1.Service)
	}
	if got := to(prefer, metav1.DryRunAll); len(got.Spec.ClusterIPs) != 2 || len(heldClaims(t, a)) != 1 {
		t.Errorf("dry run: %v, claims %v", got.Spec.ClusterIPs, heldClaims(t, a))
	}
	if got := to(prefer); len(got.Spec.ClusterIPs) != 2 || got.Spec.ClusterIP != first || len(heldClaims(t, a)) != 2 {
		t.Errorf("upgrade: %v, claims %v", got.Spec.ClusterIPs, heldClaims(t, a))
	}
	if got := to(single); len(got.Spec.ClusterIPs) != 1 || got.Spec.ClusterIP != first || len(heldClaims(t, a)) != 1 {
		t.Errorf("downgrade: %v, claims %v", got.Spec.ClusterIPs, heldClaims(t, a))
	}
	if _, _, err := a.services.Delete(inNS(ctx), "up", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func moreRanges(t *testing.T, a *Allocator) {
	ctx := t.Context()
	svc := nodePortService("new")
	single := corev1.IPFamilyPolicySingleStack
	svc.Spec.Type, svc.Spec.IPFamilyPolicy, svc.Spec.ClusterIP = corev1.ServiceTypeClusterIP, &single, "10.9.0.1"
	if _, err := create(ctx, a, svc.DeepCopy(), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "the provided network does not match the current range") {
		t.Errorf("an address outside: %v", err)
	}
	addCIDR(t, a, "more", "10.9.0.0/28")
	if _, err := create(ctx, a, svc.DeepCopy(), metav1.CreateOptions{}); err != nil {
		t.Errorf("an address of a new range: %v", err)
	}
	if _, err := create(ctx, a, func() *corev1.Service { s := svc.DeepCopy(); s.Name = "twice"; return s }(), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("a taken address: %v", err)
	}
	if _, _, err := a.services.Delete(inNS(ctx), "new", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// crowdFlag is a flag because what it takes grows with its square: everybody waits for the same few keys.
var crowdFlag = flag.Int("crowd", 300, "how many Services are made at once on two servers")

func hundreds(t *testing.T, a, b *Allocator) {
	ctx := t.Context()
	n := *crowdFlag
	made := make([]*corev1.Service, n)
	each := func(do func(i int, on *Allocator)) {
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { do(i, []*Allocator{a, b}[i%2]) })
		}
		all.Wait()
	}
	each(func(i int, on *Allocator) {
		var err error
		if made[i], err = create(ctx, on, nodePortService(fmt.Sprintf("s%d", i)), metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		return
	}
	ips, ports := map[string]bool{}, map[int]bool{}
	for _, svc := range made {
		for ip := range ipsOf(&svc.Spec) {
			if ips[ip] {
				t.Errorf("%s was given twice", ip)
			}
			ips[ip] = true
		}
		for port := range portsOf(&svc.Spec) {
			if ports[port] {
				t.Errorf("%d was given twice", port)
			}
			ports[port] = true
		}
	}
	if len(ips) != 2*n || len(ports) != n || len(heldClaims(t, a)) != 2*n || len(heldPorts(t, b)) != n {
		t.Errorf("%d addresses and %d ports, %d and %d taken, want %d and %d", len(ips), len(ports), len(heldClaims(t, a)), len(heldPorts(t, b)), 2*n, n)
	}
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(a.Collector(ctx))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if len(m.Label) == 0 || m.Label[0].GetValue() == "10.0.0.0/16" {
				got[f.GetName()] = m.GetGauge().GetValue()
			}
		}
	}
	if got["kube_apiserver_clusterip_allocator_allocated_ips"] != float64(n) || got["kube_apiserver_clusterip_allocator_available_ips"] != float64(1<<16-2-n) || got["kube_apiserver_nodeport_allocator_available_ports"] != float64(a.ports.span.Size)-float64(a.ports.taken.Load()) {
		t.Errorf("metrics: %v", got)
	}
	var reasons []string
	for range 2 {
		if err := a.Repair(ctx, time.Now().Add(2*grace), func(e Event) { reasons = append(reasons, e.Reason) }); err != nil || len(reasons) > 0 {
			t.Errorf("repair of what is right: %v, told %v", err, reasons)
		}
	}
	each(func(i int, on *Allocator) {
		if _, _, err := on.services.Delete(inNS(ctx), fmt.Sprintf("s%d", i), rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}
