package rbac

import rbacv1 "k8s.io/api/rbac/v1"

// componentRoles are for the parts of a cluster and its add-ons.
func componentRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("system:node", NodeRules()...),
		clusterRole("system:node-problem-detector", rule("get", "", "nodes"), rule("patch", "", "nodes/status"), events()),
		clusterRole("system:node-proxier",
			rule("list watch", "", "services", "endpoints"),
			rule(read, "", "nodes"),
			events(),
			rule("list watch", "discovery.k8s.io", "endpointslices"),
			rule("list watch", "networking.k8s.io", "servicecidrs")),
		clusterRole("system:kubelet-api-admin",
			rule(read, "", "nodes"), rule("proxy", "", "nodes"),
			rule("*", "", "nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log"),
			rule("*", "", "nodes/configz", "nodes/healthz", "nodes/pods")),
		clusterRole("system:node-bootstrapper", rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests")),
		clusterRole("system:auth-delegator",
			rule("create", "authentication.k8s.io", "tokenreviews"),
			rule("create", "authorization.k8s.io", "subjectaccessreviews")),
		clusterRole("system:kube-aggregator", rule(read, "", "services", "endpoints")),
		clusterRole("system:kube-controller-manager", controllerManagerRules()...),
		clusterRole("system:kube-scheduler", schedulerRules()...),
		clusterRole("system:volume-scheduler",
			rule("get list patch update watch", "", "persistentvolumes"),
			rule(read, "storage.k8s.io", "storageclasses"),
			rule("get list patch update watch", "", "persistentvolumeclaims")),
		clusterRole("system:kube-dns", rule("list watch", "", "endpoints", "services")),
		clusterRole("system:persistent-volume-provisioner",
			rule("create delete get list watch", "", "persistentvolumes"),
			rule("get list update watch", "", "persistentvolumeclaims"),
			rule(read, "storage.k8s.io", "storageclasses"),
			rule("watch", "", "events"), events()),
		clusterRole("system:heapster", rule(read, "", "events", "pods", "nodes", "namespaces"), rule(read, "extensions", "deployments")),
	}
}

// certificateRoles let who holds them ask for, or approve, certificates of one signer.
func certificateRoles() []rbacv1.ClusterRole {
	const prefix = "system:certificates.k8s.io:"
	approver := func(name, signer string) rbacv1.ClusterRole {
		return clusterRole(prefix+name, named(rule("approve", "certificates.k8s.io", "signers"), signer))
	}
	return []rbacv1.ClusterRole{
		clusterRole(prefix+"certificatesigningrequests:nodeclient", rule("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")),
		clusterRole(prefix+"certificatesigningrequests:selfnodeclient", rule("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")),
		approver("legacy-unknown-approver", "kubernetes.io/legacy-unknown"),
		approver("kubelet-serving-approver", "kubernetes.io/kubelet-serving"),
		approver("kube-apiserver-client-approver", "kubernetes.io/kube-apiserver-client"),
		approver("kube-apiserver-client-kubelet-approver", "kubernetes.io/kube-apiserver-client-kubelet"),
	}
}

// controllerManagerRules are what the process does itself; its controllers have accounts of their own.
func controllerManagerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		events(),
		rule("create", "coordination.k8s.io", "leases"),
		named(rule("get update", "coordination.k8s.io", "leases"), "kube-controller-manager"),
		rule("create", "", "secrets", "serviceaccounts"),
		rule("delete", "", "secrets"),
		rule("get", "", "namespaces", "secrets", "serviceaccounts", "configmaps"),
		rule("update", "", "secrets", "serviceaccounts"),
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "subjectaccessreviews"),
		// Informers of quota and garbage collection watch whatever the server has.
		rule("list watch", "*", "*"),
		rule("create", "", "serviceaccounts/token"),
	}
}

func schedulerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		events(),
		rule("create", "coordination.k8s.io", "leases"),
		named(rule("get list update watch", "coordination.k8s.io", "leases"), "kube-scheduler"),
		rule(readWrite, "coordination.k8s.io", "leasecandidates"),
		rule(read, "", "nodes"),
		rule("delete get list watch", "", "pods"),
		rule("create", "", "bindings", "pods/binding"),
		rule("patch update", "", "pods/status"),
		rule(read, "", "services", "replicationcontrollers"),
		rule(read, "apps,extensions", "replicasets"),
		rule(read, "apps", "statefulsets"),
		rule(read, "policy", "poddisruptionbudgets"),
		rule(read, "", "persistentvolumeclaims", "persistentvolumes", "namespaces"),
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "subjectaccessreviews"),
		rule(read, "storage.k8s.io", "csinodes", "csidrivers", "csistoragecapacities", "storageclasses", "volumeattachments"),
		// It reserves claims for pods, and makes those of extended resources.
		rule("create delete get list watch patch update", "resource.k8s.io", "resourceclaims"),
		rule("get list patch update watch", "resource.k8s.io", "resourceclaims/status"),
		rule("patch update", "resource.k8s.io", "resourceclaims/binding"),
		rule("update", "", "pods/finalizers"),
		rule(read, "resource.k8s.io", "deviceclasses", "resourceslices", "devicetaintrules"),
	}
}
