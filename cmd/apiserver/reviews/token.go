package reviews

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
)

const (
	defaultLifetime = time.Hour
	minLifetime     = 10 * time.Minute
	// podLifetime is what the ServiceAccount admission plugin asks for in the volumes it adds; the odd number marks the
	// tokens whose holders never chose them and so may never re-read them.
	podLifetime      = 3607 * time.Second
	extendedLifetime = 365 * 24 * time.Hour
)

// TokenConfig says how serviceaccounts/token makes tokens.
type TokenConfig struct {
	// Signer signs; its issuer is the server's first.
	Signer *satoken.Signer
	// Audiences are the server's own: what a token is for when the request names none.
	Audiences authenticator.Audiences
	// ServiceAccounts, Pods, Secrets and Nodes are the stores of those resources.
	ServiceAccounts, Pods, Secrets, Nodes rest.Getter
	// MaxLifetime cuts longer wishes short; zero means no such limit.
	MaxLifetime time.Duration
	// Extend makes tokens of pods that asked for the usual 3607 seconds work for a year, with a warning after that time,
	// for clients that never re-read their token. Upstream has it on.
	Extend bool
}

// Token is the storage of serviceaccounts/token.
type Token struct {
	cfg TokenConfig
	now func() time.Time
}

var (
	_ rest.NamedCreater             = (*Token)(nil)
	_ rest.GroupVersionKindProvider = (*Token)(nil)
)

// NewToken checks cfg.
func NewToken(cfg TokenConfig) (*Token, error) {
	if cfg.Signer == nil {
		return nil, errors.New("serve serviceaccounts/token: there is no signer")
	}
	if len(cfg.Audiences) == 0 {
		return nil, errors.New("serve serviceaccounts/token: the server has no audience")
	}
	if cfg.ServiceAccounts == nil || cfg.Pods == nil || cfg.Secrets == nil || cfg.Nodes == nil {
		return nil, errors.New("serve serviceaccounts/token: a store is missing")
	}
	return &Token{cfg: cfg, now: time.Now}, nil
}

func (t *Token) New() runtime.Object { return new(authnv1.TokenRequest) }
func (t *Token) Destroy()            {}

// GroupVersionKind is needed because the kind is of another group than serviceaccounts.
func (t *Token) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authnv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// Create makes a token for the service account called name.
func (t *Token) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authnv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", obj))
	}
	found, err := t.cfg.ServiceAccounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	sa := found.(*corev1.ServiceAccount)
	if err := prepare(req, sa, t.cfg.Audiences); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	r := satoken.Request{ServiceAccount: sa, Audiences: req.Spec.Audiences, Now: t.now()}
	if err := t.bind(ctx, &r, req.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	asked := time.Duration(*req.Spec.ExpirationSeconds) * time.Second
	if t.cfg.MaxLifetime > 0 && asked > t.cfg.MaxLifetime {
		asked = t.cfg.MaxLifetime
		seconds := int64(asked / time.Second)
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", *req.Spec.ExpirationSeconds, seconds))
		req.Spec.ExpirationSeconds = &seconds
	}
	r.Lifetime = asked
	if t.extends(r, asked) {
		r.Lifetime, r.WarnAfter = extendedLifetime, asked
	}
	claims := satoken.NewClaims(r)
	token, err := t.cfg.Signer.Sign(claims)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, tokenjwt.CredentialIDForJTI(claims.ID))
	out := req.DeepCopy()
	// What the holder is told is the time it asked for, so that kubelets renew in time even when the token lasts longer.
	out.Status = authnv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(r.Now.Add(asked))}
	return out, nil
}

func (t *Token) extends(r satoken.Request, asked time.Duration) bool {
	return t.cfg.Extend && r.Pod != nil && asked == podLifetime &&
		len(authenticator.Audiences(r.Audiences).Intersect(t.cfg.Audiences)) == len(r.Audiences)
}

// prepare checks the request against its account and fills in what was left open.
func prepare(req *authnv1.TokenRequest, sa *corev1.ServiceAccount, audiences authenticator.Audiences) error {
	if req.Name == "" {
		req.Name = sa.Name
	}
	if req.Namespace == "" {
		req.Namespace = sa.Namespace
	}
	if req.Name != sa.Name {
		return apierrors.NewBadRequest("name on the request body does not match the name of the service account")
	}
	if req.Namespace != sa.Namespace {
		return apierrors.NewBadRequest("namespace on the request body does not match the namespace of the service account")
	}
	if req.CreationTimestamp.IsZero() {
		req.CreationTimestamp = metav1.Now()
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = audiences
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultLifetime / time.Second)
		req.Spec.ExpirationSeconds = &seconds
	}
	path := field.NewPath("spec").Child("expirationSeconds")
	var errs field.ErrorList
	switch seconds := *req.Spec.ExpirationSeconds; {
	case seconds < int64(minLifetime/time.Second):
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	case seconds > math.MaxUint32+1:
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(authnv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), sa.Name, errs)
	}
	return nil
}

// bind looks up the object the token is to end with.
func (t *Token) bind(ctx context.Context, r *satoken.Request, ref *authnv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var uid types.UID
	switch gvk {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		obj, err := t.cfg.Pods.Get(about(ctx, "pods", ref.Name), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		r.Pod = obj.(*corev1.Pod)
		if r.Pod.Spec.ServiceAccountName != r.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", r.ServiceAccount.Name))
		}
		uid = r.Pod.UID
		if r.Node, err = t.nodeOf(ctx, r.Pod); err != nil {
			return err
		}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		obj, err := t.cfg.Secrets.Get(about(ctx, "secrets", ref.Name), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		r.Secret = obj.(*corev1.Secret)
		uid = r.Secret.UID
	case corev1.SchemeGroupVersion.WithKind("Node"):
		obj, err := t.cfg.Nodes.Get(about(ctx, "nodes", ref.Name), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		r.Node = obj.(*corev1.Node)
		uid = r.Node.UID
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if ref.UID != "" && ref.UID != uid {
		return apierrors.NewConflict(gvkResource(gvk), ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// about is ctx for a look at another object than the request's: what is not found is called by its own name then.
func about(ctx context.Context, resource, name string) context.Context {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		return ctx
	}
	of := *info
	of.APIGroup, of.APIVersion, of.Resource, of.Subresource, of.Name = "", "v1", resource, "", name
	return request.WithRequestInfo(ctx, &of)
}

func (t *Token) nodeOf(ctx context.Context, pod *corev1.Pod) (*corev1.Node, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil
	}
	obj, err := t.cfg.Nodes.Get(ctx, pod.Spec.NodeName, &metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		// The name alone still tells a reader where the pod was meant to run.
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName}}, nil
	case err != nil:
		return nil, apierrors.NewInternalError(err)
	}
	return obj.(*corev1.Node), nil
}

func gvkResource(gvk schema.GroupVersionKind) schema.GroupResource {
	return schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}
}
