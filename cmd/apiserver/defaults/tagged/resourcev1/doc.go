// Package resourcev1 holds the defaults that the types of k8s.io/api/resource/v1 carry as tags, generated.
//
// +k8s:defaulter-gen=TypeMeta
// +k8s:defaulter-gen-input=k8s.io/api/resource/v1
package resourcev1
