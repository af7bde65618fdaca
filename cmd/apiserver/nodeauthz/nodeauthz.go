// Package nodeauthz decides what a kubelet may do: what its own node and the pods bound to it need, and nothing of
// other nodes.
//
// It speaks about users called system:node:NAME of group system:nodes and has no opinion about anybody else. What it
// does not allow to a node is left to RBAC, which by default allows nodes nothing.
package nodeauthz

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"

	"github.com/orlop-io/orlop/cmd/apiserver/rbac"
)

const userPrefix = "system:node:"

// patience is how long a node's request for an object of a pod waits for our watch to tell us of the pod. The kubelet
// hears of a new pod at the same moment as we do; refusing it for being quicker would cost the pod a retry.
const patience = 100 * time.Millisecond

// Identity returns the node that u is. It is false for anybody who is not a kubelet; a kubelet that does not say which
// node it is has an empty name.
func Identity(u user.Info) (name string, isNode bool) {
	if u == nil || !strings.HasPrefix(u.GetName(), userPrefix) || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	return strings.TrimPrefix(u.GetName(), userPrefix), true
}

// Authorizer implements authorizer.Authorizer.
type Authorizer struct {
	authorizer.AuthorizerFunc
	graph  *graph
	rules  []rbacv1.PolicyRule
	synced []func() bool
}

var _ authorizer.Authorizer = (*Authorizer)(nil)

// New asks factory for its informers, so it must be called before the factory starts.
func New(factory informers.SharedInformerFactory) (*Authorizer, error) {
	a := &Authorizer{graph: newGraph(), rules: rbac.NodeRules()}
	a.AuthorizerFunc = a.authorize
	if err := a.graph.follow(factory, &a.synced); err != nil {
		return nil, err
	}
	return a, nil
}

// HasSynced says whether all pods and volumes have been seen once.
func (a *Authorizer) HasSynced() bool {
	return !slices.ContainsFunc(a.synced, func(f func() bool) bool { return !f() })
}

func (a *Authorizer) authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	node, isNode := Identity(attrs.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if node == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", attrs.GetUser().GetName()), nil
	}
	q := question{node: node, attrs: attrs}
	v := a.decide(q)
	for deadline := time.Now().Add(patience); v.unknown && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return authorizer.DecisionNoOpinion, v.why, nil
		case <-time.After(5 * time.Millisecond):
		}
		v = a.decide(q)
	}
	if v.allowed {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, v.why, nil
}

type question struct {
	node  string
	attrs authorizer.Attributes
}

// verdict is an answer; unknown means that a pod we have not heard of yet could turn it.
type verdict struct {
	allowed bool
	unknown bool
	why     string
}

func allow() verdict { return verdict{allowed: true} }

func refuse(format string, args ...any) verdict { return verdict{why: fmt.Sprintf(format, args...)} }

func (a *Authorizer) decide(q question) verdict {
	attrs := q.attrs
	if attrs.IsResourceRequest() {
		switch attrs.GetAPIGroup() + "/" + attrs.GetResource() {
		case "/secrets":
			return a.readRelated(q, secretKind)
		case "/configmaps":
			return a.readRelated(q, configMapKind)
		case "/persistentvolumeclaims":
			if attrs.GetSubresource() == "status" {
				return a.writeStatus(q, claimKind)
			}
			return a.getRelated(q, claimKind)
		case "/persistentvolumes":
			return a.getRelated(q, volumeKind)
		case "resource.k8s.io/resourceclaims":
			return a.getRelated(q, resourceClaimKind)
		case "storage.k8s.io/volumeattachments":
			return a.getRelated(q, attachmentKind)
		case "/serviceaccounts":
			if attrs.GetSubresource() == "token" {
				return a.createToken(q)
			}
			return a.getRelated(q, accountKind)
		case "coordination.k8s.io/leases":
			return ownLease(q)
		case "storage.k8s.io/csinodes":
			return ownCSINode(q)
		case "resource.k8s.io/resourceslices":
			return a.ownResourceSlice(q)
		case "certificates.k8s.io/podcertificaterequests":
			return a.podCertificate(q)
		case "/nodes":
			return ownNode(q)
		case "/pods":
			return a.ownPods(q)
		}
	}
	for i := range a.rules {
		if rbac.RuleAllows(attrs, &a.rules[i]) {
			return allow()
		}
	}
	return verdict{}
}

// readRelated allows reading one object by name, also by list and watch of this name, if a pod of the node uses it.
func (a *Authorizer) readRelated(q question, kind kind) verdict {
	switch attrs := q.attrs; {
	case !slices.Contains([]string{"get", "list", "watch"}, attrs.GetVerb()):
		return refuse("can only read resources of this type")
	case attrs.GetSubresource() != "":
		return refuse("cannot read subresource")
	case attrs.GetNamespace() == "":
		return refuse("can only read namespaced object of this type")
	}
	return a.related(q, kind)
}

func (a *Authorizer) getRelated(q question, kind kind) verdict {
	switch attrs := q.attrs; {
	case attrs.GetVerb() != "get" || attrs.GetName() == "":
		return refuse("can only get individual resources of this type")
	case attrs.GetSubresource() != "":
		return refuse("cannot get subresource")
	}
	return a.related(q, kind)
}

func (a *Authorizer) related(q question, kind kind) verdict {
	attrs := q.attrs
	if attrs.GetName() == "" {
		return refuse("No Object name found")
	}
	key := objectKey{kind: kind, name: attrs.GetName()}
	if kind.namespaced() {
		key.namespace = attrs.GetNamespace()
	}
	if a.graph.reaches(q.node, key) {
		return allow()
	}
	return verdict{unknown: true, why: fmt.Sprintf("no relationship found between node '%s' and this object", q.node)}
}

func (a *Authorizer) writeStatus(q question, kind kind) verdict {
	if v := q.attrs.GetVerb(); v != "update" && v != "patch" {
		return refuse("can only get/update/patch this type")
	}
	return a.related(q, kind)
}

func (a *Authorizer) createToken(q question) verdict {
	if q.attrs.GetVerb() != "create" || q.attrs.GetName() == "" {
		return refuse("can only create tokens for individual service accounts")
	}
	return a.related(q, accountKind)
}

// ownLease allows the node's heartbeat. A create has no name here; the NodeRestriction plugin checks it.
func ownLease(q question) verdict {
	attrs := q.attrs
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, attrs.GetVerb()):
		return refuse("can only get, create, update, patch, or delete a node lease")
	case attrs.GetSubresource() != "":
		return refuse("subresource not allowed")
	case attrs.GetNamespace() != corev1.NamespaceNodeLease:
		return refuse("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case attrs.GetVerb() != "create" && attrs.GetName() != q.node:
		return refuse("can only access node lease with the same name as the requesting node")
	}
	return allow()
}

func ownCSINode(q question) verdict {
	attrs := q.attrs
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, attrs.GetVerb()):
		return refuse("can only get, create, update, patch, or delete a CSINode")
	case attrs.GetSubresource() != "":
		return refuse("cannot authorize CSINode subresources")
	case attrs.GetVerb() != "create" && attrs.GetName() != q.node:
		return refuse("can only access CSINode with the same name as the requesting node")
	}
	return allow()
}

func (a *Authorizer) ownResourceSlice(q question) verdict {
	attrs := q.attrs
	if attrs.GetSubresource() != "" {
		return refuse("cannot authorize ResourceSlice subresources")
	}
	switch attrs.GetVerb() {
	case "create":
		return allow() // whose slice it is the NodeRestriction plugin checks, which sees the object
	case "get", "update", "patch", "delete":
		return a.related(q, sliceKind)
	case "watch", "list", "deletecollection":
		if selects(attrs, "spec.nodeName", q.node) {
			return allow()
		}
		return refuse("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
	}
	return refuse("can only perform standard actions on resourceslices")
}

func (a *Authorizer) podCertificate(q question) verdict {
	attrs := q.attrs
	if attrs.GetSubresource() != "" {
		return refuse("cannot authorize PodCertificateRequest subresources")
	}
	switch attrs.GetVerb() {
	case "create":
		return allow() // for which pod the NodeRestriction plugin checks
	case "get":
		return a.related(q, certificateKind)
	case "list", "watch":
		if selects(attrs, "spec.nodeName", q.node) {
			return allow()
		}
		return refuse("can only list/watch podcertificaterequests with spec.nodeName field selector")
	}
	return refuse("can only create, get, list or watch podcertificaterequests")
}

func ownNode(q question) verdict {
	attrs := q.attrs
	switch attrs.GetSubresource() {
	case "":
		switch attrs.GetVerb() {
		case "create", "update", "patch":
			return allow() // whose node it is the NodeRestriction plugin checks
		case "get", "list", "watch":
			if attrs.GetName() == q.node || selects(attrs, "metadata.name", q.node) {
				return allow()
			}
			return refuse("node '%s' cannot read '%s', only its own Node object", q.node, attrs.GetName())
		}
	case "status":
		switch attrs.GetVerb() {
		case "update", "patch":
			return allow()
		}
	}
	return verdict{}
}

func (a *Authorizer) ownPods(q question) verdict {
	attrs := q.attrs
	switch attrs.GetSubresource() {
	case "":
		switch attrs.GetVerb() {
		case "create", "delete":
			return allow() // mirror pods, and ends of own pods: NodeRestriction checks
		case "get":
			key := objectKey{kind: podKind, namespace: attrs.GetNamespace(), name: attrs.GetName()}
			if selects(attrs, "spec.nodeName", q.node) || a.graph.reaches(q.node, key) {
				return allow()
			}
			return verdict{unknown: true, why: fmt.Sprintf("no relationship found between node '%s' and this object", q.node)}
		case "list", "watch":
			if selects(attrs, "spec.nodeName", q.node) {
				return allow()
			}
			return refuse("can only list/watch pods with spec.nodeName field selector")
		}
	case "status":
		switch attrs.GetVerb() {
		case "update", "patch":
			return allow()
		}
	case "eviction":
		if attrs.GetVerb() == "create" {
			return allow()
		}
	}
	return verdict{}
}

// selects says whether the request is limited to objects whose field has the value.
func selects(attrs authorizer.Attributes, name, value string) bool {
	reqs, err := attrs.GetFieldSelector()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(reqs, func(r fields.Requirement) bool {
		return r.Field == name && r.Value == value && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals)
	})
}
