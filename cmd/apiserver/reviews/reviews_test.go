package reviews

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
)

// objects is a store of one kind.
type objects map[string]runtime.Object

func (o objects) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if obj, ok := o[name]; ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("things"), name)
}

const issuer = "https://kubernetes.default.svc"

func tokens(t *testing.T) (*Token, *satoken.Verifier) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := satoken.NewSigner(issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := satoken.NewVerifier([]string{issuer}, []crypto.PublicKey{key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	pod := func(account string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "pod"}, Spec: corev1.PodSpec{ServiceAccountName: account, NodeName: "n"}}
	}
	r, err := NewToken(TokenConfig{
		Signer: signer, Audiences: authenticator.Audiences{issuer}, Extend: true,
		ServiceAccounts: objects{"robot": &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "robot", UID: "sa"}}},
		Pods:            objects{"p": pod("robot"), "other": pod("admin")},
		Secrets:         objects{}, Nodes: objects{"n": &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, v
}

func TestTokenRequest(t *testing.T) {
	r, v := tokens(t)
	seconds := func(n int64) *int64 { return &n }
	pod := func(name, uid string) *authnv1.BoundObjectReference {
		return &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(uid)}
	}
	for _, tt := range []struct {
		name, account string
		spec          authnv1.TokenRequestSpec
		told, lasts   time.Duration
		want          string // part of the error
	}{
		{"defaults", "robot", authnv1.TokenRequestSpec{}, time.Hour, time.Hour, ""},
		{"bound to a pod", "robot", authnv1.TokenRequestSpec{BoundObjectRef: pod("p", "pod"), ExpirationSeconds: seconds(600)}, 10 * time.Minute, 10 * time.Minute, ""},
		{"the usual pod token", "robot", authnv1.TokenRequestSpec{BoundObjectRef: pod("p", ""), ExpirationSeconds: seconds(3607)}, 3607 * time.Second, extendedLifetime, ""},
		{"the usual time for another audience", "robot", authnv1.TokenRequestSpec{BoundObjectRef: pod("p", ""), ExpirationSeconds: seconds(3607), Audiences: []string{"vault"}}, 3607 * time.Second, 3607 * time.Second, ""},
		{"too short", "robot", authnv1.TokenRequestSpec{ExpirationSeconds: seconds(599)}, 0, 0, "may not specify a duration less than 10 minutes"},
		{"too long", "robot", authnv1.TokenRequestSpec{ExpirationSeconds: seconds(1<<32 + 1)}, 0, 0, "may not specify a duration larger than 2^32 seconds"},
		{"no such account", "ghost", authnv1.TokenRequestSpec{}, 0, 0, "not found"},
		{"another account's pod", "robot", authnv1.TokenRequestSpec{BoundObjectRef: pod("other", "")}, 0, 0, "different serviceaccount name"},
		{"pod made anew", "robot", authnv1.TokenRequestSpec{BoundObjectRef: pod("p", "old")}, 0, 0, "does not match the UID in record"},
		{"bound to a kind that does not end", "robot", authnv1.TokenRequestSpec{BoundObjectRef: &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x"}}, 0, 0, "cannot bind token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			obj, err := r.Create(t.Context(), tt.account, &authnv1.TokenRequest{Spec: tt.spec}, rest.ValidateAllObjectFunc, nil)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := obj.(*authnv1.TokenRequest)
			c, err := v.Verify(got.Status.Token, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if lasts := c.Expiry.Time().Sub(c.IssuedAt.Time()); lasts != tt.lasts {
				t.Errorf("lasts %v, want %v", lasts, tt.lasts)
			}
			if told := time.Until(got.Status.ExpirationTimestamp.Time); told > tt.told || told < tt.told-10*time.Second {
				t.Errorf("holder was told %v, want %v", told, tt.told)
			}
			if (c.Kubernetes.Pod != nil) != (tt.spec.BoundObjectRef != nil) || c.Kubernetes.Pod != nil && c.Kubernetes.Node.UID != "node" {
				t.Errorf("bound to %+v", c.Kubernetes)
			}
		})
	}
}

func TestTokenRequestRunsAdmission(t *testing.T) {
	r, _ := tokens(t)
	refuse := func(context.Context, runtime.Object) error { return errors.New("refused by admission") }
	if _, err := r.Create(t.Context(), "robot", &authnv1.TokenRequest{}, refuse, nil); err == nil {
		t.Fatal("a token that admission refused was made")
	}
}

func TestAccessReviews(t *testing.T) {
	authz := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetUser().GetName() == "ann" && a.GetVerb() == "get" && a.GetNamespace() == "shop" {
			return authorizer.DecisionAllow, "because", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	ctx := request.WithNamespace(request.WithUser(t.Context(), &user.DefaultInfo{Name: "ann"}), "shop")
	ra := func(verb, ns string) *authzv1.ResourceAttributes {
		return &authzv1.ResourceAttributes{Verb: verb, Namespace: ns, Resource: "pods"}
	}
	storage := Authorization(authz, nil)
	ask := func(resource string, obj runtime.Object) error {
		_, err := storage[resource].(rest.Creater).Create(ctx, obj, rest.ValidateAllObjectFunc, nil)
		return err
	}
	self := &authzv1.SelfSubjectAccessReview{Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: ra("get", "shop")}}
	if err := ask("selfsubjectaccessreviews", self); err != nil || !self.Status.Allowed || self.Status.Reason != "because" {
		t.Errorf("self: %v, %+v", err, self.Status)
	}
	other := &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: ra("get", "shop")}}
	if err := ask("subjectaccessreviews", other); err != nil || other.Status.Allowed || other.Status.Denied {
		t.Errorf("other: %v, %+v", err, other.Status)
	}
	for name, obj := range map[string]*authzv1.SubjectAccessReview{
		"nobody":  {Spec: authzv1.SubjectAccessReviewSpec{ResourceAttributes: ra("get", "shop")}},
		"nothing": {Spec: authzv1.SubjectAccessReviewSpec{User: "ann"}},
		"both":    {Spec: authzv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: ra("get", "shop"), NonResourceAttributes: &authzv1.NonResourceAttributes{}}},
	} {
		if err := ask("subjectaccessreviews", obj); !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	local := &authzv1.LocalSubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: ra("get", "other")}}
	if err := ask("localsubjectaccessreviews", local); !apierrors.IsInvalid(err) {
		t.Errorf("a review of another namespace: %v", err)
	}
}

func TestTokenReview(t *testing.T) {
	known := authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if r.Header.Get("Authorization") != "Bearer good" {
			return nil, false, errors.New("invalid bearer token")
		}
		return &authenticator.Response{User: &user.DefaultInfo{Name: "ann"}, Audiences: authenticator.Audiences{issuer}}, true, nil
	})
	reviews := Authentication(known, authenticator.Audiences{issuer})["tokenreviews"].(rest.Creater)
	for _, tt := range []struct {
		token     string
		audiences []string
		want      bool
	}{{"good", nil, true}, {"bad", nil, false}, {"good", []string{"vault"}, false}, {"good", []string{issuer, "vault"}, true}} {
		r := &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: tt.token, Audiences: tt.audiences}}
		_, err := reviews.Create(t.Context(), r, rest.ValidateAllObjectFunc, nil)
		if err != nil || r.Status.Authenticated != tt.want || (r.Status.User.Username == "ann") != tt.want || (r.Status.Error == "") != tt.want {
			t.Errorf("%+v: %v, %+v", tt, err, r.Status)
		}
	}
	if _, err := reviews.Create(t.Context(), &authnv1.TokenReview{}, rest.ValidateAllObjectFunc, nil); !apierrors.IsBadRequest(err) {
		t.Errorf("without a token: %v", err)
	}
}

func TestSelectorsOfAccessReviews(t *testing.T) {
	var asked authorizer.Attributes
	authz := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		asked = a
		return authorizer.DecisionAllow, "", nil
	})
	storages := Authorization(authz, nil)
	in := func(op metav1.FieldSelectorOperator, values ...string) *authzv1.FieldSelectorAttributes {
		return &authzv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: op, Values: values}}}
	}
	for _, tt := range []struct {
		name    string
		fields  *authzv1.FieldSelectorAttributes
		labels  *authzv1.LabelSelectorAttributes
		want    string // the selectors that the authorizer was asked about
		note    string // part of the evaluation error
		refused string // part of the refusal
	}{
		{name: "none"},
		{name: "raw fields", fields: &authzv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=n1"}, want: "spec.nodeName=n1"},
		{name: "fields", fields: in(metav1.FieldSelectorOpIn, "n1"), want: "spec.nodeName=n1"},
		{name: "not fields", fields: in(metav1.FieldSelectorOpNotIn, "n1"), want: "spec.nodeName!=n1"},
		{name: "two values", fields: in(metav1.FieldSelectorOpIn, "n1", "n2"), note: "without a single value is not understood"},
		{name: "an operator of tomorrow", fields: in("Near", "n1"), note: `operator "Near" is not understood`},
		{name: "raw fields that are none", fields: &authzv1.FieldSelectorAttributes{RawSelector: "&"}, note: "invalid selector"},
		{name: "both forms", fields: &authzv1.FieldSelectorAttributes{RawSelector: "a=b", Requirements: in(metav1.FieldSelectorOpIn, "n1").Requirements},
			refused: `spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: "a=b": may not specified at the same time as requirements`},
		{name: "neither form", labels: &authzv1.LabelSelectorAttributes{}, refused: "spec.resourceAttributes.labelSelector.requirements: Required value"},
		{name: "labels", labels: &authzv1.LabelSelectorAttributes{Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: metav1.LabelSelectorOpIn, Values: []string{"b"}}}}, want: "a in (b)"},
		{name: "labels without values", labels: &authzv1.LabelSelectorAttributes{Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: metav1.LabelSelectorOpIn}}}, refused: "Required value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &authzv1.SelfSubjectAccessReview{Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authzv1.ResourceAttributes{
				Verb: "list", Resource: "pods", FieldSelector: tt.fields, LabelSelector: tt.labels}}}
			ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: "ann"})
			_, err := storages["selfsubjectaccessreviews"].(rest.Creater).Create(ctx, r, nil, nil)
			if tt.refused != "" {
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tt.refused) {
					t.Fatalf("got %v, want %q", err, tt.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			f, _ := asked.GetFieldSelector()
			l, _ := asked.GetLabelSelector()
			var got []string
			for _, x := range f {
				got = append(got, x.Field+string(x.Operator)+x.Value)
			}
			for _, x := range l {
				got = append(got, x.String())
			}
			if strings.Join(got, ",") != tt.want || !strings.Contains(r.Status.EvaluationError, tt.note) || (tt.note == "") != (r.Status.EvaluationError == "") {
				t.Errorf("asked about %q, error %q", got, r.Status.EvaluationError)
			}
		})
	}
}
