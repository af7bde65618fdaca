package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type authorizer struct {
	cfg     AuthConfig
	node    string
	answers *memory[string, bool]
}

func newAuthorizer(cfg AuthConfig, node string) *authorizer {
	if cfg.AllowLife == 0 {
		cfg.AllowLife = 5 * time.Minute
	}
	if cfg.DenyLife == 0 {
		cfg.DenyLife = 30 * time.Second
	}
	return &authorizer{cfg: cfg, node: node, answers: newMemory[string, bool](4096)}
}

// protect lets only those requests through to h whose sender has the right to make them.
func (s *Server) protect(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := s.authn.who(r)
		if errors.Is(err, errNobody) {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		if err != nil {
			s.cfg.Log.Info("cannot tell who is asking", "path", r.URL.Path, "err", err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		verb, subresources := rights(r.Method, r.URL.Path)
		for _, sub := range subresources {
			ok, err := s.authz.allowed(r.Context(), u, verb, sub)
			if err != nil {
				s.cfg.Log.Info("cannot tell what the caller may do", "user", u.Name, "path", r.URL.Path, "err", err)
				msg := fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", u.Name, verb, subresources)
				http.Error(w, msg, http.StatusInternalServerError)
				return
			}
			if ok {
				h.ServeHTTP(w, r)
				return
			}
		}
		msg := fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", u.Name, verb, subresources)
		http.Error(w, msg, http.StatusForbidden)
	})
}

// rights names the verb, and the subresources of the node of which the sender needs one. What has none of its own is
// nodes/proxy, and so is everything that runs or enters a container. That needs create even when asked for by GET, as
// WebSockets do: whoever may only read must not get in.
func rights(method, path string) (verb string, subresources []string) {
	verb = map[string]string{
		http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get",
		http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[method]
	if verb == "" {
		verb = strings.ToLower(method)
	}
	top, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch top {
	case "stats":
		return verb, []string{"stats"}
	case "metrics":
		return verb, []string{"metrics"}
	case "logs":
		return verb, []string{"log"}
	case "healthz", "configz":
		return verb, []string{top, "proxy"}
	case "pods", "runningpods":
		return verb, []string{"pods", "proxy"}
	case "exec", "attach", "portForward", "run":
		return "create", []string{"proxy"}
	}
	return verb, []string{"proxy"}
}

// allowed asks the API server, or remembers what it said.
func (a *authorizer) allowed(ctx context.Context, u user, verb, subresource string) (bool, error) {
	if a.cfg.AllowAll {
		return true, nil
	}
	if a.cfg.Client == nil {
		return false, errors.New("no API server to ask")
	}
	spec := authzv1.SubjectAccessReviewSpec{
		User:   u.Name,
		UID:    u.UID,
		Groups: u.Groups,
		ResourceAttributes: &authzv1.ResourceAttributes{
			Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.node,
		},
	}
	if len(u.Extra) > 0 {
		spec.Extra = map[string]authzv1.ExtraValue{}
		for k, v := range u.Extra {
			spec.Extra[k] = v
		}
	}
	question, err := json.Marshal(spec)
	if err != nil {
		return false, fmt.Errorf("encode review: %w", err)
	}
	if ok, known := a.answers.recall(string(question), time.Now()); known {
		return ok, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewLimit)
	defer cancel()
	got, err := a.cfg.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authzv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	life := a.cfg.DenyLife
	if got.Status.Allowed {
		life = a.cfg.AllowLife
	}
	a.answers.keep(string(question), got.Status.Allowed, time.Now().Add(life))
	return got.Status.Allowed, nil
}
