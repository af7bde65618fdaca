package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

const (
	defaultAccount = "default"
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume    = "kube-api-access-"
	// tokenSeconds is an hour and a bit: the odd number tells serviceaccounts/token that nobody chose it.
	tokenSeconds = 3607
	// enforceMountable is the annotation of accounts whose pods may only use the secrets that the account lists.
	enforceMountable = "kubernetes.io/enforce-mountable-secrets"
)

// serviceAccount gives every pod its service account, and its token.
type serviceAccount struct {
	*adm.Handler
	client       kubernetes.Interface
	accounts     corelisters.ServiceAccountLister
	generateName func(base string) string
}

var (
	_ adm.MutationInterface                        = (*serviceAccount)(nil)
	_ adm.ValidationInterface                      = (*serviceAccount)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*serviceAccount)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*serviceAccount)(nil)
)

func newServiceAccount() *serviceAccount {
	return &serviceAccount{Handler: adm.NewHandler(adm.Create, adm.Update), generateName: names.SimpleNameGenerator.GenerateName}
}

func (s *serviceAccount) SetExternalKubeClientSet(c kubernetes.Interface) { s.client = c }

func (s *serviceAccount) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	s.accounts = f.Core().V1().ServiceAccounts().Lister()
}

func (s *serviceAccount) ValidateInitialization() error {
	if s.client == nil || s.accounts == nil {
		return errors.New("ServiceAccount: no informers or no client")
	}
	return nil
}

// Admit fills in account, token volume and image pull secrets.
func (s *serviceAccount) Admit(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a)
	if !ok || err != nil || a.GetOperation() != adm.Create {
		return err
	}
	// A mirror pod shows what the kubelet runs from a file; it is not changed, only checked.
	if isMirror(pod) {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = pod.Spec.DeprecatedServiceAccount
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := s.account(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if err != nil {
		return adm.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	if automounts(account, pod) {
		mountToken(pod, s.generateName)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

// Validate checks what mirror pods and pods of accounts with a list of secrets may name.
func (s *serviceAccount) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	pod, ok, err := podOf(a, "ephemeralcontainers")
	if !ok || err != nil {
		return err
	}
	if a.GetOperation() == adm.Update && a.GetSubresource() != "ephemeralcontainers" {
		return nil // the fields in question cannot change
	}
	if isMirror(pod) {
		return validateMirror(a, pod)
	}
	account, err := s.account(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if err != nil {
		return adm.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	if on, _ := strconv.ParseBool(account.Annotations[enforceMountable]); on {
		if err := checkMountable(account, pod); err != nil {
			return adm.NewForbidden(a, err)
		}
	}
	return nil
}

// account finds a service account. The default one is made by a controller soon after its namespace: a pod that comes in
// between waits for a moment.
func (s *serviceAccount) account(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if sa, err := s.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return sa, nil
	}
	patience := time.Duration(0)
	if name == defaultAccount {
		patience = 1500 * time.Millisecond
	}
	for deadline := time.Now().Add(patience); ; {
		sa, err := s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return sa, nil
		}
		if !apierrors.IsNotFound(err) || !time.Now().Before(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

func validateMirror(a adm.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return adm.NewForbidden(a, errors.New("a mirror pod may not reference service accounts"))
	}
	if len(secretNames(pod)) > 0 || len(pod.Spec.ImagePullSecrets) > 0 {
		return adm.NewForbidden(a, errors.New("a mirror pod may not reference secrets"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, src := range v.Projected.Sources {
			if src.ServiceAccountToken != nil {
				return adm.NewForbidden(a, errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
			}
		}
	}
	return nil
}

// automounts says whether the pod gets a token: the pod's word counts more than the account's.
func automounts(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return sa.AutomountServiceAccountToken == nil || *sa.AutomountServiceAccountToken
}

// mountToken mounts token, CA and namespace into every container that has nothing at the well-known place.
func mountToken(pod *corev1.Pod, generateName func(string) string) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolume) {
			name = v.Name
			break
		}
	}
	have := name != ""
	if !have {
		name = generateName(tokenVolume)
	}
	needed := false
	for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range cs {
			if slices.ContainsFunc(cs[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			needed = true
			cs[i].VolumeMounts = append(cs[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
		}
	}
	if needed && !have {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

func tokenSource() *corev1.ProjectedVolumeSource {
	mode, seconds := int32(0o644), int64(tokenSeconds)
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}

// checkMountable refuses secrets that the account does not list.
func checkMountable(sa *corev1.ServiceAccount, pod *corev1.Pod) error {
	listed, pull := map[string]bool{}, map[string]bool{}
	for _, s := range sa.Secrets {
		listed[s.Name] = true
	}
	for _, s := range sa.ImagePullSecrets {
		pull[s.Name] = true
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !listed[v.Secret.SecretName] {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, sa.Name)
		}
	}
	for _, u := range secretUses(pod) {
		if !listed[u.secret] {
			return fmt.Errorf("%s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", u.by, u.secret, sa.Name)
		}
	}
	for i, s := range pod.Spec.ImagePullSecrets {
		if !pull[s.Name] {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, s.Name, sa.Name)
		}
	}
	return nil
}

// secretUse is a secret in a container's environment.
type secretUse struct{ by, secret string }

func secretUses(pod *corev1.Pod) []secretUse {
	var uses []secretUse
	add := func(kind, name string, from []corev1.EnvFromSource, env []corev1.EnvVar) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				uses = append(uses, secretUse{fmt.Sprintf("%s %s with envVar %s", kind, name, e.Name), e.ValueFrom.SecretKeyRef.Name})
			}
		}
		for _, f := range from {
			if f.SecretRef != nil {
				uses = append(uses, secretUse{fmt.Sprintf("%s %s with envFrom", kind, name), f.SecretRef.Name})
			}
		}
	}
	for _, c := range pod.Spec.InitContainers {
		add("init container", c.Name, c.EnvFrom, c.Env)
	}
	for _, c := range pod.Spec.Containers {
		add("container", c.Name, c.EnvFrom, c.Env)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		add("ephemeral container", c.Name, c.EnvFrom, c.Env)
	}
	return uses
}
