package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// ClusterRoles are the cluster roles that every cluster begins with.
func ClusterRoles() []rbacv1.ClusterRole {
	var all []rbacv1.ClusterRole
	for _, set := range [][]rbacv1.ClusterRole{userRoles(), componentRoles(), certificateRoles(), controllerRoles()} {
		all = append(all, set...)
	}
	return all
}

// ClusterRoleBindings are the cluster role bindings that every cluster begins with.
func ClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	controllerManager, scheduler := userSubject("system:kube-controller-manager"), userSubject("system:kube-scheduler")
	everybody := groupSubject(user.AllAuthenticated)
	all := []rbacv1.ClusterRoleBinding{
		clusterBinding("cluster-admin", groupSubject(user.SystemPrivilegedGroup)),
		clusterBinding("system:monitoring", groupSubject(user.MonitoringGroup)),
		clusterBinding("system:discovery", everybody),
		clusterBinding("system:basic-user", everybody),
		clusterBinding("system:public-info-viewer", everybody, groupSubject(user.AllUnauthenticated)),
		clusterBinding("system:node-proxier", userSubject("system:kube-proxy")),
		clusterBinding("system:kube-controller-manager", controllerManager),
		clusterBinding("system:kube-scheduler", scheduler),
		clusterBinding("system:volume-scheduler", scheduler),
		clusterBinding("system:kube-dns", accountSubject(metav1.NamespaceSystem, "kube-dns")),
		clusterBinding("system:service-account-issuer-discovery", groupSubject("system:serviceaccounts")),
		clusterBinding("system:cluster-trust-bundle-discovery", groupSubject("system:serviceaccounts")),
		// Nodes get their rights from the Node authorizer; the binding is for those who add a subject to it.
		clusterBinding("system:node"),
	}
	for _, c := range controllers() {
		all = append(all, clusterBinding(controllerPrefix+c.name, accountSubject(metav1.NamespaceSystem, c.name)))
	}
	return all
}

// Roles are the namespaced roles that every cluster begins with.
func Roles() []rbacv1.Role {
	system, public := metav1.NamespaceSystem, metav1.NamespacePublic
	lock := func(name string) rbacv1.Role {
		const verbs = "create get list update watch"
		return role(system, "system::leader-locking-"+name,
			rule(verbs, "coordination.k8s.io", "leases"), rule(verbs, "coordination.k8s.io", "leasecandidates"))
	}
	return []rbacv1.Role{
		role(system, "extension-apiserver-authentication-reader", named(rule(read, "", "configmaps"), "extension-apiserver-authentication")),
		role(system, controllerPrefix+"bootstrap-signer", rule(read, "", "secrets")),
		role(system, controllerPrefix+"cloud-provider", rule("create get list watch", "", "configmaps")),
		role(system, controllerPrefix+"token-cleaner", rule("get list watch delete", "", "secrets"), events()),
		lock("kube-controller-manager"),
		lock("kube-scheduler"),
		role(public, controllerPrefix+"bootstrap-signer", rule(read, "", "configmaps"),
			named(rule("update", "", "configmaps"), "cluster-info"), events()),
	}
}

// RoleBindings are the role bindings that every cluster begins with.
func RoleBindings() []rbacv1.RoleBinding {
	system, public := metav1.NamespaceSystem, metav1.NamespacePublic
	controllerManager, scheduler := userSubject("system:kube-controller-manager"), userSubject("system:kube-scheduler")
	own := func(ns, name string) rbacv1.RoleBinding {
		return binding(ns, controllerPrefix+name, controllerPrefix+name, accountSubject(system, name))
	}
	return []rbacv1.RoleBinding{
		binding(system, "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader", controllerManager, scheduler),
		own(system, "bootstrap-signer"), own(system, "cloud-provider"), own(system, "token-cleaner"), own(public, "bootstrap-signer"),
		binding(system, "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-controller-manager",
			controllerManager, accountSubject(system, "kube-controller-manager")),
		binding(system, "system::leader-locking-kube-scheduler", "system::leader-locking-kube-scheduler",
			scheduler, accountSubject(system, "kube-scheduler")),
	}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	return rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
}

// aggregated is a cluster role that is filled from all that carry the label; label, when not empty, puts it into another.
func aggregated(name, from, label string) rbacv1.ClusterRole {
	r := clusterRole(name)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{from: "true"}}}}
	if label != "" {
		r.Labels[label] = "true"
	}
	return r
}

func labelled(r rbacv1.ClusterRole, label string) rbacv1.ClusterRole {
	r.Labels[label] = "true"
	return r
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) rbacv1.Role {
	return rbacv1.Role{ObjectMeta: meta(namespace, name), Rules: rules}
}

func clusterBinding(name string, subjects ...rbacv1.Subject) rbacv1.ClusterRoleBinding {
	return rbacv1.ClusterRoleBinding{ObjectMeta: meta("", name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}}
}

func binding(namespace, name, role string, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
	return rbacv1.RoleBinding{ObjectMeta: meta(namespace, name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role}}
}

func userSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func groupSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func accountSubject(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}
