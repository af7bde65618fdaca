package proxyfield

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
)

// PerService is how many endpoints each of Fill's Services has; every other one is this node's own.
const PerService = 5

// VIP is the cluster address of number i of Fill's Services.
func VIP(i int) netip.AddrPort {
	n := uint32(10)<<24 | 97<<16 + uint32(i)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 80)
}

// Slice is the one of number i of Fill's Services, with these endpoints.
func Slice(i int, ends ...netip.Addr) *discoveryv1.EndpointSlice {
	name, port, protocol := "http", int32(Port), corev1.ProtocolTCP
	out := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("service-%d-abcde", i), Namespace: metav1.NamespaceDefault, GenerateName: fmt.Sprintf("service-%d-", i), Generation: 1,
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("service-%d", i), discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io", "app": fmt.Sprintf("app-%d", i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	yes, no := true, false
	for _, a := range ends {
		node := "b"
		if a.As4()[1] < 192 {
			node = Node
		}
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.String()}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("app-%d-5d4f8c7b9-%s", i, a), UID: types.UID(uid(int(a.As4()[3]), i))},
		})
	}
	return out
}

// Ends are the endpoints of number i of Fill's Services.
func Ends(i int) (out []netip.Addr) {
	for e := range PerService {
		out = append(out, Endpoint(i*PerService+e, e%2 == 0))
	}
	return out
}

// ServiceOf is the number of the Service that an endpoint is of.
func ServiceOf(a netip.Addr) int {
	b := a.As4()
	return int(uint32(b[1]&63)<<16|uint32(b[2])<<8|uint32(b[3])) / PerService
}

func uid(kind, i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", kind, i) }

// Fill makes Services from one number to another with their slices, as a cluster of that size has them. They go straight into etcd, which takes
// them some ten times faster than the API server does; the API server learns of them by its watches. The last one comes after all others: who sees it has
// seen all. Until then objects of one transaction, which have one version, may be seen in part, and a watch that begins between them has no others.
func (f *Field) Fill(ctx context.Context, from, to int) error {
	store, err := clientv3.New(clientv3.Config{Endpoints: []string{f.API.Etcd()}, DialTimeout: 10 * time.Second})
	if err != nil {
		return fmt.Errorf("open etcd: %w", err)
	}
	defer store.Close()
	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	const batch = 50
	for begin := from; begin < to-1; begin += batch {
		group.Go(func() error { return put(ctx, store, begin, min(begin+batch, to-1)) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return put(outer, store, to-1, to)
}

func put(ctx context.Context, store *clientv3.Client, from, to int) error {
	var ops []clientv3.Op
	for i := from; i < to; i++ {
		slice := Slice(i, Ends(i)...)
		slice.UID, slice.CreationTimestamp = types.UID(uid(1, i)), metav1.Now()
		for key, obj := range map[string]runtime.Object{
			"/registry/services/specs/default/" + service(i).Name: service(i), "/registry/endpointslices/default/" + slice.Name: slice,
		} {
			value, err := encode(obj)
			if err != nil {
				return err
			}
			ops = append(ops, clientv3.OpPut(key, value))
		}
	}
	_, err := store.Txn(ctx).Then(ops...).Commit()
	return err
}

func service(i int) *corev1.Service {
	single, cluster := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	ip := VIP(i).Addr().String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("service-%d", i), Namespace: metav1.NamespaceDefault, UID: types.UID(uid(0, i)), CreationTimestamp: metav1.Now(),
			Labels: map[string]string{"app": fmt.Sprintf("app-%d", i)},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Selector: map[string]string{"app": fmt.Sprintf("app-%d", i)},
			Ports:           []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(Port)}},
			SessionAffinity: corev1.ServiceAffinityNone, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single, InternalTrafficPolicy: &cluster,
		},
	}
}

// encode is how the API server stores an object.
func encode(obj runtime.Object) (string, error) {
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return "", err
	}
	obj.GetObjectKind().SetGroupVersionKind(kinds[0])
	var b bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(obj, &b); err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	return b.String(), nil
}
