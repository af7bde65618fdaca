// Package environ decides what a container finds around it when it starts: its environment variables, its words with
// variables filled in, its hosts file, its host name and its resolver's configuration.
//
// It computes values only; writing files and starting containers is for others.
package environ

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kubectl/pkg/util/fieldpath"
	"k8s.io/kubectl/pkg/util/resource"
)

// objects gives the API objects that variables are read from. An absent one is an error that apierrors.IsNotFound knows.
type objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Inputs is what a container's environment is made of.
type Inputs struct {
	Pod       *v1.Pod
	Container *v1.Container
	// PodIPs and HostIPs are the pod's and the node's addresses, the primary one first.
	PodIPs  []string
	HostIPs []string
	// Services are at least those of the pod's namespace and default/kubernetes; others do no harm.
	Services []*v1.Service
	// Allocatable is what the node has to give: the answer for a resource the container has no limit of.
	Allocatable v1.ResourceList
}

// Make gives a container's variables in order of name. An error's text goes into the container's status, with the
// reason CreateContainerConfigError; a later try may succeed.
func Make(ctx context.Context, in Inputs, from objects) ([]v1.EnvVar, error) {
	links := in.Pod.Spec.EnableServiceLinks == nil || *in.Pod.Spec.EnableServiceLinks
	services := serviceVars(in.Services, in.Pod.Namespace, links)
	vars := map[string]string{}
	for i := range in.Container.EnvFrom {
		if err := readAll(ctx, vars, &in.Container.EnvFrom[i], in.Pod.Namespace, from); err != nil {
			return nil, err
		}
	}
	lookup := func(name string) (string, bool) {
		value, ok := vars[name]
		if !ok {
			value, ok = services[name]
		}
		return value, ok
	}
	for i := range in.Container.Env {
		v := &in.Container.Env[i]
		value, ok, err := in.value(ctx, v, lookup, from)
		if err != nil {
			return nil, err
		}
		if ok {
			vars[v.Name] = value
		}
	}
	for name, value := range services {
		if _, ok := vars[name]; !ok {
			vars[name] = value
		}
	}
	out := make([]v1.EnvVar, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, v1.EnvVar{Name: name, Value: vars[name]})
	}
	return out, nil
}

// readAll takes all keys of one ConfigMap or Secret that can be names of variables.
func readAll(ctx context.Context, vars map[string]string, src *v1.EnvFromSource, namespace string, from objects) error {
	add := func(key, value string) {
		if name := src.Prefix + key; len(validation.IsRelaxedEnvVarName(name)) == 0 {
			vars[name] = value
		}
	}
	switch {
	case src.ConfigMapRef != nil:
		cm, err := from.ConfigMap(ctx, namespace, src.ConfigMapRef.Name)
		if err != nil {
			return missing(err, src.ConfigMapRef.Optional)
		}
		for key, value := range cm.Data {
			add(key, value)
		}
	case src.SecretRef != nil:
		secret, err := from.Secret(ctx, namespace, src.SecretRef.Name)
		if err != nil {
			return missing(err, src.SecretRef.Optional)
		}
		for key, value := range secret.Data {
			add(key, string(value))
		}
	}
	return nil
}

// missing forgives that an optional object is not there.
func missing(err error, optional *bool) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// value finds one variable's value; without ok the variable is not set at all.
func (in *Inputs) value(ctx context.Context, v *v1.EnvVar, lookup func(string) (string, bool), from objects) (value string, ok bool, err error) {
	src := v.ValueFrom
	switch {
	case v.Value != "" || src == nil:
		return expand(v.Value, lookup), true, nil
	case src.FieldRef != nil:
		value, err = in.field(src.FieldRef.FieldPath)
		return value, err == nil, err
	case src.ResourceFieldRef != nil:
		value, err = Resource(in.Pod, in.Container, src.ResourceFieldRef, in.Allocatable)
		return value, err == nil, err
	case src.ConfigMapKeyRef != nil:
		return in.configMapKey(ctx, src.ConfigMapKeyRef, from)
	case src.SecretKeyRef != nil:
		return in.secretKey(ctx, src.SecretKeyRef, from)
	case src.FileKeyRef != nil:
		return "", false, fmt.Errorf("environment variable %s: this kubelet does not read variables from files", v.Name)
	}
	return "", false, fmt.Errorf("environment variable %s: unknown source", v.Name)
}

func (in *Inputs) configMapKey(ctx context.Context, ref *v1.ConfigMapKeySelector, from objects) (string, bool, error) {
	cm, err := from.ConfigMap(ctx, in.Pod.Namespace, ref.Name)
	if err != nil {
		return "", false, missing(err, ref.Optional)
	}
	value, ok := cm.Data[ref.Key]
	if !ok && (ref.Optional == nil || !*ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
	}
	return value, ok, nil
}

func (in *Inputs) secretKey(ctx context.Context, ref *v1.SecretKeySelector, from objects) (string, bool, error) {
	secret, err := from.Secret(ctx, in.Pod.Namespace, ref.Name)
	if err != nil {
		return "", false, missing(err, ref.Optional)
	}
	value, ok := secret.Data[ref.Key]
	if !ok && (ref.Optional == nil || !*ref.Optional) {
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
	}
	return string(value), ok, nil
}

func (in *Inputs) field(path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return in.Pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return in.Pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(in.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(in.HostIPs, ","), nil
	case "status.podIP":
		return first(in.PodIPs), nil
	case "status.podIPs":
		return strings.Join(in.PodIPs, ","), nil
	}
	return fieldpath.ExtractFieldPathAsString(in.Pod, path)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// Resource gives a container's request or limit, in units of the selector's divisor. A container without a limit may
// use what the node has to give, so that is its answer.
func Resource(pod *v1.Pod, container *v1.Container, ref *v1.ResourceFieldSelector, allocatable v1.ResourceList) (string, error) {
	if ref.ContainerName != "" && ref.ContainerName != container.Name {
		c, err := findContainer(pod, ref.ContainerName)
		if err != nil {
			return "", err
		}
		container = c
	}
	full := container.DeepCopy()
	if full.Resources.Limits == nil {
		full.Resources.Limits = v1.ResourceList{}
	}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage} {
		if q, ok := full.Resources.Limits[name]; ok && !q.IsZero() {
			continue
		}
		if pod.Spec.Resources != nil {
			if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
				full.Resources.Limits[name] = q
				continue
			}
		}
		if q, ok := allocatable[name]; ok {
			full.Resources.Limits[name] = q
		}
	}
	return resource.ExtractContainerResourceValue(ref, full)
}

func findContainer(pod *v1.Pod, name string) (*v1.Container, error) {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i], nil
			}
		}
	}
	return nil, fmt.Errorf("container %s not found", name)
}
