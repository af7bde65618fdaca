package printers

import (
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

func bindingColumns() []metav1.TableColumnDefinition {
	return columns("Role", "Age", "+Users", "+Groups", "+ServiceAccounts")
}

func roleBindingPrinter() printer {
	return newPrinter(bindingColumns(), func(b *rbacv1.RoleBinding, now time.Time) []any {
		users, groups, accounts := subjects(b.Subjects)
		return []any{b.Name, b.RoleRef.Kind + "/" + b.RoleRef.Name, age(b, now), users, groups, accounts}
	})
}

func clusterRoleBindingPrinter() printer {
	return newPrinter(bindingColumns(), func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
		users, groups, accounts := subjects(b.Subjects)
		return []any{b.Name, b.RoleRef.Kind + "/" + b.RoleRef.Name, age(b, now), users, groups, accounts}
	})
}

func subjects(all []rbacv1.Subject) (users, groups, accounts string) {
	var u, g, a []string
	for _, s := range all {
		switch s.Kind {
		case rbacv1.UserKind:
			u = append(u, s.Name)
		case rbacv1.GroupKind:
			g = append(g, s.Name)
		case rbacv1.ServiceAccountKind:
			a = append(a, s.Namespace+"/"+s.Name)
		}
	}
	return strings.Join(u, ", "), strings.Join(g, ", "), strings.Join(a, ", ")
}

func signingRequestPrinter() printer {
	return newPrinter(columns("Age", "SignerName", "Requestor", "RequestedDuration", "Condition"), func(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
		requested := none
		if c.Spec.ExpirationSeconds != nil {
			requested = duration.HumanDuration(time.Duration(*c.Spec.ExpirationSeconds) * time.Second)
		}
		return []any{c.Name, age(c, now), orNone(c.Spec.SignerName), c.Spec.Username, requested, signingStatus(c)}
	})
}

// signingStatus lets a denial outweigh an approval.
func signingStatus(c *certificatesv1.CertificateSigningRequest) string {
	has := map[certificatesv1.RequestConditionType]bool{}
	for _, cond := range c.Status.Conditions {
		has[cond.Type] = true
	}
	status := "Pending"
	if has[certificatesv1.CertificateDenied] {
		status = "Denied"
	} else if has[certificatesv1.CertificateApproved] {
		status = "Approved"
	}
	if has[certificatesv1.CertificateFailed] {
		status += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		status += ",Issued"
	}
	return status
}

func leasePrinter() printer {
	return newPrinter(columns("Holder", "Age"), func(l *coordinationv1.Lease, now time.Time) []any {
		return []any{l.Name, deref(l.Spec.HolderIdentity, ""), age(l, now)}
	})
}

func priorityClassPrinter() printer {
	return newPrinter(columns("Value:integer", "Global-Default:boolean", "Age", "PreemptionPolicy"), func(c *schedulingv1.PriorityClass, now time.Time) []any {
		return []any{c.Name, int64(c.Value), c.GlobalDefault, age(c, now), deref(c.PreemptionPolicy, "")}
	})
}

func runtimeClassPrinter() printer {
	return newPrinter(columns("Handler", "Age"), func(c *nodev1.RuntimeClass, now time.Time) []any {
		return []any{c.Name, c.Handler, age(c, now)}
	})
}

func storageClassPrinter() printer {
	return newPrinter(columns("Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"), func(c *storagev1.StorageClass, now time.Time) []any {
		name := c.Name
		if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" || c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true" {
			name += " (default)"
		}
		return []any{name, c.Provisioner, deref(c.ReclaimPolicy, string(corev1.PersistentVolumeReclaimDelete)), deref(c.VolumeBindingMode, unset),
			c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion, age(c, now)}
	})
}

func attributesClassPrinter() printer {
	return newPrinter(columns("DriverName", "Age"), func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
		return []any{c.Name, c.DriverName, age(c, now)}
	})
}

func volumeAttachmentPrinter() printer {
	return newPrinter(columns("Attacher", "PV", "Node", "Attached:boolean", "Age"), func(a *storagev1.VolumeAttachment, now time.Time) []any {
		return []any{a.Name, a.Spec.Attacher, deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, age(a, now)}
	})
}

func csiDriverPrinter() printer {
	return newPrinter(columns("AttachRequired:boolean", "PodInfoOnMount:boolean", "StorageCapacity:boolean", "TokenRequests", "RequiresRepublish:boolean", "Modes", "Age"),
		func(d *storagev1.CSIDriver, now time.Time) []any {
			is := func(b *bool, absent bool) bool {
				if b == nil {
					return absent
				}
				return *b
			}
			var modes, audiences []string
			for _, m := range d.Spec.VolumeLifecycleModes {
				modes = append(modes, string(m))
			}
			for _, t := range d.Spec.TokenRequests {
				audiences = append(audiences, t.Audience)
			}
			tokens := unset
			if len(audiences) > 0 {
				tokens = strings.Join(audiences, ",")
			}
			return []any{d.Name, is(d.Spec.AttachRequired, true), is(d.Spec.PodInfoOnMount, false), is(d.Spec.StorageCapacity, false), tokens,
				is(d.Spec.RequiresRepublish, false), orNone(strings.Join(modes, ",")), age(d, now)}
		})
}

func csiNodePrinter() printer {
	return newPrinter(columns("Drivers:integer", "Age"), func(n *storagev1.CSINode, now time.Time) []any {
		return []any{n.Name, int64(len(n.Spec.Drivers)), age(n, now)}
	})
}

func csiCapacityPrinter() printer {
	return newPrinter(columns("StorageClassName", "Capacity", "Age"), func(c *storagev1.CSIStorageCapacity, now time.Time) []any {
		capacity := unset
		if c.Capacity != nil {
			capacity = c.Capacity.String()
		}
		return []any{c.Name, c.StorageClassName, capacity, age(c, now)}
	})
}

func mutatingWebhookPrinter() printer {
	return newPrinter(columns("Webhooks:integer", "Age"), func(c *admissionv1.MutatingWebhookConfiguration, now time.Time) []any {
		return []any{c.Name, int64(len(c.Webhooks)), age(c, now)}
	})
}

func validatingWebhookPrinter() printer {
	return newPrinter(columns("Webhooks:integer", "Age"), func(c *admissionv1.ValidatingWebhookConfiguration, now time.Time) []any {
		return []any{c.Name, int64(len(c.Webhooks)), age(c, now)}
	})
}

func validatingPolicyPrinter() printer {
	return newPrinter(columns("Validations:integer", "ParamKind", "Age"), func(p *admissionv1.ValidatingAdmissionPolicy, now time.Time) []any {
		return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), age(p, now)}
	})
}

func validatingBindingPrinter() printer {
	return newPrinter(columns("PolicyName", "ParamRef", "Age"), func(b *admissionv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
		return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b, now)}
	})
}

func mutatingPolicyPrinter() printer {
	return newPrinter(columns("Mutations:integer", "ParamKind", "Age"), func(p *admissionv1.MutatingAdmissionPolicy, now time.Time) []any {
		return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), age(p, now)}
	})
}

func mutatingBindingPrinter() printer {
	return newPrinter(columns("PolicyName", "ParamRef", "Age"), func(b *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
		return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b, now)}
	})
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRef(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return unset
	case r.Name == "":
		return metav1.FormatLabelSelector(r.Selector)
	case r.Namespace == "":
		return "*/" + r.Name
	}
	return r.Namespace + "/" + r.Name
}

func flowSchemaPrinter() printer {
	return newPrinter(columns("PriorityLevel", "MatchingPrecedence:integer", "DistinguisherMethod", "Age", "MissingPL"), func(s *flowcontrolv1.FlowSchema, now time.Time) []any {
		method, missing := none, "?"
		if s.Spec.DistinguisherMethod != nil {
			method = string(s.Spec.DistinguisherMethod.Type)
		}
		for _, c := range s.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
				missing = string(c.Status)
			}
		}
		return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, age(s, now), missing}
	})
}

func priorityLevelPrinter() printer {
	return newPrinter(columns("Type", "NominalConcurrencyShares", "Queues", "HandSize", "QueueLengthLimit", "Age"), func(p *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
		shares, queues, hand, limit := any(none), any(none), any(none), any(none)
		if p.Spec.Exempt != nil && p.Spec.Exempt.NominalConcurrencyShares != nil {
			shares = int64(*p.Spec.Exempt.NominalConcurrencyShares)
		}
		if l := p.Spec.Limited; l != nil {
			shares = number(l.NominalConcurrencyShares)
			if q := l.LimitResponse.Queuing; q != nil {
				queues, hand, limit = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
			}
		}
		return []any{p.Name, string(p.Spec.Type), shares, queues, hand, limit, age(p, now)}
	})
}

func deviceClassPrinter() printer {
	return newPrinter(columns("Age"), func(c *resourcev1.DeviceClass, now time.Time) []any { return []any{c.Name, age(c, now)} })
}

func claimTemplatePrinter() printer {
	return newPrinter(columns("Age"), func(t *resourcev1.ResourceClaimTemplate, now time.Time) []any { return []any{t.Name, age(t, now)} })
}

func resourceClaimPrinter() printer {
	return newPrinter(columns("State", "Age"), func(c *resourcev1.ResourceClaim, now time.Time) []any {
		var states []string
		if c.DeletionTimestamp != nil {
			states = append(states, "deleted")
		}
		if c.Status.Allocation == nil {
			if c.DeletionTimestamp == nil {
				states = append(states, "pending")
			}
		} else {
			states = append(states, "allocated")
			if len(c.Status.ReservedFor) > 0 {
				states = append(states, "reserved")
			}
		}
		return []any{c.Name, strings.Join(states, ","), age(c, now)}
	})
}

func resourceSlicePrinter() printer {
	return newPrinter(columns("Node", "Driver", "Pool", "Age"), func(s *resourcev1.ResourceSlice, now time.Time) []any {
		return []any{s.Name, deref(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, age(s, now)}
	})
}

func trustBundlePrinter() printer {
	return newPrinter(columns("SignerName"), func(b *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
		return []any{b.Name, b.Spec.SignerName}
	})
}

func podCertificatePrinter() printer {
	return newPrinter(columns("PodName", "ServiceAccountName", "NodeName", "SignerName", "State"), func(p *certificatesv1.PodCertificateRequest, _ time.Time) []any {
		state := "Pending"
		for _, c := range p.Status.Conditions {
			switch c.Type {
			case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
				state = c.Type
			}
		}
		return []any{p.Name, p.Spec.PodName, p.Spec.ServiceAccountName, string(p.Spec.NodeName), p.Spec.SignerName, state}
	})
}

func deviceTaintRulePrinter() printer {
	return newPrinter(columns("Age"), func(r *resourcev1.DeviceTaintRule, now time.Time) []any { return []any{r.Name, age(r, now)} })
}

func migrationPrinter() printer {
	return newPrinter(columns("Resource"), func(m *storagemigrationv1.StorageVersionMigration, _ time.Time) []any {
		return []any{m.Name, m.Spec.Resource.String()}
	})
}
