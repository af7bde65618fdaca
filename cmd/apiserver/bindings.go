package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	requestmetrics "k8s.io/apiserver/pkg/endpoints/handlers/metrics"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-base/tracing"
)

const (
	// largestBinding is more than any scheduler sends.
	largestBinding = 16 << 10
	// bindingPatience and slowBinding are how long the library lets a write take, and after how long it logs where the time went.
	bindingPatience = 34 * time.Second
	slowBinding     = 500 * time.Millisecond
)

// bindings answers the requests by which schedulers give pods their nodes, of which there is one for each pod. The library
// would answer just so, but does for each write what a Binding has no use for: it works out who owns which of its fields and
// throws that away, has it stored by a goroutine of its own, and finds the way through three routers.
//
// It stands behind all filters, and takes only what a scheduler sends: protobuf without options, about an object of no
// peculiarity, that no webhook and no policy asks to see. All else goes the library's way, mistakes too, so that their answers are the library's.
type bindings struct {
	codecs   serializer.CodecFactory
	decoder  runtime.Decoder
	objects  admission.ObjectInterfaces
	admit    admission.Interface
	observed func() bool // whether a webhook or a policy sees bindings
	storage  atomic.Pointer[rest.NamedCreater]
}

func newBindings(scheme *runtime.Scheme, codecs serializer.CodecFactory) (*bindings, error) {
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, errors.New("no serializer of protobuf")
	}
	return &bindings{
		codecs: codecs, objects: admission.NewObjectInterfacesFromScheme(scheme),
		decoder: codecs.DecoderToVersion(info.Serializer, schema.GroupVersion{Version: runtime.APIVersionInternal}),
	}, nil
}

// open lets bindings be stored. Before that, all go the library's way.
func (b *bindings) open(storage rest.NamedCreater, admit admission.Interface, observed func() bool) {
	b.admit, b.observed = admit, observed
	b.storage.Store(&storage)
}

// before answers bindings; next answers all else.
func (b *bindings) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := apirequest.RequestInfoFrom(r.Context())
		if !ok || b.storage.Load() == nil || !plainBinding(r, info) || b.observed() {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, largestBinding+1))
		binding := b.decode(body, info)
		if err != nil || binding == nil {
			again := r.WithContext(r.Context())
			again.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
			next.ServeHTTP(w, again)
			return
		}
		requestmetrics.RecordRequestBodySize(r.Context(), corev1.Resource("pods"), requestmetrics.Create, len(body))
		metrics.InstrumentHandlerFunc(http.MethodPost, "", "v1", "pods", "binding", "resource", metrics.APIServerComponent, false, "",
			func(w http.ResponseWriter, r *http.Request) { b.answer(w, r, info, binding) })(w, r)
	})
}

// plainBinding tells whether a request is what schedulers send.
func plainBinding(r *http.Request, info *apirequest.RequestInfo) bool {
	return info.Subresource == "binding" && info.Resource == "pods" && info.Verb == "create" && info.APIPrefix == "api" && info.APIVersion == "v1" &&
		info.IsResourceRequest && info.Namespace != "" && info.Name != "" &&
		r.URL.RawQuery == "" && r.URL.Path == "/api/v1/namespaces/"+info.Namespace+"/pods/"+info.Name+"/binding" &&
		r.Header.Get("Content-Type") == runtime.ContentTypeProtobuf && wantsProtobuf(r.Header.Get("Accept"))
}

// wantsProtobuf tells whether that is what comes first, and not as a table nor with other parameters.
func wantsProtobuf(accept string) bool {
	rest, ok := strings.CutPrefix(accept, runtime.ContentTypeProtobuf)
	return ok && (rest == "" || rest == ",application/json" || rest == ", application/json")
}

// decode returns the binding in body, nil if it is not one that is plain and fits its request.
func (b *bindings) decode(body []byte, info *apirequest.RequestInfo) *corev1.Binding {
	if len(body) > largestBinding {
		return nil
	}
	kind := corev1.SchemeGroupVersion.WithKind("Binding")
	obj, got, err := b.decoder.Decode(body, &kind, &corev1.Binding{})
	if err != nil || *got != kind {
		return nil
	}
	binding, ok := obj.(*corev1.Binding)
	if !ok || len(binding.ManagedFields) > 0 || len(binding.OwnerReferences) > 0 ||
		rest.EnsureObjectNamespaceMatchesRequestNamespace(info.Namespace, &binding.ObjectMeta) != nil {
		return nil
	}
	return binding
}

func (b *bindings) answer(w http.ResponseWriter, r *http.Request, info *apirequest.RequestInfo, binding *corev1.Binding) {
	ctx, span := tracing.Start(r.Context(), "Create", attribute.String("url", r.URL.Path), attribute.String("user-agent", r.UserAgent()))
	defer span.End(slowBinding)
	ctx, cancel := context.WithTimeout(ctx, bindingPatience)
	defer cancel()
	audit.LogRequestObject(ctx, binding, corev1.SchemeGroupVersion, corev1.SchemeGroupVersion.WithResource("pods"), "binding", b.codecs)
	status, err := b.bind(apirequest.WithNamespace(ctx, info.Namespace), info, binding)
	if err != nil {
		responsewriters.ErrorNegotiated(err, b.codecs, corev1.SchemeGroupVersion, w, r)
		return
	}
	responsewriters.WriteObjectNegotiated(b.codecs, negotiation.DefaultEndpointRestrictions, corev1.SchemeGroupVersion, w, r, http.StatusCreated, status, false)
}

// bind asks admission and stores.
func (b *bindings) bind(ctx context.Context, info *apirequest.RequestInfo, binding *corev1.Binding) (runtime.Object, error) {
	user, _ := apirequest.UserFrom(ctx)
	options := &metav1.CreateOptions{TypeMeta: metav1.TypeMeta{Kind: "CreateOptions", APIVersion: "meta.k8s.io/v1"}}
	admit := admission.WithAudit(b.admit)
	attributes := admission.NewAttributesRecord(binding, nil, corev1.SchemeGroupVersion.WithKind("Binding"), info.Namespace, info.Name,
		corev1.SchemeGroupVersion.WithResource("pods"), "binding", admission.Create, options, false, user)
	if mutating, ok := admit.(admission.MutationInterface); ok && mutating.Handles(admission.Create) {
		if err := mutating.Admit(ctx, attributes, b.objects); err != nil {
			return nil, err
		}
	}
	result, err := (*b.storage.Load()).Create(ctx, info.Name, binding, rest.AdmissionToValidateObjectFunc(admit, attributes, b.objects), options)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, apierrors.NewTimeoutError(fmt.Sprintf("request did not complete within requested timeout - %s", ctx.Err()), 0)
	case err != nil:
		return nil, err
	}
	if status, ok := result.(*metav1.Status); ok && status.Code == 0 {
		status.Code = http.StatusCreated
	}
	return result, nil
}
