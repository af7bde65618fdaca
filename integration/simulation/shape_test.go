package simulation

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	autoscalingclient "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
)

// The API's shape. Each group and each resource embeds one level deeper the whole interface, so that what resource has wins.

type (
	coreRest   struct{ coreclient.CoreV1Interface }
	appsRest   struct{ appsclient.AppsV1Interface }
	batchRest  struct{ batchclient.BatchV1Interface }
	policyRest struct{ policyclient.PolicyV1Interface }
	coreGroup  struct {
		coreRest
		client client
	}
	appsGroup struct {
		appsRest
		client client
	}
	batchGroup struct {
		batchRest
		client client
	}
	policyGroup struct {
		policyRest
		client client
	}
)

func (c client) AutoscalingV2() autoscalingclient.AutoscalingV2Interface {
	return autoscalingGroup{client: c}
}
func (c client) DiscoveryV1() discoveryclient.DiscoveryV1Interface { return discoveryGroup{client: c} }

type autoscalingRest struct {
	autoscalingclient.AutoscalingV2Interface
}

type autoscalingGroup struct {
	autoscalingRest
	client client
}

type scalerRest struct {
	autoscalingclient.HorizontalPodAutoscalerInterface
}

type scalerClient struct {
	resource[autoscalingv2.HorizontalPodAutoscaler]
	scalerRest
}

func (g autoscalingGroup) HorizontalPodAutoscalers(string) autoscalingclient.HorizontalPodAutoscalerInterface {
	return scalerClient{resource: resource[autoscalingv2.HorizontalPodAutoscaler]{g.client, "horizontalpodautoscalers"}}
}

type discoveryRest struct {
	discoveryclient.DiscoveryV1Interface
}

type discoveryGroup struct {
	discoveryRest
	client client
}

type sliceRest struct {
	discoveryclient.EndpointSliceInterface
}

type sliceClient struct {
	resource[discoveryv1.EndpointSlice]
	sliceRest
}

func (g discoveryGroup) EndpointSlices(string) discoveryclient.EndpointSliceInterface {
	return sliceClient{resource: resource[discoveryv1.EndpointSlice]{g.client, "endpointslices"}}
}

type namespaceRest struct{ coreclient.NamespaceInterface }

type namespaceClient struct {
	resource[corev1.Namespace]
	namespaceRest
}

func (g coreGroup) Namespaces() coreclient.NamespaceInterface {
	return namespaceClient{resource: resource[corev1.Namespace]{g.client, "namespaces"}}
}

func (c client) CoreV1() coreclient.CoreV1Interface       { return coreGroup{client: c} }
func (c client) AppsV1() appsclient.AppsV1Interface       { return appsGroup{client: c} }
func (c client) BatchV1() batchclient.BatchV1Interface    { return batchGroup{client: c} }
func (c client) PolicyV1() policyclient.PolicyV1Interface { return policyGroup{client: c} }

type podRest struct{ coreclient.PodInterface }

type podClient struct {
	resource[corev1.Pod]
	podRest
}

func (g coreGroup) Pods(string) coreclient.PodInterface {
	return podClient{resource: resource[corev1.Pod]{g.client, "pods"}}
}

type nodeRest struct{ coreclient.NodeInterface }

type nodeClient struct {
	resource[corev1.Node]
	nodeRest
}

func (g coreGroup) Nodes() coreclient.NodeInterface {
	return nodeClient{resource: resource[corev1.Node]{g.client, "nodes"}}
}

type persistentVolumeClaimRest struct {
	coreclient.PersistentVolumeClaimInterface
}

type persistentVolumeClaimClient struct {
	resource[corev1.PersistentVolumeClaim]
	persistentVolumeClaimRest
}

func (g coreGroup) PersistentVolumeClaims(string) coreclient.PersistentVolumeClaimInterface {
	return persistentVolumeClaimClient{resource: resource[corev1.PersistentVolumeClaim]{g.client, "persistentvolumeclaims"}}
}

type persistentVolumeRest struct {
	coreclient.PersistentVolumeInterface
}

type persistentVolumeClient struct {
	resource[corev1.PersistentVolume]
	persistentVolumeRest
}

func (g coreGroup) PersistentVolumes() coreclient.PersistentVolumeInterface {
	return persistentVolumeClient{resource: resource[corev1.PersistentVolume]{g.client, "persistentvolumes"}}
}

type replicationControllerRest struct {
	coreclient.ReplicationControllerInterface
}

type replicationControllerClient struct {
	resource[corev1.ReplicationController]
	replicationControllerRest
}

func (g coreGroup) ReplicationControllers(string) coreclient.ReplicationControllerInterface {
	return replicationControllerClient{resource: resource[corev1.ReplicationController]{g.client, "replicationcontrollers"}}
}

type resourceQuotaRest struct {
	coreclient.ResourceQuotaInterface
}

type resourceQuotaClient struct {
	resource[corev1.ResourceQuota]
	resourceQuotaRest
}

func (g coreGroup) ResourceQuotas(string) coreclient.ResourceQuotaInterface {
	return resourceQuotaClient{resource: resource[corev1.ResourceQuota]{g.client, "resourcequotas"}}
}

type replicaSetRest struct{ appsclient.ReplicaSetInterface }

type replicaSetClient struct {
	resource[appsv1.ReplicaSet]
	replicaSetRest
}

func (g appsGroup) ReplicaSets(string) appsclient.ReplicaSetInterface {
	return replicaSetClient{resource: resource[appsv1.ReplicaSet]{g.client, "replicasets"}}
}

type deploymentRest struct{ appsclient.DeploymentInterface }

type deploymentClient struct {
	resource[appsv1.Deployment]
	deploymentRest
}

func (g appsGroup) Deployments(string) appsclient.DeploymentInterface {
	return deploymentClient{resource: resource[appsv1.Deployment]{g.client, "deployments"}}
}

type statefulSetRest struct {
	appsclient.StatefulSetInterface
}

type statefulSetClient struct {
	resource[appsv1.StatefulSet]
	statefulSetRest
}

func (g appsGroup) StatefulSets(string) appsclient.StatefulSetInterface {
	return statefulSetClient{resource: resource[appsv1.StatefulSet]{g.client, "statefulsets"}}
}

type daemonSetRest struct{ appsclient.DaemonSetInterface }

type daemonSetClient struct {
	resource[appsv1.DaemonSet]
	daemonSetRest
}

func (g appsGroup) DaemonSets(string) appsclient.DaemonSetInterface {
	return daemonSetClient{resource: resource[appsv1.DaemonSet]{g.client, "daemonsets"}}
}

type controllerRevisionRest struct {
	appsclient.ControllerRevisionInterface
}

type controllerRevisionClient struct {
	resource[appsv1.ControllerRevision]
	controllerRevisionRest
}

func (g appsGroup) ControllerRevisions(string) appsclient.ControllerRevisionInterface {
	return controllerRevisionClient{resource: resource[appsv1.ControllerRevision]{g.client, "controllerrevisions"}}
}

type jobRest struct{ batchclient.JobInterface }

type jobClient struct {
	resource[batchv1.Job]
	jobRest
}

func (g batchGroup) Jobs(string) batchclient.JobInterface {
	return jobClient{resource: resource[batchv1.Job]{g.client, "jobs"}}
}

type cronJobRest struct{ batchclient.CronJobInterface }

type cronJobClient struct {
	resource[batchv1.CronJob]
	cronJobRest
}

func (g batchGroup) CronJobs(string) batchclient.CronJobInterface {
	return cronJobClient{resource: resource[batchv1.CronJob]{g.client, "cronjobs"}}
}

type podDisruptionBudgetRest struct {
	policyclient.PodDisruptionBudgetInterface
}

type podDisruptionBudgetClient struct {
	resource[policyv1.PodDisruptionBudget]
	podDisruptionBudgetRest
}

func (g policyGroup) PodDisruptionBudgets(string) policyclient.PodDisruptionBudgetInterface {
	return podDisruptionBudgetClient{resource: resource[policyv1.PodDisruptionBudget]{g.client, "poddisruptionbudgets"}}
}
