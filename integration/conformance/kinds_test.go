package conformance

const (
	podTemplate = "template: {metadata: {labels: {app: $X}}, spec: {containers: [{name: c, image: nowhere.invalid/none}]}}"
	workload    = "spec: {replicas: 0, selector: {matchLabels: {app: $X}}, " + podTemplate + "}"
	condition   = `{"conditions":[{"type":"Conf","status":"True","reason":"E2E","message":"set","lastTransitionTime":"2026-01-01T00:00:00Z"}]}`
	vap         = "spec: {matchConstraints: {resourceRules: [{apiGroups: [conf.example], apiVersions: [v1], operations: [CREATE], resources: [nothings]}]}, "
)

// lifecycleTests are the rows that want an API to be served with all its verbs.
func lifecycleTests() map[string]test {
	rows := map[string]test{}
	for name, k := range apiKinds() {
		rows[name] = test{quick: !k.slow, run: k.run}
	}
	return rows
}

func apiKinds() map[string]kind {
	const machinery, apps, network, node, storage = "[sig-api-machinery] ", "[sig-apps] ", "[sig-network] ", "[sig-node] ", "[sig-storage] "
	admission := "admissionregistration.k8s.io/v1/"
	lease := kind{resource: "coordination.k8s.io/v1/leases", object: "kind: Lease\nspec: {holderIdentity: me, leaseDurationSeconds: 30}", change: `{"spec":{"leaseDurationSeconds":50}}`}
	configMap := kind{resource: "v1/configmaps", object: "kind: ConfigMap\ndata: {a: b}", change: `{"data":{"a":"c"}}`}
	secret := kind{resource: "v1/secrets", object: "kind: Secret\nstringData: {a: b}", change: `{"data":{"a":"Yw=="}}`}
	template := kind{resource: "v1/podtemplates", object: "kind: PodTemplate\n" + podTemplate}
	event := kind{resource: "v1/events", object: "kind: Event\ninvolvedObject: {namespace: $W, kind: Pod, name: p}\nreason: Conf\nmessage: m\ntype: Normal", change: `{"message":"other"}`}
	newEvent := kind{resource: "events.k8s.io/v1/events", object: "kind: Event\neventTime: '2026-01-01T00:00:00.000000Z'\nreportingController: conf\nreportingInstance: i\naction: Do\n" +
		"reason: Conf\ntype: Normal\nregarding: {kind: Pod, name: p, namespace: $W}\nnote: text", change: `{"series":{"count":2,"lastObservedTime":"2026-01-02T00:00:00.000000Z"}}`}
	pdb := kind{resource: "policy/v1/poddisruptionbudgets", object: "kind: PodDisruptionBudget\nspec: {minAvailable: 1, selector: {matchLabels: {app: $X}}}", change: `{"spec":{"minAvailable":2}}`}
	quota := kind{resource: "v1/resourcequotas", object: "kind: ResourceQuota\nspec: {hard: {pods: '5'}}", change: `{"spec":{"hard":{"pods":"10"}}}`}
	device := "[DRA] CRUD Tests resource.k8s.io/v1 "
	request := "devices: {requests: [{name: r, exactly: {deviceClassName: conf}}]}"
	csr := kind{resource: "certificates.k8s.io/v1/certificatesigningrequests", cluster: true, object: "kind: CertificateSigningRequest\nspec: {signerName: conf.example/signer, usages: [client auth], request: '" + csrBase64 + "'}",
		status: condition}
	service := kind{resource: "v1/services", object: "kind: Service\nspec: {selector: {a: b}, ports: [{port: 80}]}"}
	return map[string]kind{
		machinery + "API priority and fairness should support FlowSchema API operations": {resource: "flowcontrol.apiserver.k8s.io/v1/flowschemas", cluster: true,
			object: "kind: FlowSchema\nspec: {matchingPrecedence: 10000, priorityLevelConfiguration: {name: nothing}, rules: [{subjects: [{kind: User, user: {name: conf}}], nonResourceRules: [{verbs: ['*'], nonResourceURLs: [/conf]}]}]}",
			change: `{"spec":{"matchingPrecedence":9999}}`, status: `{"conditions":[{"type":"Conf","status":"False","reason":"E2E"}]}`},
		machinery + "API priority and fairness should support PriorityLevelConfiguration API operations": {resource: "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", cluster: true,
			object: "kind: PriorityLevelConfiguration\nspec: {type: Limited, limited: {nominalConcurrencyShares: 2, limitResponse: {type: Reject}}}",
			change: `{"spec":{"limited":{"nominalConcurrencyShares":4}}}`, status: `{"conditions":[{"type":"Conf","status":"False","reason":"E2E"}]}`},
		machinery + "MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicy API operations": {resource: admission + "mutatingadmissionpolicies", cluster: true,
			object: "kind: MutatingAdmissionPolicy\n" + vap + "reinvocationPolicy: Never, mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{}'}}]}"},
		machinery + "MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicyBinding API operations": {resource: admission + "mutatingadmissionpolicybindings", cluster: true,
			object: "kind: MutatingAdmissionPolicyBinding\nspec: {policyName: none}"},
		machinery + "ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicy API operations": {resource: admission + "validatingadmissionpolicies", cluster: true,
			object: "kind: ValidatingAdmissionPolicy\n" + vap + "validations: [{expression: 'true'}]}", change: `{"spec":{"failurePolicy":"Ignore"}}`, status: condition},
		machinery + "ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicyBinding API operations": {resource: admission + "validatingadmissionpolicybindings", cluster: true,
			object: "kind: ValidatingAdmissionPolicyBinding\nspec: {policyName: none, validationActions: [Deny]}"},
		machinery + "StorageVersionMigration CRUD Tests storagemigration.k8s.io/v1 StorageVersionMigration": {resource: "storagemigration.k8s.io/v1/storageversionmigrations", cluster: true,
			object: "kind: StorageVersionMigration\nspec: {resource: {group: conf.example, resource: nothings}}"},
		machinery + "ResourceQuota should manage the lifecycle of a ResourceQuota":                                                                quota,
		machinery + "ResourceQuota should be able to update and delete ResourceQuota.":                                                            quota,
		apps + "CronJob should support CronJob API operations":                                                                                    {resource: "batch/v1/cronjobs", object: "kind: CronJob\nspec: {schedule: '0 0 1 1 *', suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: nowhere.invalid/none}]}}}}}", status: `{"lastScheduleTime":"2026-01-01T00:00:00Z"}`},
		apps + "DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of PodDisruptionBudgets": pdb,
		apps + "DisruptionController should create a PodDisruptionBudget":                                                                         pdb,
		apps + "Daemon set should list and delete a collection of DaemonSets":                                                                     {resource: "apps/v1/daemonsets", object: "kind: DaemonSet\nspec: {selector: {matchLabels: {app: $X}}, template: {metadata: {labels: {app: $X}}, spec: {nodeSelector: {no: node}, containers: [{name: c, image: nowhere.invalid/none}]}}}"},
		apps + "Daemon set should verify changes to a daemon set status":                                                                          {resource: "apps/v1/daemonsets", object: "kind: DaemonSet\nspec: {selector: {matchLabels: {app: $X}}, template: {metadata: {labels: {app: $X}}, spec: {nodeSelector: {no: node}, containers: [{name: c, image: nowhere.invalid/none}]}}}", status: condition},
		apps + "Deployment should validate Deployment Status endpoints":                                                                           {resource: "apps/v1/deployments", object: "kind: Deployment\n" + workload, status: condition},
		apps + "ReplicaSet should list and delete a collection of ReplicaSets":                                                                    {resource: "apps/v1/replicasets", object: "kind: ReplicaSet\n" + workload},
		apps + "ReplicaSet should validate Replicaset Status endpoints":                                                                           {resource: "apps/v1/replicasets", object: "kind: ReplicaSet\n" + workload, status: condition},
		apps + "StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of StatefulSets":        {resource: "apps/v1/statefulsets", object: "kind: StatefulSet\n" + workload},
		apps + "StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints":                      {resource: "apps/v1/statefulsets", object: "kind: StatefulSet\n" + workload, status: condition},
		apps + "Job should apply changes to a job status":                                                                                         {resource: "batch/v1/jobs", object: "kind: Job\nspec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: nowhere.invalid/none}]}}}", status: condition},
		"[sig-auth] Certificates API [Privileged:ClusterAdmin] should support CSR API operations":                                                 csr,
		"[sig-auth] ServiceAccounts should run through the lifecycle of a ServiceAccount":                                                         {resource: "v1/serviceaccounts", object: "kind: ServiceAccount", change: `{"automountServiceAccountToken":false}`},
		"[sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] CRUD Tests certificates.k8s.io/v1 ClusterTrustBundles [MinimumKubeletVersion:1.37]": {
			resource: "certificates.k8s.io/v1/clustertrustbundles", cluster: true, object: "kind: ClusterTrustBundle\nspec: {trustBundle: '" + trustBundle + "'}"},
		"[sig-instrumentation] Events API should delete a collection of events":                                                           newEvent,
		"[sig-instrumentation] Events API should ensure that an event can be fetched, patched, deleted, and listed":                       newEvent,
		"[sig-instrumentation] Events should delete a collection of events":                                                               event,
		"[sig-instrumentation] Events should manage the lifecycle of an event":                                                            event,
		network + "EndpointSlice should support creating EndpointSlice API operations":                                                    {resource: "discovery.k8s.io/v1/endpointslices", object: "kind: EndpointSlice\naddressType: IPv4\nendpoints: [{addresses: [10.1.2.3]}]\nports: [{name: p, port: 80}]"},
		network + "Endpoints should test the lifecycle of an Endpoint":                                                                    {resource: "v1/endpoints", object: "kind: Endpoints\nsubsets: [{addresses: [{ip: 10.0.0.24}], ports: [{name: http, port: 80}]}]"},
		network + "Ingress API should support creating Ingress API operations":                                                            {resource: "networking.k8s.io/v1/ingresses", object: "kind: Ingress\nspec: {defaultBackend: {service: {name: s, port: {number: 80}}}}", status: `{"loadBalancer":{"ingress":[{"ip":"169.1.1.1"}]}}`},
		network + "IngressClass API should support creating IngressClass API operations":                                                  {resource: "networking.k8s.io/v1/ingressclasses", cluster: true, object: "kind: IngressClass\nspec: {controller: conf.example/c}"},
		network + "ServiceCIDR and IPAddress API should support IPAddress API operations":                                                 {resource: "networking.k8s.io/v1/ipaddresses", cluster: true, name: "192.168.77.$N", object: "kind: IPAddress\nspec: {parentRef: {resource: services, name: s, namespace: conf}}"},
		network + "ServiceCIDR and IPAddress API should support ServiceCIDR API operations":                                               {resource: "networking.k8s.io/v1/servicecidrs", cluster: true, slow: true, object: "kind: ServiceCIDR\nspec: {cidrs: ['10.196.$N.0/24']}", status: condition},
		network + "Services should delete a collection of services":                                                                       service,
		network + "Services should complete a service status lifecycle":                                                                   {resource: "v1/services", object: "kind: Service\nspec: {type: LoadBalancer, ports: [{port: 80}]}", status: `{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}`},
		node + "ConfigMap should run through a ConfigMap lifecycle":                                                                       configMap,
		node + "ConfigMap should update ConfigMap successfully":                                                                           configMap,
		node + "Secrets should patch a secret":                                                                                            secret,
		node + "Lease lease API should be available":                                                                                      lease,
		node + "Node Lifecycle should run through the lifecycle of a node":                                                                {resource: "v1/nodes", cluster: true, object: "kind: Node\nspec: {unschedulable: true}", status: condition},
		node + "PodTemplates should delete a collection of pod templates":                                                                 template,
		node + "PodTemplates should replace a pod template":                                                                               template,
		node + "PodTemplates should run the lifecycle of PodTemplates":                                                                    template,
		node + "RuntimeClass should support RuntimeClasses API operations":                                                                {resource: "node.k8s.io/v1/runtimeclasses", cluster: true, object: "kind: RuntimeClass\nhandler: conf"},
		node + device + "DeviceClass":                                                                                                     {resource: "resource.k8s.io/v1/deviceclasses", cluster: true, object: "kind: DeviceClass\nspec: {}"},
		node + device + "DeviceTaintRule":                                                                                                 {resource: "resource.k8s.io/v1/devicetaintrules", cluster: true, object: "kind: DeviceTaintRule\nspec: {deviceSelector: {driver: conf.example}, taint: {key: conf.example/t, effect: NoSchedule}}"},
		node + device + "ResourceClaim":                                                                                                   {resource: "resource.k8s.io/v1/resourceclaims", object: "kind: ResourceClaim\nspec: {" + request + "}"},
		node + device + "ResourceClaimTemplate":                                                                                           {resource: "resource.k8s.io/v1/resourceclaimtemplates", object: "kind: ResourceClaimTemplate\nspec: {spec: {" + request + "}}"},
		node + device + "ResourceSlice":                                                                                                   {resource: "resource.k8s.io/v1/resourceslices", cluster: true, object: "kind: ResourceSlice\nspec: {driver: conf.example, nodeName: none, pool: {name: $X, generation: 1, resourceSliceCount: 1}}"},
		"[sig-scheduling] LimitRange should list, patch and delete a LimitRange by collection":                                            {resource: "v1/limitranges", object: "kind: LimitRange\nspec: {limits: [{type: Container, max: {cpu: '2'}}]}", change: `{"spec":{"limits":[{"type":"Container","max":{"cpu":"3"}}]}}`},
		storage + "CSIInlineVolumes should run through the lifecycle of a CSIDriver":                                                      {resource: "storage.k8s.io/v1/csidrivers", cluster: true, object: "kind: CSIDriver\nspec: {attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Ephemeral]}"},
		storage + "CSINodes CSI Conformance should run through the lifecycle of a csinode":                                                {resource: "storage.k8s.io/v1/csinodes", cluster: true, object: "kind: CSINode\nspec: {drivers: []}"},
		storage + "CSIStorageCapacity should support CSIStorageCapacities API operations":                                                 {resource: "storage.k8s.io/v1/csistoragecapacities", object: "kind: CSIStorageCapacity\nstorageClassName: conf\ncapacity: 1Gi", change: `{"capacity":"2Gi"}`},
		storage + "StorageClasses CSI Conformance should run through the lifecycle of a StorageClass":                                     {resource: "storage.k8s.io/v1/storageclasses", cluster: true, object: "kind: StorageClass\nprovisioner: conf.example/p", change: `{"allowVolumeExpansion":true}`},
		storage + "VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the lifecycle of a VolumeAttributesClass": {resource: "storage.k8s.io/v1/volumeattributesclasses", cluster: true, object: "kind: VolumeAttributesClass\ndriverName: conf.example\nparameters: {a: b}"},
		storage + "VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment":                                   {resource: "storage.k8s.io/v1/volumeattachments", cluster: true, object: "kind: VolumeAttachment\nspec: {attacher: conf.example, nodeName: none, source: {persistentVolumeName: pv}}"},
		storage + "VolumeAttachment Conformance should apply changes to a volumeattachment status":                                        {resource: "storage.k8s.io/v1/volumeattachments", cluster: true, object: "kind: VolumeAttachment\nspec: {attacher: conf.example, nodeName: none, source: {persistentVolumeName: pv}}", status: `{"attached":true}`},
	}
}
