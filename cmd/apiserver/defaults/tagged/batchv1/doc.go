// Package batchv1 holds the defaults that the types within those of k8s.io/api/batch/v1 carry as tags, generated.
//
// +k8s:defaulter-gen=TypeMeta
// +k8s:defaulter-gen-input=k8s.io/api/batch/v1
package batchv1
