package localpath

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Provisioner is the name that classes call this package by.
const Provisioner = "orlop.io/local-path"

// Base is the folder of each node that the directories lie in.
const Base = "/var/lib/orlop-local-path"

const (
	// finalizer keeps a volume until its directory is removed; the name is that of external provisioners.
	finalizer             = "external-provisioner.volume.kubernetes.io/finalizer"
	provisionedBy         = "pv.kubernetes.io/provisioned-by"
	provisionerAnnotation = "volume.kubernetes.io/storage-provisioner"
	selectedNode          = "volume.kubernetes.io/selected-node"
	nodeAnnotation        = "orlop.io/local-path-node"

	// volumeAnnotation of a maker is the volume that follows its success.
	volumeAnnotation = "orlop.io/local-path-volume"
	volumeLabel      = "orlop.io/local-path-volume"
	actLabel         = "orlop.io/local-path-act"
	attemptLabel     = "orlop.io/local-path-attempt"
	actMake          = "make"
	actRemove        = "remove"
)

func className(claim *corev1.PersistentVolumeClaim) string {
	if claim == nil {
		return ""
	}
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	return ptr.Deref(claim.Spec.StorageClassName, "")
}

// volumeFor is the volume that claim gets on node.
func volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) *corev1.PersistentVolume {
	name := volumeName(claim)
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Finalizers: []string{finalizer},
			Annotations: map[string]string{provisionedBy: Provisioner, nodeAnnotation: node.Name},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path.Join(Base, name)}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node.Labels[corev1.LabelHostname]}}},
			}}}},
		},
	}
}

func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// ours tells whether v's directory is one that this package made, and so may remove.
func ours(v *corev1.PersistentVolume) bool {
	return v.Annotations[provisionedBy] == Provisioner && v.Annotations[nodeAnnotation] != "" &&
		v.Spec.Local != nil && v.Spec.Local.Path == path.Join(Base, v.Name)
}

func maker(v *corev1.PersistentVolume, node string, attempt int) (*corev1.Pod, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode volume %s: %w", v.Name, err)
	}
	pod := helper(actMake, v.Name, node, attempt)
	pod.Annotations = map[string]string{volumeAnnotation: string(content)}
	return pod, nil
}

// volumeOf reads the volume that follows a maker's success.
func volumeOf(pod *corev1.Pod) (*corev1.PersistentVolume, error) {
	v := &corev1.PersistentVolume{}
	if err := json.Unmarshal([]byte(pod.Annotations[volumeAnnotation]), v); err != nil {
		return nil, fmt.Errorf("read the volume of pod %s: %w", pod.Name, err)
	}
	if !ours(v) {
		return nil, fmt.Errorf("the volume of pod %s is not one of ours", pod.Name)
	}
	return v, nil
}

func remover(v *corev1.PersistentVolume, attempt int) *corev1.Pod {
	return helper(actRemove, v.Name, v.Annotations[nodeAnnotation], attempt)
}

// helper is a pod that makes or removes one directory on node, and has the rights for that alone.
func helper(act, volume, node string, attempt int) *corev1.Pod {
	name := "local-path-" + act + "-" + volume
	if attempt > 0 {
		name += "-" + strconv.Itoa(attempt)
	}
	kind := corev1.HostPathDirectoryOrCreate
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: name,
			Labels: map[string]string{volumeLabel: volume, actLabel: act, attemptLabel: strconv.Itoa(attempt)},
		},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: corev1.RestartPolicyOnFailure, PriorityClassName: "system-node-critical",
			// It needs no network, and must not wait for one.
			HostNetwork: true, DNSPolicy: corev1.DNSDefault, EnableServiceLinks: ptr.To(false), AutomountServiceAccountToken: ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To(int64(5)),
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Volumes:                       []corev1.Volume{{Name: "volumes", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: Base, Type: &kind}}}},
			Containers: []corev1.Container{{
				Name: act, Args: []string{"local-path", act, "--dir=/volumes", volume},
				ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				VolumeMounts: []corev1.VolumeMount{{Name: "volumes", MountPath: "/volumes"}},
				SecurityContext: &corev1.SecurityContext{
					RunAsUser: ptr.To(int64(0)), ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
					// What lies in a directory belongs to its pods' users.
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"DAC_OVERRIDE", "FOWNER"}},
				},
			}},
		},
	}
}

// attempt is how often a helper was made before pod.
func attempt(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Labels[attemptLabel])
	if err != nil {
		return 0
	}
	return n
}
