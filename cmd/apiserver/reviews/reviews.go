// Package reviews answers the requests that only ask: who is this, may he, and give me a token. Nothing is stored.
package reviews

import (
	"context"
	"fmt"
	"net/http"

	authnv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// review is the storage of a kind that is answered and forgotten.
type review struct {
	make       func() runtime.Object
	singular   string
	namespaced bool
	answer     func(ctx context.Context, obj runtime.Object) error
}

var (
	_ rest.Creater              = (*review)(nil)
	_ rest.Scoper               = (*review)(nil)
	_ rest.SingularNameProvider = (*review)(nil)
)

func (r *review) New() runtime.Object     { return r.make() }
func (r *review) Destroy()                {}
func (r *review) NamespaceScoped() bool   { return r.namespaced }
func (r *review) GetSingularName() string { return r.singular }

// Create fills in the answer. Validation comes before, so that admission cannot be bypassed by asking.
func (r *review) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.answer(ctx, obj); err != nil {
		return nil, err
	}
	return obj, nil
}

// Authentication returns the storages of authentication.k8s.io by resource. requests is the authenticator of the server
// itself; audiences are what a token must be for when the asker names none.
func Authentication(requests authenticator.Request, audiences authenticator.Audiences) map[string]rest.Storage {
	return map[string]rest.Storage{
		"tokenreviews": &review{
			make: func() runtime.Object { return new(authnv1.TokenReview) }, singular: "tokenreview",
			answer: func(ctx context.Context, obj runtime.Object) error {
				return reviewToken(ctx, requests, audiences, obj.(*authnv1.TokenReview))
			},
		},
		"selfsubjectreviews": &review{
			make: func() runtime.Object { return new(authnv1.SelfSubjectReview) }, singular: "selfsubjectreview",
			answer: func(ctx context.Context, obj runtime.Object) error {
				u, ok := request.UserFrom(ctx)
				if !ok {
					return apierrors.NewBadRequest("no user present on request")
				}
				obj.(*authnv1.SelfSubjectReview).Status.UserInfo = userInfo(u)
				return nil
			},
		},
	}
}

// Authorization returns the storages of authorization.k8s.io by resource.
func Authorization(authz authorizer.UnconditionalAuthorizer, rules authorizer.RuleResolver) map[string]rest.Storage {
	return map[string]rest.Storage{
		"subjectaccessreviews":      subjectAccess(authz),
		"localsubjectaccessreviews": localSubjectAccess(authz),
		"selfsubjectaccessreviews":  selfAccess(authz),
		"selfsubjectrulesreviews":   selfRules(rules),
	}
}

func reviewToken(ctx context.Context, requests authenticator.Request, audiences authenticator.Audiences, r *authnv1.TokenReview) error {
	if r.Namespace != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("namespace is not allowed on this type: %v", r.Namespace))
	}
	if r.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if requests == nil {
		return nil
	}
	// The token is shown to the server's own authenticators as if it had come with a request, and nothing else with it.
	req := (&http.Request{Header: http.Header{}}).WithContext(context.WithoutCancel(ctx))
	req.Header.Set("Authorization", "Bearer "+r.Spec.Token)
	wanted := authenticator.Audiences(r.Spec.Audiences)
	if len(wanted) == 0 {
		wanted = audiences
	}
	if len(wanted) > 0 {
		req = req.WithContext(authenticator.WithAudiences(req.Context(), wanted))
	}
	resp, ok, err := requests.AuthenticateRequest(req)
	r.Status = authnv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		r.Status.Authenticated = false
		r.Status.Error = err.Error()
		return nil
	}
	if !ok || resp == nil || resp.User == nil {
		r.Status.Authenticated = false
		return nil
	}
	if len(wanted) > 0 && len(wanted.Intersect(resp.Audiences)) == 0 && len(resp.Audiences) > 0 {
		r.Status = authnv1.TokenReviewStatus{Error: fmt.Sprintf("token audiences %q is invalid for the target audiences %q", resp.Audiences, wanted)}
		return nil
	}
	r.Status.User = userInfo(resp.User)
	r.Status.Audiences = wanted.Intersect(resp.Audiences)
	return nil
}

func userInfo(u user.Info) authnv1.UserInfo {
	info := authnv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authnv1.ExtraValue{}
		}
		info.Extra[k] = authnv1.ExtraValue(v)
	}
	return info
}
