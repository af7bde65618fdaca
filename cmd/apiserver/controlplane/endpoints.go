package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
)

const (
	serviceName = "kubernetes"
	// leasePrefix is upstream's key prefix for the addresses of live API servers.
	leasePrefix = "/masterleases/"
	// leaseTime is how long the address of a server that has died stays in the endpoints.
	leaseTime = 15 * time.Second
)

// Leases tells API servers of each other's addresses, by keys that vanish when their server stops writing them.
type Leases struct {
	store   storage.Interface
	Destroy func()
}

// NewLeases opens the store of leases.
func NewLeases(getter generic.RESTOptionsGetter) (*Leases, error) {
	gr := schema.GroupResource{Resource: "apiServerIPInfo"}
	options, err := getter.GetRESTOptions(gr, &corev1.Endpoints{})
	if err != nil {
		return nil, fmt.Errorf("open store of API server leases: %w", err)
	}
	s, destroy, err := generic.NewRawStorage(options.StorageConfig, func() runtime.Object { return &corev1.Endpoints{} },
		func() runtime.Object { return &corev1.EndpointsList{} }, leasePrefix)
	if err != nil {
		return nil, fmt.Errorf("open store of API server leases: %w", err)
	}
	return &Leases{s, destroy}, nil
}

// Renew says that the server at ip lives.
func (l *Leases) Renew(ctx context.Context, ip string) error {
	ttl := uint64(leaseTime / time.Second)
	return l.store.GuaranteedUpdate(ctx, leasePrefix+ip, &corev1.Endpoints{}, true, nil,
		func(obj runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			e := obj.(*corev1.Endpoints)
			e.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}}}
			// The generation changes so that the write happens and the key lives on.
			e.Generation++
			return e, &ttl, nil
		}, nil)
}

// Drop says that the server at ip ends.
func (l *Leases) Drop(ctx context.Context, ip string) error {
	err := l.store.Delete(ctx, leasePrefix+ip, &corev1.Endpoints{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if storage.IsNotFound(err) {
		return nil
	}
	return err
}

// Live lists the addresses of all servers, sorted.
func (l *Leases) Live(ctx context.Context) ([]string, error) {
	list := &corev1.EndpointsList{}
	options := storage.ListOptions{ResourceVersion: "0", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, Predicate: storage.Everything, Recursive: true}
	if err := l.store.GetList(ctx, leasePrefix, options, list); err != nil {
		return nil, err
	}
	var out []string
	for _, e := range list.Items {
		if len(e.Subsets) > 0 && len(e.Subsets[0].Addresses) > 0 {
			out = append(out, e.Subsets[0].Addresses[0].IP)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Self keeps the Service default/kubernetes pointing at the API servers that live.
type Self struct {
	Client kubernetes.Interface
	Leases *Leases
	// Address and Port are where clients reach this server.
	Address net.IP
	Port    int
	// ClusterIP is the address of the Service.
	ClusterIP string
}

// EnsureService makes the Service and puts its ports right.
func (s *Self) EnsureService(ctx context.Context) error {
	services := s.Client.CoreV1().Services(metav1.NamespaceDefault)
	ports := []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(s.Port))}}
	have, err := services.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName, Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
			Spec: corev1.ServiceSpec{Ports: ports, ClusterIP: s.ClusterIP, Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone},
		}, metav1.CreateOptions{})
		return existing("create service kubernetes", err)
	}
	if err != nil {
		return fmt.Errorf("get service kubernetes: %w", err)
	}
	if equality.Semantic.DeepEqual(have.Spec.Ports, ports) {
		return nil
	}
	have = have.DeepCopy()
	have.Spec.Ports = ports
	if _, err := services.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update service kubernetes: %w", err)
	}
	return nil
}

// Sync renews the lease and writes the endpoints.
func (s *Self) Sync(ctx context.Context) error {
	if err := s.Leases.Renew(ctx, s.Address.String()); err != nil {
		return fmt.Errorf("renew lease of %s: %w", s.Address, err)
	}
	return s.publish(ctx)
}

// Leave takes this server out of the endpoints before it ends.
func (s *Self) Leave(ctx context.Context) error {
	if err := s.Leases.Drop(ctx, s.Address.String()); err != nil {
		return fmt.Errorf("drop lease of %s: %w", s.Address, err)
	}
	return s.publish(ctx)
}

func (s *Self) publish(ctx context.Context) error {
	live, err := s.Leases.Live(ctx)
	if err != nil {
		return fmt.Errorf("list leases of API servers: %w", err)
	}
	if len(live) == 0 {
		// The last server keeps its address: endpoints without one help nobody.
		return nil
	}
	return errors.Join(s.writeEndpoints(ctx, endpoints(live, s.Port)), s.writeSlice(ctx, slice(live, s.Port, s.Address.To4() == nil)))
}

// endpoints and slice are what the cluster should have. The slice is ours, not mirrored from the Endpoints.
func endpoints(live []string, port int) *corev1.Endpoints {
	e := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		Subsets:    []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Name: "https", Port: int32(port), Protocol: corev1.ProtocolTCP}}}},
	}
	for _, ip := range live {
		e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: ip})
	}
	return e
}

func slice(live []string, port int, v6 bool) *discoveryv1.EndpointSlice {
	name, number, protocol, ready := "https", int32(port), corev1.ProtocolTCP, true
	e := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: serviceName, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelServiceName: serviceName}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &number, Protocol: &protocol}},
	}
	if v6 {
		e.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, ip := range live {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return e
}

func (s *Self) writeEndpoints(ctx context.Context, want *corev1.Endpoints) error {
	c := s.Client.CoreV1().Endpoints(metav1.NamespaceDefault)
	have, err := c.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = c.Create(ctx, want, metav1.CreateOptions{})
		return existing("create endpoints kubernetes", err)
	}
	if err != nil {
		return fmt.Errorf("get endpoints kubernetes: %w", err)
	}
	if equality.Semantic.DeepEqual(have.Subsets, want.Subsets) {
		return nil
	}
	have = have.DeepCopy()
	have.Subsets = want.Subsets
	if _, err := c.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update endpoints kubernetes: %w", err)
	}
	return nil
}

func (s *Self) writeSlice(ctx context.Context, want *discoveryv1.EndpointSlice) error {
	c := s.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	have, err := c.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = c.Create(ctx, want, metav1.CreateOptions{})
		return existing("create endpoint slice kubernetes", err)
	}
	if err != nil {
		return fmt.Errorf("get endpoint slice kubernetes: %w", err)
	}
	if equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return nil
	}
	have = have.DeepCopy()
	have.Endpoints, have.Ports = want.Endpoints, want.Ports
	if _, err := c.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update endpoint slice kubernetes: %w", err)
	}
	return nil
}
