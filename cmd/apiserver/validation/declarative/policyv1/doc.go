// Package policyv1 holds the rules of k8s.io/api/policy/v1, generated from its tags.
//
// +k8s:validation-gen=TypesWithField=TypeMeta
// +k8s:validation-gen-input=k8s.io/api/policy/v1
// +k8s:validation-gen-scheme-registry=nil
package policyv1
