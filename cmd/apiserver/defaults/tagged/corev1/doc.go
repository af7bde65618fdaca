// Package corev1 holds the defaults that the types of k8s.io/api/core/v1 carry as tags, generated.
//
// +k8s:defaulter-gen=TypeMeta
// +k8s:defaulter-gen-input=k8s.io/api/core/v1
package corev1
