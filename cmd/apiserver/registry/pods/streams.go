package pods

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/orlop-io/orlop/cmd/apiserver/kubeletclient"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// Streams makes the subresources of pods that lead to a kubelet.
type Streams struct {
	pods    *store.Storage
	kubelet func(ctx context.Context, node string) (kubeletclient.Kubelet, error)
}

// NewStreams returns the makers of log, exec, attach and portforward over the storage of pods.
func NewStreams(s *store.Storage, kubelet func(ctx context.Context, node string) (kubeletclient.Kubelet, error)) *Streams {
	return &Streams{s, kubelet}
}

func (s *Streams) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	obj, err := s.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// onNode finds the kubelet of the pod's node.
func (s *Streams) onNode(ctx context.Context, pod *corev1.Pod) (kubeletclient.Kubelet, error) {
	if pod.Spec.NodeName == "" {
		return kubeletclient.Kubelet{}, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	k, err := s.kubelet(ctx, pod.Spec.NodeName)
	var status apierrors.APIStatus
	if err != nil && !errors.As(err, &status) {
		err = apierrors.NewInternalError(err)
	}
	return k, err
}

// containerOf chooses the container that a request is about.
func containerOf(pod *corev1.Pod, wanted string) (string, error) {
	if wanted == "" {
		switch len(pod.Spec.Containers) {
		case 1:
			return pod.Spec.Containers[0].Name, nil
		case 0:
			return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
		}
		return "", apierrors.NewBadRequest(ambiguous(pod))
	}
	for _, name := range append(append(names(pod.Spec.InitContainers), names(pod.Spec.Containers)...), ephemeralNames(pod)...) {
		if name == wanted {
			return wanted, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", wanted, pod.Name))
}

func ambiguous(pod *corev1.Pod) string {
	msg := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(names(pod.Spec.Containers), " "))
	if init := names(pod.Spec.InitContainers); len(init) > 0 {
		msg += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(init, " "))
	}
	if e := ephemeralNames(pod); len(e) > 0 {
		msg += fmt.Sprintf(" or one of the ephemeral containers: [%s]", strings.Join(e, " "))
	}
	return msg
}

func names(containers []corev1.Container) []string {
	var out []string
	for i := range containers {
		out = append(out, containers[i].Name)
	}
	return out
}

func ephemeralNames(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.EphemeralContainers {
		out = append(out, pod.Spec.EphemeralContainers[i].Name)
	}
	return out
}

// streamParams says which streams a request wants, in the words of the kubelet.
type streamParams struct{ in, out, err, tty bool }

func (p streamParams) query() (url.Values, error) {
	if !p.in && !p.out && !p.err {
		return nil, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	q := url.Values{}
	for name, on := range map[string]bool{"input": p.in, "output": p.out, "error": p.err, "tty": p.tty} {
		if on {
			q.Set(name, "1")
		}
	}
	return q, nil
}

// connect is one connect subresource.
type connect struct {
	newOptions func() runtime.Object
	methods    []string
	handler    func(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error)
}

func (c *connect) New() runtime.Object { return c.newOptions() }

// Destroy does nothing: the store belongs to pods.
func (c *connect) Destroy() {}

func (c *connect) NewConnectOptions() (runtime.Object, bool, string) {
	return c.newOptions(), false, ""
}
func (c *connect) ConnectMethods() []string { return c.methods }

func (c *connect) Connect(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error) {
	return c.handler(ctx, name, options, r)
}

// upgrading are the methods of streams: SPDY clients POST, websockets GET.
func upgrading() []string { return []string{http.MethodGet, http.MethodPost} }

// Exec returns pods/exec.
func (s *Streams) Exec() rest.Storage {
	return &connect{func() runtime.Object { return &corev1.PodExecOptions{} }, upgrading(),
		func(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error) {
			o := options.(*corev1.PodExecOptions)
			return s.container(ctx, name, "exec", o.Container, streamParams{o.Stdin, o.Stdout, o.Stderr, o.TTY}, o.Command, r)
		}}
}

// Attach returns pods/attach.
func (s *Streams) Attach() rest.Storage {
	return &connect{func() runtime.Object { return &corev1.PodAttachOptions{} }, upgrading(),
		func(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error) {
			o := options.(*corev1.PodAttachOptions)
			return s.container(ctx, name, "attach", o.Container, streamParams{o.Stdin, o.Stdout, o.Stderr, o.TTY}, nil, r)
		}}
}

func (s *Streams) container(ctx context.Context, name, verb, container string, p streamParams, command []string, r rest.Responder) (http.Handler, error) {
	pod, err := s.pod(ctx, name)
	if err != nil {
		return nil, err
	}
	if container, err = containerOf(pod, container); err != nil {
		return nil, err
	}
	query, err := p.query()
	if err != nil {
		return nil, err
	}
	for _, word := range command {
		query.Add("command", word)
	}
	k, err := s.onNode(ctx, pod)
	if err != nil {
		return nil, err
	}
	location := k.URL(fmt.Sprintf("/%s/%s/%s/%s", verb, pod.Namespace, pod.Name, container), query)
	spdy := upgradeHandler(location, k.Transport, r)
	// Clients with websockets that can close single streams get them translated to SPDY here; all others pass through.
	translated := translator.NewStreamTranslatorHandler(location, k.Transport, 0,
		translator.Options{Stdin: p.in, Stdout: p.out, Stderr: p.err, Tty: p.tty})
	return translator.NewTranslatingHandler(spdy, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
}

// PortForward returns pods/portforward.
func (s *Streams) PortForward() rest.Storage {
	return &connect{func() runtime.Object { return &corev1.PodPortForwardOptions{} }, upgrading(),
		func(ctx context.Context, name string, options runtime.Object, r rest.Responder) (http.Handler, error) {
			pod, err := s.pod(ctx, name)
			if err != nil {
				return nil, err
			}
			k, err := s.onNode(ctx, pod)
			if err != nil {
				return nil, err
			}
			query := url.Values{}
			for _, port := range options.(*corev1.PodPortForwardOptions).Ports {
				query.Add("port", fmt.Sprint(port))
			}
			location := k.URL(fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), query)
			spdy := upgradeHandler(location, k.Transport, r)
			return translator.NewTranslatingHandler(spdy, translator.NewTunnelingHandler(spdy), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
		}}
}

func upgradeHandler(location *url.URL, transport http.RoundTripper, r rest.Responder) *proxy.UpgradeAwareHandler {
	return proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(r))
}

var (
	_ rest.Connecter = &connect{}
)
