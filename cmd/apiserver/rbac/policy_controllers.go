package rbac

import rbacv1 "k8s.io/api/rbac/v1"

const controllerPrefix = "system:controller:"

// controller is one controller's account and what it needs.
type controller struct {
	name  string
	rules []rbacv1.PolicyRule
}

func controllerRoles() []rbacv1.ClusterRole {
	var all []rbacv1.ClusterRole
	for _, c := range controllers() {
		all = append(all, clusterRole(controllerPrefix+c.name, c.rules...))
	}
	return all
}

func controllers() []controller {
	var all []controller
	for _, set := range [][]controller{workloadControllers(), nodeControllers(), serviceControllers(), storageControllers(), clusterControllers()} {
		all = append(all, set...)
	}
	return all
}

func with(name string, rules ...rbacv1.PolicyRule) controller { return controller{name, rules} }

func workloadControllers() []controller {
	return []controller{
		with("cronjob-controller",
			rule("get list watch update", "batch", "cronjobs"),
			rule("create delete get list patch update watch", "batch", "jobs"),
			rule("update", "batch", "cronjobs/status", "cronjobs/finalizers"),
			rule("delete list watch", "", "pods"), events()),
		with("daemon-set-controller",
			rule(read, "apps,extensions", "daemonsets"),
			rule("update", "apps,extensions", "daemonsets/status", "daemonsets/finalizers"),
			rule("list watch", "", "nodes"),
			rule("create delete list watch patch", "", "pods"),
			rule("create", "", "pods/binding"),
			rule("create delete get list patch update watch", "apps", "controllerrevisions"), events()),
		with("deployment-controller",
			rule("get list watch update", "apps,extensions", "deployments"),
			rule("update", "apps,extensions", "deployments/status", "deployments/finalizers"),
			rule("create delete get list patch update watch", "apps,extensions", "replicasets"),
			rule("get list update watch", "", "pods"), events()),
		with("disruption-controller",
			rule(read, "apps,extensions", "deployments", "replicasets"), rule(read, "apps", "statefulsets"),
			rule(read, "", "replicationcontrollers"), rule(read, "policy", "poddisruptionbudgets"),
			rule("update", "policy", "poddisruptionbudgets/status"),
			rule("patch update", "", "pods/status"), rule("get", "*", "*/scale"),
			rule("get", "", "pods"), // before a pod that was evicted long ago counts again, as upstream's does unasked
			events()),
		with("horizontal-pod-autoscaler",
			rule(read, "autoscaling", "horizontalpodautoscalers"), rule("update", "autoscaling", "horizontalpodautoscalers/status"),
			rule("get update", "*", "*/scale"), rule("list watch", "", "pods"),
			rule("list watch", "metrics.k8s.io", "pods"), rule(read, "custom.metrics.k8s.io", "*"),
			rule(read, "external.metrics.k8s.io", "*"), events()),
		with("job-controller",
			rule("get list watch update patch", "batch", "jobs"), rule("update", "batch", "jobs/status", "jobs/finalizers"),
			rule("create delete list watch patch", "", "pods"), events()),
		with("replicaset-controller",
			rule("get list update watch", "apps,extensions", "replicasets"),
			rule("update", "apps,extensions", "replicasets/status", "replicasets/finalizers"),
			rule("create delete list patch watch", "", "pods"), events()),
		with("replication-controller",
			rule("get list update watch", "", "replicationcontrollers"),
			rule("update", "", "replicationcontrollers/status", "replicationcontrollers/finalizers"),
			rule("create delete list patch watch", "", "pods"), events()),
		with("statefulset-controller",
			rule("list watch", "", "pods"), rule(read, "apps", "statefulsets"),
			rule("update", "apps", "statefulsets/status", "statefulsets/finalizers"),
			rule("get create delete update patch", "", "pods"), rule("update", "", "pods/finalizers"),
			rule("get create delete update patch list watch", "apps", "controllerrevisions"),
			rule("get create delete update list watch", "", "persistentvolumeclaims"), events()),
		with("ttl-after-finished-controller", rule("get list watch delete", "batch", "jobs"), events()),
	}
}

func nodeControllers() []controller {
	return []controller{
		with("node-controller",
			rule("get list update delete patch watch", "", "nodes"), rule("patch update", "", "nodes/status"),
			rule("patch update", "", "pods/status"), rule("list watch delete get", "", "pods"), events()),
		with("device-taint-eviction-controller",
			rule("get list watch delete", "", "pods"), rule("patch update", "", "pods/status"),
			rule(read, "resource.k8s.io", "deviceclasses", "devicetaintrules", "resourceclaims", "resourceslices"),
			rule("patch update", "resource.k8s.io", "devicetaintrules/status"), events()),
		with("pod-garbage-collector",
			rule("list watch delete", "", "pods"), rule("get list watch", "", "nodes"), rule("patch", "", "pods/status")),
		with("route-controller", rule("list watch", "", "nodes"), rule("patch", "", "nodes/status"), events()),
		with("ttl-controller", rule("update patch list watch", "", "nodes"), events()),
		with("certificate-controller",
			rule("get list watch delete", "certificates.k8s.io", "certificatesigningrequests"),
			rule("update", "certificates.k8s.io", "certificatesigningrequests/status", "certificatesigningrequests/approval"),
			named(rule("approve sign", "certificates.k8s.io", "signers"), "kubernetes.io/kube-apiserver-client-kubelet"),
			named(rule("sign", "certificates.k8s.io", "signers"), "kubernetes.io/legacy-unknown", "kubernetes.io/kube-apiserver-client",
				"kubernetes.io/kubelet-serving"),
			rule("create", "authorization.k8s.io", "subjectaccessreviews"), events()),
		with("podcertificaterequestcleaner", rule("get list watch delete", "certificates.k8s.io", "podcertificaterequests")),
	}
}

func serviceControllers() []controller {
	return []controller{
		with("endpoint-controller",
			rule(read, "", "services", "pods"), rule("get list create update delete watch", "", "endpoints"),
			rule("create", "", "endpoints/restricted"), events()),
		with("endpointslice-controller",
			rule(read, "", "services", "pods", "nodes"),
			// Owner references that block deletion need it of their owner.
			rule("update", "", "services/finalizers"),
			rule("get list create update delete watch", "discovery.k8s.io", "endpointslices"),
			events()),
		with("endpointslicemirroring-controller",
			rule(read, "", "services", "endpoints"), rule("update", "", "endpoints/finalizers", "services/finalizers"),
			rule("get list create update delete watch", "discovery.k8s.io", "endpointslices"),
			events()),
		with("service-controller",
			rule(read, "", "services"), rule("patch update", "", "services/status"), rule("list watch", "", "nodes"), events()),
		with("service-cidrs-controller",
			rule("get list watch patch update", "networking.k8s.io", "servicecidrs"),
			rule("patch update", "networking.k8s.io", "servicecidrs/finalizers", "servicecidrs/status"),
			rule(read, "networking.k8s.io", "ipaddresses"), events()),
	}
}

func storageControllers() []controller {
	return []controller{
		with("attachdetach-controller",
			rule("list watch", "", "persistentvolumes", "persistentvolumeclaims"), rule(read, "", "nodes"),
			rule("patch update", "", "nodes/status"), rule("list watch", "", "pods"), events(),
			rule("get create delete list watch", "storage.k8s.io", "volumeattachments"),
			rule(read, "storage.k8s.io", "csidrivers", "csinodes")),
		with("expand-controller",
			rule("get list watch update patch", "", "persistentvolumes"),
			rule("update patch", "", "persistentvolumeclaims/status"), rule(read, "", "persistentvolumeclaims"), events()),
		with("ephemeral-volume-controller",
			rule(read, "", "pods"), rule("update", "", "pods/finalizers"),
			rule("get list watch create", "", "persistentvolumeclaims"), events()),
		with("persistent-volume-binder",
			rule("get list watch create update delete", "", "persistentvolumes"), rule("update", "", "persistentvolumes/status"),
			rule("get list watch update", "", "persistentvolumeclaims"), rule("update", "", "persistentvolumeclaims/status"),
			rule("list watch get create delete", "", "pods"), rule(read, "storage.k8s.io", "storageclasses"),
			rule("list watch", "", "nodes"), rule("watch", "", "events"), events()),
		with("pv-protection-controller", rule("get list watch update", "", "persistentvolumes"), events()),
		with("pvc-protection-controller", rule("get list watch update", "", "persistentvolumeclaims"),
			rule("update", "", "persistentvolumeclaims/status"), rule(read, "", "pods"), events()),
		with("volumeattributesclass-protection-controller",
			rule(read, "", "persistentvolumeclaims", "persistentvolumes"),
			rule("get list watch update", "storage.k8s.io", "volumeattributesclasses"), events()),
		with("resource-claim-controller",
			rule(read, "", "pods"), rule("update", "", "pods/finalizers"),
			rule("get list watch create delete", "resource.k8s.io", "resourceclaims"),
			rule("update patch", "resource.k8s.io", "resourceclaims", "resourceclaims/status", "resourceclaims/binding"),
			rule("update patch", "", "pods/status"), events()),
		with("selinux-warning-controller",
			rule(read, "", "persistentvolumes", "persistentvolumeclaims", "pods"), rule(read, "storage.k8s.io", "csidrivers"), events()),
	}
}

func clusterControllers() []controller {
	return []controller{
		// It writes roles of any content: escalate stands for holding every right.
		with("clusterrole-aggregation-controller",
			rule("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")),
		with("generic-garbage-collector", rule("delete get list patch update watch", "*", "*"), events()),
		with("namespace-controller",
			rule("get list delete watch", "", "namespaces"), rule("update", "", "namespaces/finalize", "namespaces/status"),
			rule("get list watch delete deletecollection", "*", "*")),
		with("resourcequota-controller", rule("list watch", "*", "*"), rule("update", "", "resourcequotas/status"), events()),
		with("service-account-controller", rule("create", "", "serviceaccounts"), events()),
		with("root-ca-cert-publisher", rule("create update", "", "configmaps"), events()),
		with("legacy-service-account-token-cleaner",
			named(rule("get", "", "configmaps"), "kube-apiserver-legacy-service-account-token-tracking"),
			rule("delete patch", "", "secrets")),
		with("validatingadmissionpolicy-status-controller",
			rule(read, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
			rule("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"), events()),
		with("storage-version-migrator-controller",
			// A patch of what is gone counts as its creation, which then fails by its UID.
			rule("create list patch", "*", "*"),
			rule("update", "storagemigration.k8s.io", "storageversionmigrations/status")),
		with("kube-apiserver-serving-clustertrustbundle-publisher",
			named(rule("attest", "certificates.k8s.io", "signers"), "kubernetes.io/kube-apiserver-serving"),
			rule("create update delete list watch", "certificates.k8s.io", "clustertrustbundles"), events()),
	}
}
