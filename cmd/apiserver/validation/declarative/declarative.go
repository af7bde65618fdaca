// Package declarative runs the rules that k8s.io/api carries as tags on its types.
//
// The packages below this one are generated, one an API group, because k8s.io/api publishes such code for resource.k8s.io
// alone. Tags come in three stages: those of the alpha stage only repeat rules that are written by hand, so they are not told to
// anybody; the others are the rule. Where a hand-written rule says the same of the same field, Merge keeps the generated error.
package declarative

import (
	"context"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	admissionrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/admissionregistrationv1"
	appsrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/appsv1"
	scale1rules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/autoscalingv1"
	scale2rules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/autoscalingv2"
	batchrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/batchv1"
	certificaterules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/certificatesv1"
	corerules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/corev1"
	discoveryrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/discoveryv1"
	flowrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/flowcontrolv1"
	networkrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/networkingv1"
	noderules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/nodev1"
	policyrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/policyv1"
	rbacrules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/rbacv1"
	storagerules "github.com/orlop-io/orlop/cmd/apiserver/validation/declarative/storagev1"
)

//go:generate go run k8s.io/code-generator/cmd/validation-gen@v0.37.2 --go-header-file boilerplate.txt --output-file zz_generated.validations.go --readonly-pkg k8s.io/api/scheduling/v1alpha3,k8s.io/apimachinery/pkg/api/resource,k8s.io/apimachinery/pkg/runtime,k8s.io/apimachinery/pkg/types,k8s.io/apimachinery/pkg/util/intstr,time ./...

// Create judges an object that is about to be stored for the first time.
func Create(obj runtime.Object) field.ErrorList {
	return judge(operation.Operation{Type: operation.Create, Options: options()}, obj, nil)
}

// Update judges what changed between old and obj, in whichever part of the object.
func Update(obj, old runtime.Object) field.ErrorList {
	return judge(operation.Operation{Type: operation.Update, Options: options()}, obj, old)
}

func judge(op operation.Operation, obj, old runtime.Object) field.ErrorList {
	rules := rulesFor(obj)
	if rules == nil {
		return nil
	}
	// The rules are pure; only the library's signature wants a context.
	return enforced(rules(context.Background(), op, obj, old))
}

// options says which features the tagged rules may reckon with: those of the alpha stage are not built.
func options() map[string]bool {
	return map[string]bool{"HPAScaleToZero": false, "WorkloadWithJob": false, "InPlacePodVerticalScalingSchedulerPreemption": false}
}

// enforced leaves out the errors of alpha rules.
func enforced(errs field.ErrorList) field.ErrorList {
	var out field.ErrorList
	for _, e := range errs {
		if !e.IsAlpha() {
			out = append(out, e)
		}
	}
	return out
}

// Merge joins the errors of hand-written and generated rules, so that no rule reports a field twice.
func Merge(written, generated field.ErrorList) field.ErrorList {
	var out field.ErrorList
	for _, w := range written {
		if !slices.ContainsFunc(generated, func(g *field.Error) bool { return same(w, g) }) {
			out = append(out, w)
		}
	}
	return append(out, generated...)
}

// same says whether two errors tell one thing. A value may be invalid for several reasons, of which the origin, where both have
// one, tells which; of the other types a field has but one error, and a value that is missing has no other.
func same(written, generated *field.Error) bool {
	if written.Field != generated.Field {
		return false
	}
	if generated.Type == field.ErrorTypeRequired {
		return true
	}
	if written.Type != generated.Type {
		return false
	}
	if written.Type != field.ErrorTypeInvalid || written.Detail == generated.Detail {
		return true
	}
	return written.Origin != "" && written.Origin == generated.Origin
}

// judgement are the generated rules of one kind.
type judgement func(ctx context.Context, op operation.Operation, obj, old runtime.Object) field.ErrorList

func rulesOf[T any](validate func(context.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList) judgement {
	return func(ctx context.Context, op operation.Operation, obj, old runtime.Object) field.ErrorList {
		was, _ := any(old).(*T) // nil on create
		return validate(ctx, op, nil, any(obj).(*T), was)
	}
}

// rulesFor returns nil for a kind without tagged rules.
func rulesFor(obj runtime.Object) judgement {
	switch obj.(type) {
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		return rulesOf(admissionrules.Validate_ValidatingWebhookConfiguration)
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		return rulesOf(admissionrules.Validate_MutatingWebhookConfiguration)
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		return rulesOf(admissionrules.Validate_ValidatingAdmissionPolicy)
	case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
		return rulesOf(admissionrules.Validate_ValidatingAdmissionPolicyBinding)
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		return rulesOf(admissionrules.Validate_MutatingAdmissionPolicy)
	case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
		return rulesOf(admissionrules.Validate_MutatingAdmissionPolicyBinding)
	case *appsv1.ControllerRevision:
		return rulesOf(appsrules.Validate_ControllerRevision)
	case *appsv1.DaemonSet:
		return rulesOf(appsrules.Validate_DaemonSet)
	case *appsv1.Deployment:
		return rulesOf(appsrules.Validate_Deployment)
	case *appsv1.ReplicaSet:
		return rulesOf(appsrules.Validate_ReplicaSet)
	case *appsv1.StatefulSet:
		return rulesOf(appsrules.Validate_StatefulSet)
	case *autoscalingv2.HorizontalPodAutoscaler:
		return rulesOf(scale2rules.Validate_HorizontalPodAutoscaler)
	case *autoscalingv1.Scale:
		return rulesOf(scale1rules.Validate_Scale)
	case *batchv1.CronJob:
		return rulesOf(batchrules.Validate_CronJob)
	case *batchv1.Job:
		return rulesOf(batchrules.Validate_Job)
	case *certificatesv1.CertificateSigningRequest:
		return rulesOf(certificaterules.Validate_CertificateSigningRequest)
	case *certificatesv1.ClusterTrustBundle:
		return rulesOf(certificaterules.Validate_ClusterTrustBundle)
	case *certificatesv1.PodCertificateRequest:
		return rulesOf(certificaterules.Validate_PodCertificateRequest)
	case *corev1.ConfigMap:
		return rulesOf(corerules.Validate_ConfigMap)
	case *corev1.Endpoints:
		return rulesOf(corerules.Validate_Endpoints)
	case *corev1.Event:
		return rulesOf(corerules.Validate_Event)
	case *corev1.LimitRange:
		return rulesOf(corerules.Validate_LimitRange)
	case *corev1.Namespace:
		return rulesOf(corerules.Validate_Namespace)
	case *corev1.Node:
		return rulesOf(corerules.Validate_Node)
	case *corev1.PersistentVolume:
		return rulesOf(corerules.Validate_PersistentVolume)
	case *corev1.PersistentVolumeClaim:
		return rulesOf(corerules.Validate_PersistentVolumeClaim)
	case *corev1.Pod:
		return rulesOf(corerules.Validate_Pod)
	case *corev1.PodTemplate:
		return rulesOf(corerules.Validate_PodTemplate)
	case *corev1.ReplicationController:
		return rulesOf(corerules.Validate_ReplicationController)
	case *corev1.ResourceQuota:
		return rulesOf(corerules.Validate_ResourceQuota)
	case *corev1.Secret:
		return rulesOf(corerules.Validate_Secret)
	case *corev1.Service:
		return rulesOf(corerules.Validate_Service)
	case *corev1.ServiceAccount:
		return rulesOf(corerules.Validate_ServiceAccount)
	case *discoveryv1.EndpointSlice:
		return rulesOf(discoveryrules.Validate_EndpointSlice)
	case *flowcontrolv1.FlowSchema:
		return rulesOf(flowrules.Validate_FlowSchema)
	case *flowcontrolv1.PriorityLevelConfiguration:
		return rulesOf(flowrules.Validate_PriorityLevelConfiguration)
	case *networkingv1.Ingress:
		return rulesOf(networkrules.Validate_Ingress)
	case *networkingv1.IngressClass:
		return rulesOf(networkrules.Validate_IngressClass)
	case *networkingv1.IPAddress:
		return rulesOf(networkrules.Validate_IPAddress)
	case *networkingv1.NetworkPolicy:
		return rulesOf(networkrules.Validate_NetworkPolicy)
	case *networkingv1.ServiceCIDR:
		return rulesOf(networkrules.Validate_ServiceCIDR)
	case *nodev1.RuntimeClass:
		return rulesOf(noderules.Validate_RuntimeClass)
	case *policyv1.PodDisruptionBudget:
		return rulesOf(policyrules.Validate_PodDisruptionBudget)
	case *rbacv1.ClusterRole:
		return rulesOf(rbacrules.Validate_ClusterRole)
	case *rbacv1.ClusterRoleBinding:
		return rulesOf(rbacrules.Validate_ClusterRoleBinding)
	case *rbacv1.Role:
		return rulesOf(rbacrules.Validate_Role)
	case *rbacv1.RoleBinding:
		return rulesOf(rbacrules.Validate_RoleBinding)
	case *storagev1.CSIDriver:
		return rulesOf(storagerules.Validate_CSIDriver)
	case *storagev1.CSINode:
		return rulesOf(storagerules.Validate_CSINode)
	case *storagev1.CSIStorageCapacity:
		return rulesOf(storagerules.Validate_CSIStorageCapacity)
	case *storagev1.StorageClass:
		return rulesOf(storagerules.Validate_StorageClass)
	case *storagev1.VolumeAttachment:
		return rulesOf(storagerules.Validate_VolumeAttachment)
	case *storagev1.VolumeAttributesClass:
		return rulesOf(storagerules.Validate_VolumeAttributesClass)
	}
	return nil
}
