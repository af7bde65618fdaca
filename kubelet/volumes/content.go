package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubectl/pkg/util/fieldpath"

	"github.com/orlop-io/orlop/kubelet/environ"
)

// defaultMode is what the API server writes where nobody chose a mode; static pods do without the API server.
const defaultMode = 0o644

func modeOr(mode *int32, other *int32) fs.FileMode {
	switch {
	case mode != nil:
		return fs.FileMode(*mode).Perm()
	case other != nil:
		return fs.FileMode(*other).Perm()
	}
	return defaultMode
}

func isTrue(b *bool) bool { return b != nil && *b }

// configMapFiles picks what a volume shows of a ConfigMap. cm is nil if there is none and it is optional.
func configMapFiles(cm *v1.ConfigMap, items []v1.KeyToPath, mode *int32, optional bool) (tree, error) {
	data := map[string][]byte{}
	if cm != nil {
		for key, value := range cm.Data {
			data[key] = []byte(value)
		}
		maps.Copy(data, cm.BinaryData)
	}
	return pick(data, items, mode, optional, "configmap references non-existent config key: %s")
}

// secretFiles picks what a volume shows of a Secret. secret is nil if there is none and it is optional.
func secretFiles(secret *v1.Secret, items []v1.KeyToPath, mode *int32, optional bool) (tree, error) {
	var data map[string][]byte
	if secret != nil {
		data = secret.Data
	}
	return pick(data, items, mode, optional, "references non-existent secret key: %s")
}

func pick(data map[string][]byte, items []v1.KeyToPath, mode *int32, optional bool, absent string) (tree, error) {
	out := tree{}
	if len(items) == 0 {
		for key, value := range data {
			out[key] = file{Data: value, Mode: modeOr(mode, nil)}
		}
		return out, nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf(absent, item.Key)
		}
		out[item.Path] = file{Data: value, Mode: modeOr(item.Mode, mode)}
	}
	return out, nil
}

// downwardFiles shows a pod's own fields and its containers' resources.
func downwardFiles(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode *int32, allocatable v1.ResourceList) (tree, error) {
	out := tree{}
	var errs []error
	for _, item := range items {
		value, err := downwardValue(pod, item, allocatable)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out[item.Path] = file{Data: []byte(value), Mode: modeOr(item.Mode, mode)}
	}
	return out, errors.Join(errs...)
}

func downwardValue(pod *v1.Pod, item v1.DownwardAPIVolumeFile, allocatable v1.ResourceList) (string, error) {
	switch {
	case item.FieldRef != nil:
		return fieldpath.ExtractFieldPathAsString(pod, item.FieldRef.FieldPath)
	case item.ResourceFieldRef != nil:
		name := item.ResourceFieldRef.ContainerName
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if list[i].Name == name {
					return environ.Resource(pod, &list[i], item.ResourceFieldRef, allocatable)
				}
			}
		}
		return "", fmt.Errorf("container %s not found", name)
	}
	return "", fmt.Errorf("downward API item %s has no source", item.Path)
}

// tokenUser is the user that alone may read a service account token: the one that every container of the pod runs
// as, if they agree.
func tokenUser(pod *v1.Pod) *int64 {
	var pods *int64
	if pod.Spec.SecurityContext != nil {
		pods = pod.Spec.SecurityContext.RunAsUser
	}
	var user *int64
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			own := pods
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				own = sc.RunAsUser
			}
			if own == nil || user != nil && *user != *own {
				return nil
			}
			user = own
		}
	}
	return user
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}
