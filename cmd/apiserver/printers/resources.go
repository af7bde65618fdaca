package printers

import "k8s.io/apimachinery/pkg/runtime/schema"

// printerFor finds a resource's columns. Subresources share those of the kind they answer with.
func printerFor(gr schema.GroupResource) (printer, bool) {
	p, ok := byGroup(gr.Group)[gr.Resource]
	if !ok {
		return printer{}, false
	}
	return p(), true
}

func byGroup(group string) map[string]func() printer {
	switch group {
	case "":
		return map[string]func() printer{
			"pods": podPrinter, "nodes": nodePrinter, "services": servicePrinter, "endpoints": endpointsPrinter, "namespaces": namespacePrinter,
			"events": eventPrinter, "secrets": secretPrinter, "configmaps": configMapPrinter, "serviceaccounts": serviceAccountPrinter,
			"persistentvolumes": volumePrinter, "persistentvolumeclaims": claimPrinter, "replicationcontrollers": replicationControllerPrinter,
			"podtemplates": podTemplatePrinter, "resourcequotas": quotaPrinter, "componentstatuses": componentStatusPrinter,
			"replicationcontrollers/scale": scalePrinter,
		}
	case "events.k8s.io":
		return map[string]func() printer{"events": eventPrinter}
	case "apps":
		return map[string]func() printer{
			"deployments": deploymentPrinter, "replicasets": replicaSetPrinter, "daemonsets": daemonSetPrinter, "statefulsets": statefulSetPrinter,
			"controllerrevisions": controllerRevisionPrinter,
			"deployments/scale":   scalePrinter, "replicasets/scale": scalePrinter, "statefulsets/scale": scalePrinter,
		}
	case "batch":
		return map[string]func() printer{"jobs": jobPrinter, "cronjobs": cronJobPrinter}
	case "autoscaling":
		return map[string]func() printer{"horizontalpodautoscalers": autoscalerPrinter, "scales": scalePrinter}
	case "policy":
		return map[string]func() printer{"poddisruptionbudgets": disruptionBudgetPrinter}
	case "discovery.k8s.io":
		return map[string]func() printer{"endpointslices": endpointSlicePrinter}
	case "networking.k8s.io":
		return map[string]func() printer{
			"ingresses": ingressPrinter, "ingressclasses": ingressClassPrinter, "networkpolicies": networkPolicyPrinter,
			"ipaddresses": ipAddressPrinter, "servicecidrs": serviceCIDRPrinter,
		}
	case "rbac.authorization.k8s.io":
		return map[string]func() printer{"rolebindings": roleBindingPrinter, "clusterrolebindings": clusterRoleBindingPrinter}
	case "certificates.k8s.io":
		return map[string]func() printer{"certificatesigningrequests": signingRequestPrinter, "clustertrustbundles": trustBundlePrinter,
			"podcertificaterequests": podCertificatePrinter}
	case "coordination.k8s.io":
		return map[string]func() printer{"leases": leasePrinter}
	case "scheduling.k8s.io":
		return map[string]func() printer{"priorityclasses": priorityClassPrinter}
	case "node.k8s.io":
		return map[string]func() printer{"runtimeclasses": runtimeClassPrinter}
	case "storage.k8s.io":
		return map[string]func() printer{
			"storageclasses": storageClassPrinter, "volumeattributesclasses": attributesClassPrinter, "volumeattachments": volumeAttachmentPrinter,
			"csidrivers": csiDriverPrinter, "csinodes": csiNodePrinter, "csistoragecapacities": csiCapacityPrinter,
		}
	case "admissionregistration.k8s.io":
		return map[string]func() printer{
			"mutatingwebhookconfigurations": mutatingWebhookPrinter, "validatingwebhookconfigurations": validatingWebhookPrinter,
			"validatingadmissionpolicies": validatingPolicyPrinter, "validatingadmissionpolicybindings": validatingBindingPrinter,
			"mutatingadmissionpolicies": mutatingPolicyPrinter, "mutatingadmissionpolicybindings": mutatingBindingPrinter,
		}
	case "flowcontrol.apiserver.k8s.io":
		return map[string]func() printer{"flowschemas": flowSchemaPrinter, "prioritylevelconfigurations": priorityLevelPrinter}
	case "storagemigration.k8s.io":
		return map[string]func() printer{"storageversionmigrations": migrationPrinter}
	case "resource.k8s.io":
		return map[string]func() printer{
			"deviceclasses": deviceClassPrinter, "devicetaintrules": deviceTaintRulePrinter, "resourceclaims": resourceClaimPrinter,
			"resourceclaimtemplates": claimTemplatePrinter, "resourceslices": resourceSlicePrinter,
		}
	}
	return nil
}
