// Package autoscalingv2 holds the rules of k8s.io/api/autoscaling/v2, generated from its tags.
//
// +k8s:validation-gen=TypesWithField=TypeMeta
// +k8s:validation-gen-input=k8s.io/api/autoscaling/v2
// +k8s:validation-gen-scheme-registry=nil
package autoscalingv2
