// Package proxy serves the proxy subresources: HTTP requests that the API server passes on to a node's kubelet, a pod or
// one of a Service's endpoints.
package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/orlop-io/orlop/cmd/apiserver/kubeletclient"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// target is where a request goes.
type target struct {
	location  *url.URL
	transport http.RoundTripper
}

// REST is one proxy subresource.
type REST struct {
	options func() runtime.Object
	path    func(options runtime.Object) string
	find    func(ctx context.Context, id string) (target, error)
}

// New returns the options: the kind of the resource itself would make clients think that its PATCH is this one.
func (r *REST) New() runtime.Object { return r.options() }

// Destroy does nothing: the stores belong to the main resources.
func (r *REST) Destroy() {}

func (r *REST) NewConnectOptions() (runtime.Object, bool, string) { return r.options(), true, "path" }

func (r *REST) ConnectMethods() []string {
	return []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
}

func (r *REST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	t, err := r.find(ctx, id)
	if err != nil {
		return nil, err
	}
	t.location.Path = joinPath(t.location.Path, r.path(options))
	return proxy.NewUpgradeAwareHandler(t.location, t.transport, true, false, proxy.NewErrorResponder(responder)), nil
}

// joinPath keeps a slash at the end, which means something to many servers.
func joinPath(base, path string) string {
	if path == "" {
		return base
	}
	return strings.TrimSuffix(base, "/") + "/" + strings.TrimPrefix(path, "/")
}

// transport passes requests on to servers whose certificates nobody here can judge.
func transport() *http.Transport {
	return utilnet.SetOldTransportDefaults(&http.Transport{
		DialContext:     (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	})
}

// Nodes returns nodes/proxy.
func Nodes(kubelet func(ctx context.Context, node string) (kubeletclient.Kubelet, error)) *REST {
	rt := transport()
	return &REST{
		options: func() runtime.Object { return &corev1.NodeProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.NodeProxyOptions).Path },
		find: func(ctx context.Context, id string) (target, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return target{}, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
			}
			k, err := kubelet(ctx, name)
			if err != nil {
				return target{}, err
			}
			host, own, err := net.SplitHostPort(k.Host)
			if err != nil {
				return target{}, apierrors.NewInternalError(fmt.Errorf("address of node %s: %w", name, err))
			}
			if port == "" || port == own {
				return target{k.URL("", nil), k.Transport}, nil
			}
			// Anything else that listens there gets no credential of ours.
			return to(scheme, host, port, rt)
		},
	}
}

// Pods returns pods/proxy.
func Pods(pods *store.Storage) *REST {
	rt := transport()
	return &REST{
		options: func() runtime.Object { return &corev1.PodProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.PodProxyOptions).Path },
		find: func(ctx context.Context, id string) (target, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return target{}, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
			}
			obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
			if err != nil {
				return target{}, err
			}
			pod := obj.(*corev1.Pod)
			if port == "" {
				port = firstPort(pod)
			}
			return to(scheme, pod.Status.PodIP, port, rt)
		},
	}
}

func firstPort(pod *corev1.Pod) string {
	for _, c := range pod.Spec.Containers {
		if len(c.Ports) > 0 {
			return strconv.Itoa(int(c.Ports[0].ContainerPort))
		}
	}
	return ""
}

// Services returns services/proxy.
func Services(services, slices *store.Storage) *REST {
	rt := transport()
	return &REST{
		options: func() runtime.Object { return &corev1.ServiceProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.ServiceProxyOptions).Path },
		find: func(ctx context.Context, id string) (target, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return target{}, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
			}
			obj, err := services.Get(ctx, name, &metav1.GetOptions{})
			if err != nil {
				return target{}, err
			}
			portName, err := servicePort(obj.(*corev1.Service), port)
			if err != nil {
				return target{}, err
			}
			selector := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})
			list, err := slices.List(ctx, &internalversion.ListOptions{LabelSelector: selector})
			if err != nil {
				return target{}, err
			}
			ready := endpoints(list.(*discoveryv1.EndpointSliceList).Items, portName)
			if len(ready) == 0 {
				return target{}, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
			}
			e := ready[rand.IntN(len(ready))]
			return to(scheme, e.Addr().String(), strconv.Itoa(int(e.Port())), rt)
		},
	}
}

// servicePort finds the name of the port that a request means: by name, by number, or the only one.
func servicePort(svc *corev1.Service, wanted string) (string, error) {
	for _, p := range svc.Spec.Ports {
		if wanted == "" && len(svc.Spec.Ports) == 1 || p.Name == wanted || strconv.Itoa(int(p.Port)) == wanted {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", wanted, svc.Name))
}

// endpoints lists the ready endpoints of the named port.
func endpoints(slices []discoveryv1.EndpointSlice, port string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range slices {
		for _, p := range s.Ports {
			if p.Port == nil || (p.Name != nil && *p.Name != port) || (p.Name == nil && port != "") {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
					continue
				}
				if ip, err := netip.ParseAddr(e.Addresses[0]); err == nil {
					out = append(out, netip.AddrPortFrom(ip, uint16(*p.Port)))
				}
			}
		}
	}
	return out
}

// to builds the target, unless the address is one of this machine or its link: a pod must not be able to make the API
// server speak to those by writing them into its status.
func to(scheme, ip, port string, rt http.RoundTripper) (target, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return target{}, apierrors.NewBadRequest("address not allowed")
	}
	if addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast() || addr.IsUnspecified() {
		return target{}, apierrors.NewBadRequest("address not allowed")
	}
	host := addr.String()
	if port != "" {
		host = net.JoinHostPort(host, port)
	} else if addr.Is6() {
		host = "[" + host + "]"
	}
	return target{&url.URL{Scheme: scheme, Host: host}, rt}, nil
}

var _ rest.Connecter = &REST{}
