package api

// unions are the structs of which one field that is a pointer may be set.
func unions() []string {
	return []string{"VolumeSource", "PersistentVolumeSource", "EnvVarSource", "EnvFromSource", "VolumeProjection", "ProbeHandler", "LifecycleHandler", "ContainerState", "VolumeAttachmentSource",
		"IngressBackend", "MetricSpec", "MetricStatus", "PodResourceClaim", "DeviceConstraint"}
}

// fieldRules say what may stand in a field: choices separated by bars, or a range of numbers. The key is package.Type.field,
// Type.field, a type, or .field for all fields of a name; what is not here gets a word that is a DNS label, a number
// from one to sixty, true. "-" is never set, "!" before a key always, "#" before one is the length of a list, and "#"
// after it is for the keys of a map.
func fieldRules() map[string]string {
	out := map[string]string{}
	for _, m := range []map[string]string{choices(), podRules(), coreRules(), otherRules(), statusRules()} {
		for k, v := range m {
			if _, double := out[k]; double {
				panic("two rules for " + k)
			}
			out[k] = v
		}
	}
	return out
}

// choices are the values of types that are enumerations, and of fields that are called alike everywhere.
func choices() map[string]string {
	return map[string]string{
		".message": "$t", ".description": "$t", ".reason": "Reason$w", ".fsType": "ext4|xfs", ".ip": "10.1.2.$n", ".hostIP": "10.3.2.$n", ".apiGroup": "none.example",
		".uid": "u-$w", ".resourceVersion": "$n", ".caBundle": authority, ".topologyKey": "none.example/zone", ".signerName": "none.example/$w", ".user": "$w",

		"AzureDataDiskCachingMode": "None|ReadOnly|ReadWrite", "AzureDataDiskKind": "Shared|Dedicated|Managed", "ConditionStatus": "True|False|Unknown",
		"ContainerRestartPolicy": "Always|OnFailure|Never", "HostPathType": "|DirectoryOrCreate|Directory|FileOrCreate|File|Socket|CharDevice|BlockDevice",
		"MountPropagationMode": "HostToContainer|None|Bidirectional", "NodeInclusionPolicy": "Ignore|Honor", "OSName": "linux", "PersistentVolumeAccessMode": "ReadWriteOnce",
		"PersistentVolumeMode": "Filesystem|Block", "PersistentVolumeReclaimPolicy": "Retain|Recycle|Delete", "PodFSGroupChangePolicy": "OnRootMismatch|Always",
		"PodSELinuxChangePolicy": "Recursive|MountOption", "PreemptionPolicy": "Never|PreemptLowerPriority", "ProcMountType": "Default|Unmasked", "Protocol": "TCP|UDP|SCTP",
		"PullPolicy": "Always|IfNotPresent|Never", "RecursiveReadOnlyMode": "Disabled|IfPossible|Enabled", "ResourceResizeRestartPolicy": "NotRequired|RestartContainer",
		"Signal": "SIGTERM|SIGUSR1|SIGRTMAX-3", "StorageMedium": "|Memory|HugePages|HugePages-2Mi", "SupplementalGroupsPolicy": "Merge|Strict", "TaintEffect": "NoSchedule|PreferNoSchedule|NoExecute",
		"TerminationMessagePolicy": "File|FallbackToLogsOnError", "URIScheme": "HTTP|HTTPS", "UnsatisfiableConstraintAction": "DoNotSchedule|ScheduleAnyway", "ResourceName": "cpu|memory",

		"MatchPolicyType": "Exact|Equivalent", "FailurePolicyType": "Ignore|Fail", "SideEffectClass": "None|NoneOnDryRun", "ReinvocationPolicyType": "Never|IfNeeded", "ScopeType": "*|Namespaced|Cluster",
		"ParameterNotFoundActionType": "Allow|Deny", "ConcurrencyPolicy": "Allow|Forbid|Replace", "CompletionMode": "NonIndexed|Indexed", "PodReplacementPolicy": "TerminatingOrFailed|Failed",
		"PodManagementPolicyType": "OrderedReady|Parallel", "PersistentVolumeClaimRetentionPolicyType": "Retain|Delete", "ScalingPolicySelect": "Max|Min|Disabled", "HPAScalingPolicyType": "Pods|Percent",
		"UnhealthyPodEvictionPolicyType": "IfHealthyBudget|AlwaysAllow", "PathType": "Prefix|Exact|ImplementationSpecific", "PolicyType": "Ingress|Egress", "AddressType": "IPv4",
		"VolumeBindingMode": "Immediate|WaitForFirstConsumer", "FSGroupPolicy": "None|File|ReadWriteOnceWithFSType", "VolumeLifecycleMode": "Persistent|Ephemeral",
		"DeviceAllocationMode": "ExactCount|All", "DeviceTaintEffect": "NoSchedule|NoExecute|None", "DeviceTolerationOperator": "Equal|Exists", "ServiceAffinity": "ClientIP|None",
		"FlowDistinguisherMethodType": "ByUser|ByNamespace", "ResourceScope": "Namespaced|Cluster", "LoadBalancerIPMode": "VIP|Proxy",
	}
}

// podRules are for pods and what is in them.
func podRules() map[string]string {
	volumes := map[string]string{
		"AWSElasticBlockStoreVolumeSource.partition": "1-9", "GCEPersistentDiskVolumeSource.partition": "1-9", "AzureDiskVolumeSource.diskURI": "https://none.example/d/$w|/subscriptions/$w",
		"CephFSVolumeSource.monitors": "10.0.0.$n:6789", "DownwardAPIVolumeFile.path": "d/$w", "GitRepoVolumeSource.directory": "$w",
		"GlusterfsVolumeSource.path": "v/$w", "HostPathVolumeSource.path": "/host/$w", "ISCSIVolumeSource.targetPortal": "10.0.0.$n:3260", "ISCSIVolumeSource.portals": "10.0.0.$n:3260",
		"ISCSIVolumeSource.iqn": "iqn.2001-04.example.none:$w", "ISCSIVolumeSource.initiatorName": "iqn.2001-04.example.none:i.$w", "ISCSIVolumeSource.lun": "1-200", "KeyToPath.path": "k/$w",
		"LocalVolumeSource.path": "/local/$w", "NFSVolumeSource.path": "/nfs/$w", "QuobyteVolumeSource.registry": "r.none.example:78$n", "FCVolumeSource.lun": "1-200",
		"ServiceAccountTokenProjection.path": "t/$w", "ServiceAccountTokenProjection.expirationSeconds": "600-9000", "ClusterTrustBundleProjection.path": "b/$w",
		"PodCertificateProjection.keyType": "RSA3072|RSA4096|ECDSAP256|ECDSAP384|ECDSAP521|ED25519", "PodCertificateProjection.maxExpirationSeconds": "3600-90000",
		"PodCertificateProjection.credentialBundlePath": "c/$w", "PodCertificateProjection.keyPath": "key/$w", "PodCertificateProjection.certificateChainPath": "chain/$w",
		"PodCertificateProjection.userAnnotations#": "none.example/$w", "CSIVolumeSource.driver": "csi.none.example", "FlexVolumeSource.driver": "none.example/flex", "ScaleIOVolumeSource.gateway": "https://none.example/g",
		"ImageVolumeSource.reference": "nowhere.invalid/volume:$w", "VsphereVirtualDiskVolumeSource.volumePath": "[ds] v/$w", "FlexVolumeSource.options#": "$w", "EmptyDirVolumeSource.sizeLimit": "1Gi|500Mi",
		"EmptyDirVolumeSource.mode": "-", "SecretVolumeSource.defaultUser": "-", "ConfigMapVolumeSource.defaultUser": "-", "DownwardAPIVolumeSource.defaultUser": "-", "ProjectedVolumeSource.defaultUser": "-",
		"KeyToPath.user": "-", "DownwardAPIVolumeFile.user": "-", "ServiceAccountTokenProjection.user": "-", "ClusterTrustBundleProjection.user": "-", "PodCertificateProjection.user": "-",
	}
	return merged(volumes, map[string]string{
		"VolumeMount.bindMountOptions": "-", "HTTPGetAction.protocol": "-", "GRPCAction.mode": "-", "PodSpec.evictionResponders": "-", "PodSpec.schedulingGroup": "-",
		"PodSpec.ephemeralContainers": "-", "PodSpec.serviceAccount": "-", "PodSpec.hostIPC": "-", "PodSpec.hostPID": "-",
		"Container.image": "nowhere.invalid/$w:1|nowhere.invalid/a/$w@sha256:" + digest, "Container.terminationMessagePath": "/dev/$w", "Container.workingDir": "/w/$w", "Container.command": "$t", "Container.args": "$t|$(X)|$$(Y)",
		"Container.resizePolicy": "-", "!Container.resources": "", "ContainerPort.name": "p-$n", "ContainerPort.containerPort": "1-65535", "ContainerPort.hostPort": "-",
		"EnvVar.name": "X_$w|x.$w|lower-$w", "EnvVar.value": "$t", "EnvFromSource.prefix": "P_", "ExecAction.command": "$t", "HTTPGetAction.path": "/p/$w?q=1", "HTTPGetAction.port": "$i|web", "TCPSocketAction.port": "$i|web",
		"HTTPHeader.name": "X-$w", "HTTPHeader.value": "$t", "GRPCAction.port": "1-65535", "GRPCAction.service": "s.$w", "Probe.successThreshold": "1", "SleepAction.seconds": "1-5",
		"ObjectFieldSelector.fieldPath": "metadata.name|metadata.labels['a']|metadata.annotations['b']|metadata.uid|metadata.namespace", "ObjectFieldSelector.apiVersion": "v1",
		"ResourceFieldSelector.resource": "limits.cpu|limits.memory|requests.cpu|requests.memory", "ResourceFieldSelector.divisor": "1", "ConfigMapKeySelector.key": "k.$w", "SecretKeySelector.key": "k.$w", "FileKeySelector.path": "f/$w", "FileKeySelector.key": "K_$w",
		"ContainerRestartRule.action": "Restart", "ContainerRestartRuleOnExitCodes.operator": "In|NotIn", "SecurityContext.windowsOptions": "-", "PodSecurityContext.windowsOptions": "-",
		"Capability": "NET_ADMIN|SYS_TIME|CHOWN", "Sysctl.name": "kernel.shm_rmid_forced|net.ipv4.ip_local_port_range|net/ipv4/tcp_syncookies", "Sysctl.value": "1", "HostAlias.hostnames": "$w.none.example",
		"PodDNSConfig.nameservers": "10.9.9.$n|fd00::$n", "PodDNSConfig.searches": "$w.none.example|.", "NodeSelectorTerm.matchFields": "-", "NodeSelectorRequirement.key": "none.example/$w", "Toleration.key": "none.example/$w", "PodAffinityTerm.matchLabelKeys": "m-$w",
		"PodAffinityTerm.mismatchLabelKeys": "n-$w", "TopologySpreadConstraint.matchLabelKeys": "t-$w", "PodReadinessGate.conditionType": "none.example/$w", "PodSchedulingGate.name": "none.example/$w",
		"PreferredSchedulingTerm.weight": "1-100", "WeightedPodAffinityTerm.weight": "1-100", "PodSpec.restartPolicy": "Always", "PodSpec.dnsPolicy": "ClusterFirst|Default|ClusterFirstWithHostNet|None",
		"PodSpec.schedulerName": "s-$w", "PodSpec.nodeSelector#": "none.example/$w", "PodSpec.terminationGracePeriodSeconds": "10-60", "PodSpec.priority": "1-999", "LinuxContainerUser.uid": "1-999", "PodSpec.hostnameOverride": "o-$w.none.example",
		"PodSpec.overhead#": "cpu|memory", "ResourceRequirements.claims": "-", "VolumeMount.mountPath": "/m/$w", "VolumeDevice.devicePath": "/dev/$w", "#PodSpec.volumes": "30", "#Container.env": "6", "#Container.envFrom": "2", "#ProjectedVolumeSource.sources": "6", "#PodSpec.resourceClaims": "2", "#Container.volumeMounts": "6", "#Container.volumeDevices": "1", "#PodSpec.containers": "2", "#PodSpec.initContainers": "3", "!ExecAction.command": "",
		"!PodSpec.containers": "", "!Container.image": "", "!PodSpec.volumes": "",
	})
}

const digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func merged(maps ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range maps {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// coreRules are for the other kinds of the core group, and for autoscaling, apps and batch.
func coreRules() map[string]string {
	return map[string]string{
		"!CapacityRequestPolicyRange.min": "", "!ContainerRestartRule.action": "", "!ContainerRestartRuleOnExitCodes.operator": "", "!CounterSet.counters": "", "!DeviceCounterConsumption.counters": "", "!IPAddressSpec.parentRef": "",
		"!ImageVolumeStatus.imageRef": "", "!EphemeralVolumeSource.volumeClaimTemplate": "", "!GCEPersistentDiskVolumeSource.readOnly": "", "!Mutation.jsonPatch": "", "!Mutation.applyConfiguration": "", "!ValidatingAdmissionPolicySpec.matchConstraints": "", "!CustomResourceDefinitionVersion.schema": "", "!CustomResourceValidation.openAPIV3Schema": "", "!events.Event": "", "!Event.reportingController": "", "!Event.reportingInstance": "", "!PersistentVolumeSpec.accessModes": "", "!LimitResponse.queuing": "", "!ParentReference.name": "", "!ParentReference.resource": "", "!PodCertificateProjection.keyType": "", "!PodCertificateProjection.signerName": "",
		"!PriorityLevelConfigurationSpec.limited": "", "!ValidatingAdmissionPolicyBindingSpec.policyName": "", "!ValidatingAdmissionPolicyBindingSpec.validationActions": "", "!LabelSelectorRequirement.values": "",
		"!NodeSelectorRequirement.values": "", "!MetricTarget.type": "", "!ServiceReference.name": "", "!DeviceSelector.cel": "", "!AggregationRule.clusterRoleSelectors": "", "!CertificateSigningRequestSpec.usages": "",

		"LabelSelectorOperator": "In|NotIn|Exists|DoesNotExist", "NodeSelectorOperator": "In|NotIn|Exists|DoesNotExist|Gt|Lt", "TolerationOperator": "Equal|Exists",
		"LabelSelector.matchLabels#": "none.example/$w", "LabelSelectorRequirement.key": "none.example/$w",

		"ConfigMap.data#": "k.$w", "ConfigMap.data": "$t", "ConfigMap.binaryData#": "b.$w", "Secret.data#": "k.$w", "Secret.stringData#": "s.$w", "SecretType": "Opaque|none.example/t",
		"!Endpoints.subsets": "", "EndpointAddress.hostname": "h-$w", "EndpointPort.appProtocol": "none.example/p|http", "core.EndpointPort.port": "1-65535", "EndpointPort.name": "p-$w",
		"core.Event.type": "Normal|Warning", "Event.count": "1-60", "!Event.firstTimestamp": "", "core.ObjectReference.fieldPath": "spec.x", "LimitType": "Container|Pod|PersistentVolumeClaim",
		"#LimitRangeSpec.limits": "3", "NamespaceSpec.finalizers": "none.example/f", "!Node.metadata": "", "NodeSpec.podCIDR": "-", "NodeSpec.podCIDRs": "-", "NodeSpec.podPreemptionPolicy": "-", "NodeSpec.configSource": "-", "Taint.key": "none.example/$w",
		"MetricSourceType":                           "Resource",
		"PersistentVolumeClaimSpec.storageClassName": "sc-$w", "TypedObjectReference.namespace": "-", "!PersistentVolumeSpec.capacity": "", "PersistentVolumeSpec.mountOptions": "ro|nosuid", "PersistentVolumeSpec.storageClassName": "sc-$w",
		"StorageOSPersistentVolumeSource.volumeNamespace": "$w", "CSIPersistentVolumeSource.driver": "csi.none.example", "FlexPersistentVolumeSource.driver": "none.example/flex", "ISCSIPersistentVolumeSource.targetPortal": "10.0.0.$n:3260",
		"ISCSIPersistentVolumeSource.portals": "10.0.0.$n:3260", "ISCSIPersistentVolumeSource.iqn": "iqn.2001-04.example.none:$w", "ISCSIPersistentVolumeSource.initiatorName": "iqn.2001-04.example.none:i.$w",
		"CephFSPersistentVolumeSource.monitors": "10.0.0.$n:6789", "GlusterfsPersistentVolumeSource.path": "v/$w", "ScaleIOPersistentVolumeSource.gateway": "https://none.example/g",
		"ResourceQuotaScope": "BestEffort|NotBestEffort|Terminating|NotTerminating|PriorityClass|CrossNamespacePodAffinity|VolumeAttributesClass", "ScopeSelectorOperator": "In|NotIn|Exists|DoesNotExist",
		"ServicePort.port": "1-65535", "ServicePort.nodePort": "-", "!ServiceSpec.ports": "", "!ImageVolumeSource.reference": "", "!ApplyConfiguration.expression": "", "!JSONPatch.expression": "", "!SuccessPolicyRule.succeededCount": "", "#MutatingWebhook.admissionReviewVersions": "1", "#ValidatingWebhook.admissionReviewVersions": "1", "!MutatingAdmissionPolicySpec.matchConstraints": "", "#ResourceSliceSpec.skipNodeOperations": "1", "#ResourceSliceSpec.devices": "3", "#DeviceRequestAllocationResult.skipNodeOperations": "1", "!IngressClassSpec.controller": "", "!ServiceReference.namespace": "", "!ISCSIPersistentVolumeSource.secretRef": "", "!ISCSIVolumeSource.secretRef": "", "!SecretReference.namespace": "", "!ObjectReference.namespace": "", "!JobStatus.active": "", "!CustomResourceConversion.webhook": "", "!WebhookConversion.clientConfig": "", "!WebhookConversion.conversionReviewVersions": "", "!PodFailurePolicyRule.onExitCodes": "", "!ReplicationControllerSpec.template": "", "!PersistentVolumeClaimVolumeSource.claimName": "", "!VolumeNodeAffinity.required": "", "!MatchResources.resourceRules": "", "!MutatingAdmissionPolicySpec.mutations": "", "!MutatingAdmissionPolicyBindingSpec.policyName": "", "!IngressSpec.defaultBackend": "", "!NodeAllocatableResource.mapping": "", "!NodeAllocatableMapping.capacityKey": "", "ServicePort.appProtocol": "kubernetes.io/h2c|http|none.example/p", "ServicePort.targetPort": "$i|web", "ServiceSpec.clusterIP": "-", "ServiceSpec.clusterIPs": "-",
		"ServiceSpec.externalIPs": "198.51.100.$n", "ServiceSpec.loadBalancerIP": "198.51.100.$n", "ServiceSpec.loadBalancerSourceRanges": "10.0.0.0/8|192.0.2.0/24", "ServiceSpec.externalName": "e-$w.none.example",
		"ServiceType": "ClusterIP|NodePort|LoadBalancer|ExternalName", "ServiceExternalTrafficPolicy": "Local|Cluster", "ServiceInternalTrafficPolicy": "Local|Cluster", "ServiceSpec.healthCheckNodePort": "-", "ServiceSpec.ipFamilies": "-",
		"IPFamilyPolicy": "SingleStack|PreferDualStack", "ServiceSpec.trafficDistribution": "PreferClose|PreferSameZone|PreferSameNode", "ServiceSpec.loadBalancerClass": "none.example/lb", "ServiceSpec.selector#": "none.example/$w",
		"ClientIPConfig.timeoutSeconds": "1-86400", "!ServiceAccount.secrets": "",

		"RollingUpdateDaemonSet.maxSurge": "-", "ReplicationControllerSpec.replicas": "1-9", "MetricTarget.type": "Value", "DaemonSetUpdateStrategyType": "RollingUpdate|OnDelete", "DeploymentStrategyType": "RollingUpdate|Recreate", "StatefulSetUpdateStrategyType": "RollingUpdate|OnDelete",
		"DeploymentSpec.progressDeadlineSeconds": "700-900", "CronJobSpec.schedule": "*/5 * * * *|0 0 1 1 *|@hourly", "CronJobSpec.timeZone": "Etc/UTC|Europe/Berlin", "CronJobSpec.startingDeadlineSeconds": "10-900", "JobSpec.scheduling": "-",
		"JobSpec.managedBy": "none.example/$w", "PodFailurePolicyAction": "FailJob|Ignore|Count", "PodFailurePolicyOnExitCodesOperator": "In|NotIn", "SuccessPolicyRule.succeededIndexes": "0-1,3", "SuccessPolicyRule.succeededCount": "1-2",
		"HorizontalPodAutoscalerSpec.maxReplicas": "100-200", "#HorizontalPodAutoscalerSpec.metrics": "5", "CrossVersionObjectReference.apiVersion": "apps/v1", "HPAScalingRules.stabilizationWindowSeconds": "1-3600", "HPAScalingPolicy.periodSeconds": "1-1800",
		"HPAScalingRules.tolerance": "100m|1",
	}
}

// otherRules are for the other groups.
func otherRules() map[string]string {
	return map[string]string{
		"MatchCondition.expression": "true", "Variable.expression": "'x'|object.metadata.name", "Validation.expression": "true|object.metadata.name != 'x'", "Validation.messageExpression": "'m'", "Validation.message": "m $w", "AuditAnnotation.valueExpression": "'x'",
		"ApplyConfiguration.expression": "Object{}", "JSONPatch.expression": "[JSONPatch{op: \"add\", path: \"/x\", value: \"y\"}]", "Validation.reason": "Unauthorized|Forbidden|Invalid|RequestEntityTooLarge", "ValidationAction": "Deny|Audit",
		"#ValidatingAdmissionPolicyBindingSpec.validationActions": "2", "PatchType": "ApplyConfiguration|JSONPatch", "#MutatingAdmissionPolicySpec.mutations": "2", "Rule.apiGroups": "none.example", "Rule.apiVersions": "v1", "Rule.resources": "nothings|nothings/status", "OperationType": "CREATE|UPDATE|DELETE|CONNECT",
		"admissionregistration.ParamKind.apiVersion": "none.example/v1", "ParamKind.kind": "Param", "ValidatingWebhook.name": "$w.none.example", "MutatingWebhook.name": "$w.none.example", "ValidatingWebhook.timeoutSeconds": "1-30", "MutatingWebhook.timeoutSeconds": "1-30",
		"ValidatingWebhook.admissionReviewVersions": "v1", "MutatingWebhook.admissionReviewVersions": "v1", "ServiceReference.path": "/p/$w", "ServiceReference.port": "1-65535", "WebhookClientConfig.url": "https://nowhere.invalid/$w", "Variable.name": "v_$w", "ParamRef.namespace": "$ns",

		"CustomResourceDefinitionSpec.preserveUnknownFields": "-", "CustomResourceDefinitionVersion.deprecationWarning": "gone soon", "ConversionStrategyType": "None|Webhook", "WebhookConversion.conversionReviewVersions": "v1",
		"CustomResourceColumnDefinition.type": "integer|number|string|boolean|date", "CustomResourceColumnDefinition.format": "int32|int64|float|double|byte|date|date-time|password", "CustomResourceColumnDefinition.jsonPath": ".spec.x", "SelectableField.jsonPath": ".spec.name",
		"CustomResourceSubresourceScale.specReplicasPath": ".spec.replicas", "CustomResourceSubresourceScale.statusReplicasPath": ".status.replicas", "CustomResourceSubresourceScale.labelSelectorPath": ".status.selector",

		"CertificateSigningRequestSpec.request": "-", "CertificateSigningRequestSpec.expirationSeconds": "600-9000", "KeyUsage": "client auth|digital signature", "PodCertificateRequestSpec.maxExpirationSeconds": "3600-80000", "PodCertificateRequestSpec.stubPKCS10Request": "-",
		"PodCertificateRequestSpec.unverifiedUserAnnotations#": "none.example/$w", "ClusterTrustBundleSpec.trustBundle": authority, "CoordinatedLeaseStrategy": "OldestEmulationVersion|none.example/s", "LeaseSpec.leaseTransitions": "1-9",

		"discovery.Endpoint.addresses": "10.1.2.$n", "discovery.Endpoint.hostname": "h-$w", "Endpoint.deprecatedTopology": "-", "discovery.EndpointPort.port": "1-65535", "events.Event.type": "Normal|Warning", "events.Event.note": "$t",
		"EventSeries.count": "2-60", "Event.action": "Act$w", "Event.reportingController": "none.example/c", "Event.reportingComponent": "none.example/c",
		"FlowSchemaSpec.matchingPrecedence": "2000-9999", "!FlowSchemaSpec.priorityLevelConfiguration": "", "flowcontrol.Subject.kind": "User|Group|ServiceAccount", "#PolicyRulesWithSubjects.subjects": "3", "ResourcePolicyRule.verbs": "get|list|create", "NonResourcePolicyRule.verbs": "get|post",
		"ResourcePolicyRule.apiGroups": "none.example|", "ResourcePolicyRule.resources": "nothings|none", "NonResourcePolicyRule.nonResourceURLs": "/none/$w|/other/*", "QueuingConfiguration.queues": "64-128", "QueuingConfiguration.handSize": "4-6", "LimitResponseType": "Queue|Reject",
		"PriorityLevelEnablement": "Limited", "!HTTPIngressPath.path": "", "LimitedPriorityLevelConfiguration.lendablePercent": "1-99", "ExemptPriorityLevelConfiguration.lendablePercent": "1-99",

		"HTTPIngressPath.path": "/$w", "IngressRule.host": "$w.none.example|*.$w.none.example", "IngressTLS.hosts": "$w.none.example", "IngressClassSpec.controller": "none.example/$w", "IngressClassParametersReference.scope": "Cluster|Namespace",
		"IPBlock.cidr": "10.0.0.0/8", "IPBlock.except": "10.1.$n.0/24", "NetworkPolicyPort.endPort": "100-200", "NetworkPolicyPort.port": "$i", "ServiceCIDRSpec.cidrs": "-", "ParentReference.group": "none.example", "ServiceBackendPort.number": "1-65535", "#NetworkPolicySpec.policyTypes": "2",
		"rbac.Subject.kind": "User|Group|ServiceAccount", "#RoleBinding.subjects": "3", "#ClusterRoleBinding.subjects": "3", "RoleRef.apiGroup": "rbac.authorization.k8s.io", "RoleRef.kind": "ClusterRole", "PolicyRule.verbs": "get|*|none", "#ClusterRole.rules": "2", "PolicyRule.nonResourceURLs": "/none|/none/*",

		"DeviceTaint.key": "none.example/$w", "DeviceToleration.key": "none.example/$w", "CELDeviceSelector.expression": "device.driver == 'none.example'", "DeviceClassSpec.extendedResourceName": "none.example/r-$w", "OpaqueDeviceConfiguration.driver": "none.example",
		"DeviceConstraint.matchAttribute": "none.example/a_b", "DeviceConstraint.distinctAttribute": "none.example/a_c", "#DeviceClaim.requests": "2", "#DeviceClaim.constraints": "2", "ExactDeviceRequest.derivedAttributes": "-", "DeviceSubRequest.derivedAttributes": "-",
		"CapacityRequirements.requests#": "none.example/c_d", "ResourceSliceSpec.driver": "none.example", "ResourceSliceSpec.nodeName": "node-$w", "Device.attributes#": "a_$w|none.example/b_$w", "Device.capacity#": "c_$w|none.example/d_$w",
		"DeviceAttribute.ints": "-", "DeviceAttribute.bools": "-", "DeviceAttribute.strings": "-", "DeviceAttribute.versions": "-", "DeviceAttribute.version": "1.2.3", "Device.bindingConditions": "none.example/$w", "Device.bindingFailureConditions": "none.example/$w", "ResourceSliceSpec.partitionTypeAttribute": "-",
		"DeviceTaintSelector.driver": "none.example", "ResourcePool.resourceSliceCount": "1", "ResourcePool.name": "pool/$w", "QualifiedName": "q_$w", "Counter.value": "1|2",

		"scheduling.PriorityClass.value": "1-99999", "StorageClass.reclaimPolicy": "Retain|Delete", "SkipNodeOperation": "NodePrepareResources|NodeUnprepareResources", "StorageClass.provisioner": "none.example/p", "StorageClass.mountOptions": "ro|nosuid", "TopologySelectorLabelRequirement.key": "none.example/$w", "storage.TokenRequest.audience": "a-$w", "TokenRequest.expirationSeconds": "600-9000",
		"CSIDriverSpec.nodeAllocatableUpdatePeriodSeconds": "10-60", "CSINodeDriver.name": "$w.none.example", "CSINodeDriver.topologyKeys": "none.example/$w", "CSIStorageCapacity.capacity": "1Gi", "CSIStorageCapacity.maximumVolumeSize": "1Gi", "VolumeAttachmentSpec.attacher": "none.example",
		"VolumeAttributesClass.driverName": "none.example", "Overhead.podFixed#": "cpu|memory", "Scheduling.nodeSelector#": "none.example/$w",
		"!APIServiceSpec.groupPriorityMinimum": "", "!APIServiceSpec.versionPriority": "", "!APIServiceSpec.service": "", "!APIServiceSpec.version": "", "!APIServiceSpec.group": "", "APIServiceSpec.groupPriorityMinimum": "1-20000", "APIServiceSpec.versionPriority": "1-1000", "GroupResource.group": "none.example",
	}
}

// statusRules are for what is written to status.
func statusRules() map[string]string {
	return map[string]string{
		"CertificateSigningRequestStatus.certificate": authority, "PodCertificateRequestStatus.certificateChain": authority, "NetworkDeviceData.ips": "10.2.3.$n/24", "DeviceRequestAllocationResult.shareID": share, "AllocatedDeviceStatus.shareID": share,
		"#HorizontalPodAutoscalerStatus.currentMetrics": "5", "Condition.type": "none.example/$w", ".type": "Type$w", "UniqueVolumeName": "none.example/$w",
		"DeploymentStatus.replicas": "50-60", "ReplicaSetStatus.replicas": "50-60", "StatefulSetStatus.replicas": "50-60", "ReplicationControllerStatus.replicas": "50-60", ".readyReplicas": "30-40", ".availableReplicas": "20-30", ".updatedReplicas": "1-20",
		".currentReplicas": "1-20", ".fullyLabeledReplicas": "1-20", "JobStatus.active": "50-60", "JobStatus.ready": "1-9", "JobStatus.terminating": "1-9", "JobStatus.completedIndexes": "0-2", "JobStatus.failedIndexes": "4,6-7",
		"PersistentVolumeClaimStatus.allocatedResourceStatuses#": "storage", "PersistentVolumeClaimStatus.allocatedResources#": "storage", "PersistentVolumeClaimStatus.capacity#": "storage",
		"ClaimResourceStatus": "ControllerResizeInProgress|NodeResizePending|NodeResizeInProgress", "VolumeHealthStatusType": "DataLoss|Degraded|Inaccessible", "StorageHealthStatusType": "DataLoss|Degraded|Inaccessible", "PersistentVolumeClaimModifyVolumeStatus": "Pending|InProgress|Infeasible",
		"PersistentVolumeClaimPhase": "Pending|Bound|Lost", "PersistentVolumePhase": "Available|Bound|Released|Failed", "PodPhase": "Pending|Running", "PodStatus.podIP": "-", "PodStatus.hostIP": "-", "#PodStatus.podIPs": "1", "#PodStatus.hostIPs": "1", "PodStatus.resize": "-",
		"NodeAddressType": "InternalIP|Hostname|ExternalIP", "NodeStatus.phase": "Running", "DaemonEndpoint.Port": "1-65535", "NodeStatus.config": "-", "AllocationConfigSource": "FromClass|FromClaim", "LoadBalancerIngress.hostname": "l-$w.none.example", "IngressLoadBalancerIngress.hostname": "l-$w.none.example",
		"PortStatus.error": "none.example/E$w", "IngressPortStatus.error": "none.example/E$w", "ContainerStateTerminated.exitCode": "1-200",
	}
}

const share = "8b6a2f0e-1c2d-4e3f-9a0b-0123456789ab"
