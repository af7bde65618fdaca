// Package appsv1 holds the defaults that the types within those of k8s.io/api/apps/v1 carry as tags, generated.
//
// +k8s:defaulter-gen=TypeMeta
// +k8s:defaulter-gen-input=k8s.io/api/apps/v1
package appsv1
