package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/resource"
)

// emptyDir makes a directory that lives as long as the pod.
func (v *Volumes) emptyDir(pod *v1.Pod, vol *v1.Volume, in Inputs) (Mount, error) {
	dir, err := v.dir(pod, "empty-dir", vol.Name)
	if err != nil {
		return Mount{}, err
	}
	switch vol.EmptyDir.Medium {
	case v1.StorageMediumDefault:
		return Mount{HostPath: dir}, makeEmpty(dir, fsGroup(pod))
	case v1.StorageMediumMemory:
		if err := ensureTmpfs(dir, memorySize(pod, vol.EmptyDir, in.Allocatable)); err != nil {
			return Mount{}, err
		}
		if group := fsGroup(pod); group != nil {
			done, err := groupSet(dir, *group, true)
			if err != nil {
				return Mount{}, err
			}
			if !done {
				return Mount{HostPath: dir}, setGroup(dir, *group, true)
			}
		}
		return Mount{HostPath: dir}, nil
	}
	return Mount{}, fmt.Errorf("emptyDir medium %s: %w", vol.EmptyDir.Medium, ErrUnsupported)
}

// makeEmpty makes a directory that everybody may write to. It gets its name last, so that one which has its name is
// finished, and what containers made of it is not touched again.
func makeEmpty(dir string, group *int64) error {
	if _, err := os.Lstat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unfinished := dir + "~"
	if err := os.Mkdir(unfinished, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make volume directory: %w", err)
	}
	if err := os.Chmod(unfinished, 0o777); err != nil {
		return fmt.Errorf("make volume directory: %w", err)
	}
	if group != nil {
		if err := setGroup(unfinished, *group, true); err != nil {
			return err
		}
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return fmt.Errorf("make volume directory: %w", err)
	}
	return nil
}

// memorySize is how large a volume in memory may grow: to its own limit, but not beyond the pod's, nor the node's.
func memorySize(pod *v1.Pod, src *v1.EmptyDirVolumeSource, allocatable v1.ResourceList) int64 {
	size := allocatable.Memory().Value()
	lower := func(n int64) {
		if n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	bounded := true
	for _, c := range pod.Spec.Containers {
		bounded = bounded && !c.Resources.Limits.Memory().IsZero()
	}
	if limits := resource.PodLimits(pod, resource.PodResourcesOptions{}); bounded || resource.IsPodLevelLimitsSet(pod) {
		lower(limits.Memory().Value())
	}
	if src.SizeLimit != nil {
		lower(src.SizeLimit.Value())
	}
	return size
}

// files makes a volume whose content the kubelet writes.
func (v *Volumes) files(ctx context.Context, pod *v1.Pod, vol *v1.Volume, in Inputs) (Mount, error) {
	content, kind, err := v.content(ctx, pod, vol, in)
	if err != nil {
		return Mount{}, err
	}
	dir, err := v.dir(pod, kind, vol.Name)
	if err != nil {
		return Mount{}, err
	}
	if kind == "configmap" {
		err = makeEmpty(dir, nil)
	} else {
		err = ensureTmpfs(dir, 0)
	}
	if err != nil {
		return Mount{}, err
	}
	own := func(version string) error { return nil }
	if group := fsGroup(pod); group != nil {
		if err := os.Lchown(dir, -1, int(*group)); err != nil {
			return Mount{}, fmt.Errorf("set group: %w", err)
		}
		own = func(version string) error { return setGroup(version, *group, false) }
	}
	changed, err := writeTree(dir, content, v.cfg.Now(), own)
	if changed {
		v.cfg.Log.Debug("wrote volume", "pod", pod.Namespace+"/"+pod.Name, "volume", vol.Name)
	}
	return Mount{HostPath: dir, ReadOnly: true}, err
}

func (v *Volumes) content(ctx context.Context, pod *v1.Pod, vol *v1.Volume, in Inputs) (tree, string, error) {
	switch {
	case vol.ConfigMap != nil:
		s := vol.ConfigMap
		t, err := v.configMap(ctx, pod, s.Name, s.Items, s.DefaultMode, isTrue(s.Optional))
		return t, "configmap", err
	case vol.Secret != nil:
		s := vol.Secret
		t, err := v.secret(ctx, pod, s.SecretName, s.Items, s.DefaultMode, isTrue(s.Optional))
		return t, "secret", err
	case vol.DownwardAPI != nil:
		t, err := downwardFiles(pod, vol.DownwardAPI.Items, vol.DownwardAPI.DefaultMode, in.Allocatable)
		return t, "downward-api", err
	}
	t, err := v.projected(ctx, pod, vol, in)
	return t, "projected", err
}

func (v *Volumes) configMap(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode *int32, optional bool) (tree, error) {
	cm, err := v.cfg.Source.ConfigMap(ctx, pod.Namespace, name)
	if err != nil {
		if !optional || !apierrors.IsNotFound(err) {
			return nil, err
		}
		cm = nil
	}
	return configMapFiles(cm, items, mode, optional)
}

func (v *Volumes) secret(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode *int32, optional bool) (tree, error) {
	secret, err := v.cfg.Source.Secret(ctx, pod.Namespace, name)
	if err != nil {
		if !optional || !apierrors.IsNotFound(err) {
			return nil, err
		}
		secret = nil
	}
	return secretFiles(secret, items, mode, optional)
}

// projected puts several sources into one volume. Of two that have the same path, the later one wins.
func (v *Volumes) projected(ctx context.Context, pod *v1.Pod, vol *v1.Volume, in Inputs) (tree, error) {
	src := vol.Projected
	out := tree{}
	var errs []error
	for i := range src.Sources {
		if c := src.Sources[i].PodCertificate; c != nil {
			part, err := v.certificateFiles(ctx, pod, certificateKey{pod.UID, vol.Name, i}, c, src.DefaultMode)
			errs = append(errs, err)
			maps.Copy(out, part)
			continue
		}
		part, err := v.projection(ctx, pod, &src.Sources[i], src.DefaultMode, in)
		if err != nil {
			errs = append(errs, err)
		}
		maps.Copy(out, part)
	}
	return out, errors.Join(errs...)
}

func (v *Volumes) projection(ctx context.Context, pod *v1.Pod, p *v1.VolumeProjection, mode *int32, in Inputs) (tree, error) {
	switch {
	case p.ConfigMap != nil:
		return v.configMap(ctx, pod, p.ConfigMap.Name, p.ConfigMap.Items, mode, isTrue(p.ConfigMap.Optional))
	case p.Secret != nil:
		return v.secret(ctx, pod, p.Secret.Name, p.Secret.Items, mode, isTrue(p.Secret.Optional))
	case p.DownwardAPI != nil:
		return downwardFiles(pod, p.DownwardAPI.Items, mode, in.Allocatable)
	case p.ServiceAccountToken != nil:
		data, err := v.token(ctx, pod, p.ServiceAccountToken)
		if err != nil {
			return nil, err
		}
		return tree{p.ServiceAccountToken.Path: private(pod, []byte(data), mode)}, nil
	case p.ClusterTrustBundle != nil:
		return v.trust(ctx, p.ClusterTrustBundle, mode)
	}
	return nil, fmt.Errorf("projection of %s: %w", kindOf(p), ErrUnsupported)
}

// private is a file that is the pod's own secret.
func private(pod *v1.Pod, data []byte, mode *int32) file {
	f := file{Data: data, Mode: modeOr(mode, nil), User: tokenUser(pod)}
	if f.User != nil || fsGroup(pod) != nil {
		f.Mode = 0o600 // whom else it concerns comes by owner and group
	}
	return f
}

// claimed finds the volume behind a claim.
func (v *Volumes) claimed(ctx context.Context, pod *v1.Pod, name string, readOnly bool) (Mount, error) {
	claim, err := v.cfg.Source.Claim(ctx, pod.Namespace, name)
	if err != nil {
		return Mount{}, err
	}
	if claim.Status.Phase != v1.ClaimBound || claim.Spec.VolumeName == "" {
		return Mount{}, fmt.Errorf("error processing PVC %s/%s: PVC is not bound", pod.Namespace, name)
	}
	pv, err := v.cfg.Source.Volume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return Mount{}, err
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return Mount{}, fmt.Errorf("error processing PVC %s/%s: volume %s belongs to another claim", pod.Namespace, name, pv.Name)
	}
	if pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == v1.PersistentVolumeBlock {
		return Mount{}, fmt.Errorf("persistent volume %s: mode Block: %w", pv.Name, ErrUnsupported)
	}
	return persistent(pod, pv, readOnly)
}

func persistent(pod *v1.Pod, pv *v1.PersistentVolume, readOnly bool) (Mount, error) {
	switch {
	case pv.Spec.HostPath != nil:
		kind := v1.HostPathUnset
		if pv.Spec.HostPath.Type != nil {
			kind = *pv.Spec.HostPath.Type
		}
		return Mount{HostPath: pv.Spec.HostPath.Path, ReadOnly: readOnly}, checkHostPath(pv.Spec.HostPath.Path, kind)
	case pv.Spec.Local != nil:
		path := pv.Spec.Local.Path
		if err := checkHostPath(path, v1.HostPathDirectory); err != nil {
			return Mount{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
		}
		if group := fsGroup(pod); group != nil && !readOnly {
			return Mount{HostPath: path}, groupLocal(pod, path, *group)
		}
		return Mount{HostPath: path, ReadOnly: readOnly}, nil
	}
	return Mount{}, fmt.Errorf("persistent volume %s: kind %s: %w", pv.Name, kindOf(&pv.Spec.PersistentVolumeSource), ErrUnsupported)
}

// groupLocal hands a local volume to the pod's group; one that was handed over once is only checked at its top where
// the pod asks for that, as going through a large volume takes long.
func groupLocal(pod *v1.Pod, path string, group int64) error {
	policy := pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy != nil && *policy == v1.FSGroupChangeOnRootMismatch {
		if done, err := groupSet(path, group, true); done || err != nil {
			return err
		}
	}
	return setGroup(path, group, true)
}

// kindOf names the one field that is set in a union such as v1.VolumeSource, as YAML does.
func kindOf(union any) string {
	value := reflect.ValueOf(union).Elem()
	for i := range value.NumField() {
		if f := value.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unknown"
}
