package validation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestPersistentVolumes(t *testing.T) {
	const base = "capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], "
	with := func(source string) string { return base + source }
	for _, r := range []podRow{
		{"valid", with("csi: {driver: d, volumeHandle: h}, volumeAttributesClassName: a"), ""},
		{"no modes", "capacity: {storage: 1Gi}, hostPath: {path: /x}", "spec.accessModes: Required value: at least 1 access mode is required"},
		{"mode", "capacity: {storage: 1Gi}, accessModes: [X], hostPath: {path: /x}", `spec.accessModes: Unsupported value: "X": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`},
		{"modes", "capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce, ReadWriteOncePod], hostPath: {path: /x}", "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"},
		{"no capacity", "accessModes: [ReadWriteOnce], hostPath: {path: /x}", "spec.capacity: Required value"},
		{"capacity", "capacity: {cpu: 1}, accessModes: [ReadWriteOnce], hostPath: {path: /x}", `spec.capacity: Unsupported value: {"cpu":"1"}: supported values: "storage"`},
		{"size", "capacity: {storage: 0}, accessModes: [ReadWriteOnce], hostPath: {path: /x}", `spec.capacity[storage]: Invalid value: "0": must be greater than zero`},
		{"reclaim", with("hostPath: {path: /x}, persistentVolumeReclaimPolicy: X"), `spec.persistentVolumeReclaimPolicy: Unsupported value: "X": supported values: "Delete", "Recycle", "Retain"`},
		{"recycled root", with("hostPath: {path: /}, persistentVolumeReclaimPolicy: Recycle"), "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"},
		{"no source", base, "spec: Required value: must specify a volume type"},
		{"two sources", with("hostPath: {path: /x}, nfs: {server: s, path: /x}"), "spec.nfs: Forbidden: may not specify more than 1 volume type"},
		{"class", with("hostPath: {path: /x}, storageClassName: A"), `spec.storageClassName: Invalid value: "A"`},
		{"volume mode", with("hostPath: {path: /x}, volumeMode: X"), `spec.volumeMode: Unsupported value: "X": supported values: "Block", "Filesystem"`},
		{"affinity", with("hostPath: {path: /x}, nodeAffinity: {}"), "spec.nodeAffinity.required: Required value: must specify required node constraints"},
		{"affinity terms", with("hostPath: {path: /x}, nodeAffinity: {required: {nodeSelectorTerms: []}}"), "spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term"},
		{"attributes", with("csi: {driver: d, volumeHandle: h}, volumeAttributesClassName: ''"), "spec.volumeAttributesClassName: Required value: an empty string is disallowed"},
		{"attributes' name", with("csi: {driver: d, volumeHandle: h}, volumeAttributesClassName: A"), `spec.volumeAttributesClassName: Invalid value: "A"`},
		{"attributes without csi", with("hostPath: {path: /x}, volumeAttributesClassName: a"), "spec.csi: Required value: has to be specified when using volumeAttributesClassName"},
		{"csi driver", with("csi: {driver: '', volumeHandle: h}"), "spec.csi.driver: Required value"},
		{"csi handle", with("csi: {driver: d, volumeHandle: ''}"), "spec.csi.volumeHandle: Required value"},
		{"csi secret", with("csi: {driver: d, volumeHandle: h, nodeStageSecretRef: {name: a}}"), "spec.csi.nodeStageSecretRef.namespace: Required value"},
		{"local", with("local: {path: /x}"), "spec.nodeAffinity: Required value: Local volume requires node affinity"},
		{"local path", with("local: {path: ''}"), "spec.local.path: Required value"},
		{"local path climbs", with("local: {path: ../x}"), `spec.local.path: Invalid value: "../x": must not contain '..'`},
		{"glusterfs", with("glusterfs: {endpoints: e, path: p, endpointsNamespace: A}"), `spec.glusterfs.endpointsNamespace: Invalid value: "A": if the endpointnamespace is set, it must be a valid namespace name`},
		{"rbd", with("rbd: {monitors: [], image: i}"), "spec.rbd.monitors: Required value"},
		{"cephfs", with("cephfs: {monitors: []}"), "spec.cephfs.monitors: Required value"},
		{"iscsi", with("iscsi: {targetPortal: p, iqn: x, lun: 0}"), "must be valid format starting with iqn, eui, or naa"},
		{"iscsi secret", with("iscsi: {targetPortal: p, iqn: 'iqn.2001-04.com.example:a', lun: 0, secretRef: {}}"), "spec.iscsi.secretRef.name: Required value"},
		{"cinder secret", with("cinder: {volumeID: v, secretRef: {name: a}}"), "spec.cinder.secretRef.namespace: Required value"},
		{"flex", with("flexVolume: {driver: ''}"), "spec.flexVolume.driver: Required value"},
		{"azure file", with("azureFile: {secretName: a, shareName: b, secretNamespace: ''}"), "spec.azureFile.secretNamespace: Required value"},
		{"storageos", with("storageos: {volumeName: a, secretRef: {name: a}}"), "spec.storageos.secretRef.namespace: Required value"},
		{"scaleio", with("scaleIO: {gateway: g, system: s, secretRef: {}}"), "spec.scaleIO.volumeName: Required value"},
		{"aws", with("awsElasticBlockStore: {volumeID: ''}"), "spec.awsElasticBlockStore.volumeID: Required value"},
	} {
		t.Run(r.name, func(t *testing.T) {
			compare(t, Create(decode(t, "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {"+r.spec+"}}")), r.want)
		})
	}
}

func TestPersistentVolumeUpdates(t *testing.T) {
	const base = `{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], csi: {driver: d, volumeHandle: h}, volumeAttributesClassName: a,
	  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}}`
	testChanges(t, base, []changeRow{
		{"size", "storage: 1Gi", "storage: 2Gi", ""},
		{"source", "volumeHandle: h", "volumeHandle: i", "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"},
		{"expansion secret", "volumeHandle: h", "volumeHandle: h, controllerExpandSecretRef: {name: a, namespace: b}", ""},
		{"mode", "spec: {", "spec: {volumeMode: Block, ", `spec.volumeMode: Invalid value: "Block": field is immutable`},
		{"affinity", "key: a,", "key: b,", "spec.nodeAffinity: Invalid value"},
		{"attributes", "ClassName: a", "ClassName: b", ""},
		{"no attributes", "volumeAttributesClassName: a,", "", "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden"},
	})
}

const aVolumeClaim = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, namespace: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}}`

func TestVolumeClaims(t *testing.T) {
	testCreate(t, aVolumeClaim, []edit{
		{"no modes", "accessModes: [ReadWriteOnce], ", "", "spec.accessModes: Required value: at least 1 access mode is required"},
		{"no size", "storage: 2Gi", "", "spec.resources[storage]: Required value"},
		{"size", "storage: 2Gi", "storage: 0", `spec.resources[storage]: Invalid value: "0": must be greater than zero`},
		{"selector", "spec: {", "spec: {selector: {matchLabels: {a: '!'}}, ", "spec.selector.matchLabels: Invalid value"},
		{"class", "spec: {", "spec: {storageClassName: A, ", `spec.storageClassName: Invalid value: "A"`},
		{"no class", "spec: {", "spec: {storageClassName: '', ", ""},
		{"mode", "spec: {", "spec: {volumeMode: X, ", `spec.volumeMode: Unsupported value: "X": supported values: "Block", "Filesystem"`},
		{"attributes", "spec: {", "spec: {volumeAttributesClassName: A, ", `spec.volumeAttributesClassName: Invalid value: "A"`},
		{"source name", "spec: {", "spec: {dataSource: {kind: PersistentVolumeClaim, name: ''}, ", "spec.dataSource.name: Required value"},
		{"source kind", "spec: {", "spec: {dataSource: {kind: '', name: a}, ", "spec.dataSource.kind: Required value"},
		{"source of core", "spec: {", "spec: {dataSource: {kind: Pod, name: a}, ", `spec.dataSource: Invalid value: "Pod": must be 'PersistentVolumeClaim' when referencing the default apiGroup`},
		{"source group", "spec: {", "spec: {dataSourceRef: {apiGroup: A, kind: K, name: a}, ", `spec.dataSourceRef.apiGroup: Invalid value: "A"`},
		{"sources differ", "spec: {", "spec: {dataSource: {kind: PersistentVolumeClaim, name: a}, dataSourceRef: {kind: PersistentVolumeClaim, name: b}, ", "must match dataSourceRef"},
		{"source elsewhere", "spec: {", "spec: {dataSourceRef: {kind: PersistentVolumeClaim, name: b, namespace: A}, ", `spec.dataSourceRef.namespace: Invalid value: "A"`},
		{"source elsewhere and here", "spec: {", "spec: {dataSource: {kind: PersistentVolumeClaim, name: b}, dataSourceRef: {kind: PersistentVolumeClaim, name: b, namespace: a}, ", "may not be specified when dataSourceRef.namespace is specified"},
	})
}

func TestVolumeClaimUpdates(t *testing.T) {
	const fixed = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"
	testChanges(t, aVolumeClaim, []changeRow{
		{"bound", "spec: {", "spec: {volumeName: v, ", ""},
		{"default class", "spec: {", "spec: {storageClassName: s, ", ""},
		{"size of a pending one", "2Gi", "3Gi", fixed},
		{"modes", "[ReadWriteOnce]", "[ReadWriteMany]", fixed},
	})
	bound := strings.TrimSuffix(strings.Replace(aVolumeClaim, "spec: {", "spec: {volumeName: v, storageClassName: s, volumeAttributesClassName: a, ", 1), "}") +
		", status: {phase: Bound, capacity: {storage: 1Gi}, currentVolumeAttributesClassName: a}}"
	testChanges(t, bound, []changeRow{
		{"grows", "storage: 2Gi", "storage: 3Gi", ""},
		{"growth taken back", "storage: 2Gi", "storage: 1500Mi", ""},
		{"shrinks", "storage: 2Gi", "storage: 1Gi", "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"},
		{"volume", "volumeName: v", "volumeName: w", fixed},
		{"class", "storageClassName: s", "storageClassName: t", fixed},
		{"attributes", "volumeAttributesClassName: a,", "volumeAttributesClassName: b,", ""},
		{"no attributes", "volumeAttributesClassName: a,", "", "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden"},
		{"empty attributes", "volumeAttributesClassName: a,", "volumeAttributesClassName: '',", "spec.volumeAttributesClassName: Forbidden: update from non-nil value to an empty string is forbidden"},
	})
}

func TestVolumeClaimStatus(t *testing.T) {
	negative := resource.MustParse("-1")
	for _, r := range []struct {
		name   string
		change func(c *corev1.PersistentVolumeClaim)
		want   string
	}{
		{"nothing", func(*corev1.PersistentVolumeClaim) {}, ""},
		{"modes", func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = nil }, "spec.accessModes: Required value"},
		{"capacity", func(c *corev1.PersistentVolumeClaim) {
			c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: negative}
		}, `status.capacity[storage]: Invalid value: "-1": must be greater than or equal to 0`},
		{"allocated", func(c *corev1.PersistentVolumeClaim) {
			c.Status.AllocatedResources = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		}, `status.allocatedResources: Unsupported value: "cpu": supported values: "storage"`},
		{"state", func(c *corev1.PersistentVolumeClaim) {
			c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: "X"}
		}, `status.allocatedResourceStatus: Unsupported value: "X": supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizePending", "NodeResizeInProgress", "NodeResizeInfeasible"`},
		{"health", func(c *corev1.PersistentVolumeClaim) {
			c.Status.HealthStatus = &corev1.VolumeHealthStatus{HealthConditions: []corev1.VolumeHealthCondition{{Status: corev1.VolumeHealthDataLoss}}}
		}, "status.healthStatus.healthConditions[0].reason: Required value"},
	} {
		t.Run(r.name, func(t *testing.T) {
			was := decode(t, aVolumeClaim).(*corev1.PersistentVolumeClaim)
			now := was.DeepCopy()
			r.change(now)
			compare(t, UpdateStatus(now, was), r.want)
		})
	}
}
