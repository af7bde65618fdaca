package defaults

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
)

func addNetworking(r *registry) {
	addList(r, func(l *discoveryv1.EndpointSliceList) []discoveryv1.EndpointSlice { return l.Items }, func(s *discoveryv1.EndpointSlice) {
		for i := range s.Ports {
			setPtr(&s.Ports[i].Name, "")
			setPtr(&s.Ports[i].Protocol, corev1.ProtocolTCP)
		}
	})
	addList(r, func(l *networkingv1.NetworkPolicyList) []networkingv1.NetworkPolicy { return l.Items }, networkPolicy)
	addList(r, func(l *networkingv1.IngressClassList) []networkingv1.IngressClass { return l.Items }, func(c *networkingv1.IngressClass) {
		if c.Spec.Parameters != nil {
			setPtr(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	})
}

func networkPolicy(p *networkingv1.NetworkPolicy) {
	for _, rule := range p.Spec.Ingress {
		policyPorts(rule.Ports)
	}
	for _, rule := range p.Spec.Egress {
		policyPorts(rule.Ports)
	}
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

func policyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		setPtr(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func addPolicies(r *registry) {
	addList(r, func(l *rbacv1.RoleBindingList) []rbacv1.RoleBinding { return l.Items }, func(b *rbacv1.RoleBinding) {
		set(&b.RoleRef.APIGroup, rbacv1.GroupName)
		subjects(b.Subjects)
	})
	addList(r, func(l *rbacv1.ClusterRoleBindingList) []rbacv1.ClusterRoleBinding { return l.Items }, func(b *rbacv1.ClusterRoleBinding) {
		set(&b.RoleRef.APIGroup, rbacv1.GroupName)
		subjects(b.Subjects)
	})
	addList(r, func(l *schedulingv1.PriorityClassList) []schedulingv1.PriorityClass { return l.Items }, func(c *schedulingv1.PriorityClass) {
		setPtr(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
	})
	addList(r, func(l *nodev1.RuntimeClassList) []nodev1.RuntimeClass { return l.Items }, func(c *nodev1.RuntimeClass) {
		if c.Overhead != nil {
			roundUp(c.Overhead.PodFixed)
		}
	})
	addList(r, func(l *flowcontrolv1.FlowSchemaList) []flowcontrolv1.FlowSchema { return l.Items }, func(s *flowcontrolv1.FlowSchema) {
		set(&s.Spec.MatchingPrecedence, 1000)
	})
	addList(r, func(l *flowcontrolv1.PriorityLevelConfigurationList) []flowcontrolv1.PriorityLevelConfiguration {
		return l.Items
	}, priorityLevel)
	addList(r, func(l *certificatesv1.PodCertificateRequestList) []certificatesv1.PodCertificateRequest {
		return l.Items
	},
		func(p *certificatesv1.PodCertificateRequest) { setPtr(&p.Spec.MaxExpirationSeconds, 24*60*60) })
}

func subjects(ss []rbacv1.Subject) {
	for i := range ss {
		if ss[i].Kind == rbacv1.UserKind || ss[i].Kind == rbacv1.GroupKind {
			set(&ss[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func priorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if p.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt {
		setPtr(&p.Spec.Exempt, flowcontrolv1.ExemptPriorityLevelConfiguration{})
	}
	if e := p.Spec.Exempt; e != nil {
		setPtr(&e.NominalConcurrencyShares, 0)
		setPtr(&e.LendablePercent, 0)
	}
	if l := p.Spec.Limited; l != nil {
		setPtr(&l.NominalConcurrencyShares, 30)
		setPtr(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			set(&q.HandSize, 8)
			set(&q.Queues, 64)
			set(&q.QueueLengthLimit, 50)
		}
	}
}

func addStorage(r *registry) {
	addList(r, func(l *storagev1.StorageClassList) []storagev1.StorageClass { return l.Items }, func(c *storagev1.StorageClass) {
		setPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		setPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	})
	addList(r, func(l *storagev1.CSIDriverList) []storagev1.CSIDriver { return l.Items }, csiDriver)
	addList(r, func(l *storagev1.VolumeAttachmentList) []storagev1.VolumeAttachment { return l.Items }, func(a *storagev1.VolumeAttachment) {
		if a.Spec.Source.InlineVolumeSpec != nil {
			persistentVolumeSpec(a.Spec.Source.InlineVolumeSpec)
		}
	})
}

func csiDriver(d *storagev1.CSIDriver) {
	setPtr(&d.Spec.AttachRequired, true)
	setPtr(&d.Spec.PodInfoOnMount, false)
	setPtr(&d.Spec.StorageCapacity, false)
	setPtr(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	setPtr(&d.Spec.RequiresRepublish, false)
	setPtr(&d.Spec.SELinuxMount, false)
	if len(d.Spec.VolumeLifecycleModes) == 0 {
		d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func addDevices(r *registry) {
	addList(r, func(l *resourcev1.ResourceClaimList) []resourcev1.ResourceClaim { return l.Items },
		func(c *resourcev1.ResourceClaim) { deviceRequests(c.Spec.Devices.Requests) })
	addList(r, func(l *resourcev1.ResourceClaimTemplateList) []resourcev1.ResourceClaimTemplate { return l.Items },
		func(t *resourcev1.ResourceClaimTemplate) { deviceRequests(t.Spec.Spec.Devices.Requests) })
}

func deviceRequests(requests []resourcev1.DeviceRequest) {
	for i := range requests {
		if e := requests[i].Exactly; e != nil {
			deviceCount(&e.AllocationMode, &e.Count)
			deviceTolerations(e.Tolerations)
		}
		for j := range requests[i].FirstAvailable {
			sub := &requests[i].FirstAvailable[j]
			deviceCount(&sub.AllocationMode, &sub.Count)
			deviceTolerations(sub.Tolerations)
		}
	}
}

func deviceCount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	set(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		set(count, 1)
	}
}

func deviceTolerations(ts []resourcev1.DeviceToleration) {
	for i := range ts {
		set(&ts[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}
