package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// The verbs that go together.
const (
	read      = "get list watch"
	write     = "create delete deletecollection patch update"
	readWrite = "create delete deletecollection get list patch update watch"

	// The two groups that serve events: the core one is the empty string before the comma.
	eventGroups = ",events.k8s.io"
)

// rule grants verbs (separated by blanks) on resources of groups (separated by commas). All lists are sorted, as
// upstream's are, so that the objects of a cluster can be compared with those of another.
func rule(verbs, groups string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: sorted(strings.Fields(verbs)), APIGroups: sorted(strings.Split(groups, ",")), Resources: sorted(resources)}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// named limits a rule to objects of those names.
func named(r rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule {
	r.ResourceNames = sorted(names)
	return r
}

func paths(verbs string, urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), NonResourceURLs: sorted(urls)}
}

// events lets a component tell what it did, in both groups that hold events.
func events() rbacv1.PolicyRule {
	return rule("create patch update", eventGroups, "events")
}

// NodeRules are what every node needs, as documented for the Node authorizer, which narrows most of them to the node's
// own objects, and for the role system:node.
func NodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "subjectaccessreviews", "localsubjectaccessreviews"),
		rule(read, "", "services"),
		rule("create get list watch", "", "nodes"),
		rule("update patch", "", "nodes/status"),
		rule("update patch", "", "nodes"),
		events(),
		rule(read, "", "pods"),
		rule("create delete", "", "pods"),
		rule("update patch", "", "pods/status"),
		rule("create", "", "pods/eviction"),
		rule(read, "", "secrets", "configmaps"),
		rule("get", "", "persistentvolumeclaims", "persistentvolumes"),
		rule("get", "", "endpoints"),
		rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
		rule("create get update patch delete", "coordination.k8s.io", "leases"),
		rule("get", "storage.k8s.io", "volumeattachments"),
		rule("create", "", "serviceaccounts/token"),
		rule("get", "", "serviceaccounts"),
		rule("get update patch", "", "persistentvolumeclaims/status"),
		rule(read, "storage.k8s.io", "csidrivers"),
		rule("create get update patch delete", "storage.k8s.io", "csinodes"),
		rule(read, "node.k8s.io", "runtimeclasses"),
		rule("get", "resource.k8s.io", "resourceclaims"),
		rule("deletecollection", "resource.k8s.io", "resourceslices"),
		rule(read, "certificates.k8s.io", "clustertrustbundles"),
		rule("create get list watch", "certificates.k8s.io", "podcertificaterequests"),
	}
}
