package validation

import (
	"strings"
	"testing"
)

func TestVolumes(t *testing.T) {
	v := func(source string) string { return "volumes: [{name: v, " + source + "}]" }
	const at = "spec.volumes[0]."
	rows := []podRow{
		{"no name", "volumes: [{emptyDir: {}}]", at + "name: Required value"},
		{"name", "volumes: [{name: A}]", at + `name: Invalid value: "A"`},
		{"name twice", "volumes: [{name: v}, {name: v}]", `spec.volumes[1].name: Duplicate value: "v"`},
		{"two sources", v("emptyDir: {}, hostPath: {path: /x}"), at + "hostPath: Forbidden: may not specify more than 1 volume type"},
		{"size", v("emptyDir: {sizeLimit: -1}"), at + "emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"},
		{"mode", v("emptyDir: {mode: 1024}"), at + "emptyDir.mode: Invalid value: 1024: must be a number between 0 and 01777 (octal), both inclusive"},
		{"host path", v("hostPath: {path: ''}"), at + "hostPath.path: Required value"},
		{"host path climbs", v("hostPath: {path: /a/../b}"), at + `hostPath.path: Invalid value: "/a/../b": must not contain '..'`},
		{"host path type", v("hostPath: {path: /a, type: X}"), at + `hostPath.type: Unsupported value: "X": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`},
		{"secret", v("secret: {}"), at + "secret.secretName: Required value"},
		{"secret mode", v("secret: {secretName: s, defaultMode: 512}"), at + "secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive"},
		{"secret user", v("secret: {secretName: s, defaultUser: -1}"), at + "secret.defaultUser: Invalid value: -1"},
		{"item key", v("secret: {secretName: s, items: [{path: p}]}"), at + "secret.items[0].key: Required value"},
		{"item path", v("secret: {secretName: s, items: [{key: k}]}"), at + "secret.items[0].path: Required value"},
		{"item path absolute", v("secret: {secretName: s, items: [{key: k, path: /p}]}"), at + `secret.items[0].path: Invalid value: "/p": must be a relative path`},
		{"item path climbs", v("secret: {secretName: s, items: [{key: k, path: a/../p}]}"), "must not contain '..'"},
		{"item path reserved", v("secret: {secretName: s, items: [{key: k, path: ..p}]}"), at + `secret.items[0].path: Invalid value: "..p": must not start with '..'`},
		{"item mode", v("secret: {secretName: s, items: [{key: k, path: p, mode: -1}]}"), at + "secret.items[0].mode: Invalid value: -1"},
		{"item user", v("secret: {secretName: s, items: [{key: k, path: p, user: -1}]}"), at + "secret.items[0].user: Invalid value: -1"},
		{"config map", v("configMap: {}"), at + "configMap.name: Required value"},
		{"config map mode", v("configMap: {name: c, defaultMode: -1}"), at + "configMap.defaultMode: Invalid value: -1"},
		{"config map item", v("configMap: {name: c, items: [{key: k}]}"), at + "configMap.items[0].path: Required value"},
		{"claim", v("persistentVolumeClaim: {claimName: ''}"), at + "persistentVolumeClaim.claimName: Required value"},
		{"claim of an ephemeral volume", "volumes: [{name: v, persistentVolumeClaim: {claimName: p-e}}, {name: e, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1}}}}}}]",
			at + `persistentVolumeClaim.claimName: Invalid value: "p-e": must not reference a PVC that gets created for an ephemeral volume`},
		{"downward mode", v("downwardAPI: {defaultMode: 512}"), at + "downwardAPI.defaultMode: Invalid value: 512"},
		{"downward path", v("downwardAPI: {items: [{fieldRef: {fieldPath: metadata.name}}]}"), at + "downwardAPI.path: Required value"},
		{"downward nothing", v("downwardAPI: {items: [{path: p}]}"), at + "downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"},
		{"downward both", v("downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}, resourceFieldRef: {containerName: c, resource: limits.cpu}}]}"), at + `downwardAPI: Invalid value: "resource": fieldRef and resourceFieldRef can not be specified simultaneously`},
		{"downward field", v("downwardAPI: {items: [{path: p, fieldRef: {fieldPath: spec.nodeName}}]}"), at + `downwardAPI.fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"`},
		{"downward container", v("downwardAPI: {items: [{path: p, resourceFieldRef: {resource: limits.cpu}}]}"), at + "downwardAPI.resourceFieldRef.containerName: Required value"},
		{"csi", v("csi: {driver: ''}"), at + "csi.driver: Required value"},
		{"csi driver", v("csi: {driver: '!'}"), at + `csi.driver: Invalid value: "!"`},
		{"csi driver length", v("csi: {driver: " + strings.Repeat("a", 64) + "}"), at + "csi.driver: Too long: may not be more than 63 bytes"},
		{"csi secret", v("csi: {driver: d, nodePublishSecretRef: {}}"), at + "csi.nodePublishSecretRef.name: Required value"},
		{"ephemeral", v("ephemeral: {}"), at + "ephemeral.volumeClaimTemplate: Required value"},
		{"ephemeral claim", v("ephemeral: {volumeClaimTemplate: {spec: {}}}"), at + "ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required"},
		{"ephemeral name", v("ephemeral: {volumeClaimTemplate: {metadata: {name: x}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1}}}}}"), at + "ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set for an ephemeral volume"},
		{"ephemeral label", v("ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: '!'}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1}}}}}"), at + "ephemeral.volumeClaimTemplate.metadata.labels: Invalid value"},
		{"image", v("image: {}"), at + "image.reference: Required value"},
		{"image pull", v("image: {reference: r, pullPolicy: X}"), at + `image.pullPolicy: Unsupported value: "X": supported values: "Always", "IfNotPresent", "Never"`},
	}
	testPods(t, rows)
	testPods(t, legacyRows())
}

// legacyRows are of the sorts of volumes that other programs serve now.
func legacyRows() []podRow {
	v := func(source string) string { return "volumes: [{name: v, " + source + "}]" }
	const at = "spec.volumes[0]."
	return []podRow{
		{"git", v("gitRepo: {repository: ''}"), at + "gitRepo.repository: Required value"},
		{"git directory", v("gitRepo: {repository: r, directory: ../x}"), at + `gitRepo.directory: Invalid value: "../x": must not contain '..'`},
		{"gce", v("gcePersistentDisk: {pdName: ''}"), at + "gcePersistentDisk.pdName: Required value"},
		{"gce partition", v("gcePersistentDisk: {pdName: a, partition: 256}"), at + "gcePersistentDisk.partition: Invalid value: 256: must be between 0 and 255, inclusive"},
		{"aws", v("awsElasticBlockStore: {volumeID: ''}"), at + "awsElasticBlockStore.volumeID: Required value"},
		{"aws partition", v("awsElasticBlockStore: {volumeID: a, partition: -1}"), at + "awsElasticBlockStore.partition: Invalid value: -1"},
		{"nfs", v("nfs: {server: '', path: /p}"), at + "nfs.server: Required value"},
		{"nfs path", v("nfs: {server: s, path: p}"), at + `nfs.path: Invalid value: "p": must be an absolute path`},
		{"iscsi", v("iscsi: {targetPortal: '', iqn: 'iqn.2001-04.com.example:a', lun: 0}"), at + "iscsi.targetPortal: Required value"},
		{"iscsi without name", v("iscsi: {targetPortal: p, iqn: '', lun: 0}"), at + "iscsi.iqn: Required value"},
		{"iscsi name", v("iscsi: {targetPortal: p, iqn: x, lun: 0}"), at + `iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa`},
		{"iscsi iqn", v("iscsi: {targetPortal: p, iqn: iqn.x, lun: 0}"), at + `iscsi.iqn: Invalid value: "iqn.x": must be valid format`},
		{"iscsi lun", v("iscsi: {targetPortal: p, iqn: 'iqn.2001-04.com.example:a', lun: 256}"), at + "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"},
		{"iscsi secret", v("iscsi: {targetPortal: p, iqn: 'iqn.2001-04.com.example:a', lun: 0, chapAuthSession: true}"), at + "iscsi.secretRef: Required value"},
		{"iscsi initiator", v("iscsi: {targetPortal: p, iqn: 'iqn.2001-04.com.example:a', lun: 0, initiatorName: x}"), at + "iscsi.initiatorName: Invalid value"},
		{"glusterfs", v("glusterfs: {endpoints: '', path: p}"), at + "glusterfs.endpoints: Required value"},
		{"glusterfs path", v("glusterfs: {endpoints: e, path: ''}"), at + "glusterfs.path: Required value"},
		{"rbd", v("rbd: {monitors: [], image: i}"), at + "rbd.monitors: Required value"},
		{"rbd image", v("rbd: {monitors: [m], image: ''}"), at + "rbd.image: Required value"},
		{"cinder", v("cinder: {volumeID: ''}"), at + "cinder.volumeID: Required value"},
		{"cinder secret", v("cinder: {volumeID: v, secretRef: {}}"), at + "cinder.secretRef.name: Required value"},
		{"cephfs", v("cephfs: {monitors: []}"), at + "cephfs.monitors: Required value"},
		{"flocker", v("flocker: {}"), at + "flocker: Required value: one of datasetName and datasetUUID is required"},
		{"flocker both", v("flocker: {datasetName: a, datasetUUID: b}"), at + `flocker: Invalid value: "resource": datasetName and datasetUUID can not be specified simultaneously`},
		{"flocker name", v("flocker: {datasetName: a/b}"), at + `flocker.datasetName: Invalid value: "a/b": must not contain '/'`},
		{"fc", v("fc: {}"), at + "fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"},
		{"fc both", v("fc: {targetWWNs: [a], wwids: [b], lun: 0}"), "targetWWNs and wwids can not be specified simultaneously"},
		{"fc lun", v("fc: {targetWWNs: [a]}"), at + "fc.lun: Required value: lun is required if targetWWNs is specified"},
		{"fc lun number", v("fc: {targetWWNs: [a], lun: 256}"), at + "fc.lun: Invalid value: 256"},
		{"flex", v("flexVolume: {driver: ''}"), at + "flexVolume.driver: Required value"},
		{"flex option", v("flexVolume: {driver: d, options: {x.kubernetes.io/a: b}}"), at + `flexVolume.options[x.kubernetes.io/a]: Invalid value: "x.kubernetes.io/a": kubernetes.io and k8s.io namespaces are reserved`},
		{"azure file", v("azureFile: {secretName: '', shareName: s}"), at + "azureFile.secretName: Required value"},
		{"azure share", v("azureFile: {secretName: s, shareName: ''}"), at + "azureFile.shareName: Required value"},
		{"vsphere", v("vsphereVolume: {volumePath: ''}"), at + "vsphereVolume.volumePath: Required value"},
		{"quobyte", v("quobyte: {registry: '', volume: v}"), at + "quobyte.registry: Required value: must be a host:port pair or multiple pairs separated by commas"},
		{"quobyte registry", v("quobyte: {registry: 'a', volume: v}"), at + `quobyte.registry: Invalid value: "a": must be a host:port pair or multiple pairs separated by commas`},
		{"quobyte tenant", v("quobyte: {registry: 'a:1', volume: v, tenant: " + strings.Repeat("a", 65) + "}"), at + "quobyte.tenant: Required value: must be a UUID and may not exceed a length of 64 characters"},
		{"quobyte volume", v("quobyte: {registry: 'a:1', volume: ''}"), at + "quobyte.volume: Required value"},
		{"azure disk", v("azureDisk: {diskName: '', diskURI: 'https://a'}"), at + "azureDisk.diskName: Required value"},
		{"azure disk address", v("azureDisk: {diskName: d, diskURI: 'https://a', kind: Managed}"), at + `azureDisk.diskURI: Unsupported value: "https://a": supported values: "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"`},
		{"azure disk cache", v("azureDisk: {diskName: d, diskURI: 'https://a', cachingMode: X}"), at + `azureDisk.cachingMode: Unsupported value: "X": supported values: "None", "ReadOnly", "ReadWrite"`},
		{"azure disk kind", v("azureDisk: {diskName: d, diskURI: 'https://a', kind: X}"), at + `azureDisk.kind: Unsupported value: "X": supported values: "Dedicated", "Managed", "Shared"`},
		{"photon", v("photonPersistentDisk: {pdID: ''}"), at + "photonPersistentDisk.pdID: Required value"},
		{"portworx", v("portworxVolume: {volumeID: ''}"), at + "portworxVolume.volumeID: Required value"},
		{"scaleio", v("scaleIO: {gateway: '', system: '', secretRef: {}}"), at + "scaleIO.volumeName: Required value"},
		{"storageos", v("storageos: {}"), at + "storageos.volumeName: Required value"},
		{"storageos namespace", v("storageos: {volumeName: a, volumeNamespace: A}"), at + `storageos.volumeNamespace: Invalid value: "A"`},
		{"storageos secret", v("storageos: {volumeName: a, secretRef: {}}"), at + "storageos.secretRef.name: Required value"},
	}
}

func TestProjected(t *testing.T) {
	with := func(sources string) string { return "volumes: [{name: v, projected: {sources: [" + sources + "]}}]" }
	const at = "spec.volumes[0].projected."
	testPods(t, []podRow{
		{"two in one", with("{configMap: {name: a}, secret: {name: b}}"), at + "sources[0]: Forbidden: may not specify more than 1 volume type per source"},
		{"mode", "volumes: [{name: v, projected: {defaultMode: 512, sources: []}}]", at + "defaultMode: Invalid value: 512"},
		{"secret", with("{secret: {}}"), at + "sources[0].secret.name: Required value"},
		{"config map", with("{configMap: {}}"), at + "sources[0].configMap.name: Required value"},
		{"config map item", with("{configMap: {name: a, items: [{key: k}]}}"), at + "sources[0].configMap.items[0].path: Required value"},
		{"one path twice", with("{configMap: {name: a, items: [{key: k, path: p}]}}, {downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}}]}}"), `spec.volumes[0].projected: Invalid value: "p": conflicting duplicate paths`},
		{"downward", with("{downwardAPI: {items: [{path: p}]}}"), at + "sources[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"},
		{"token", with("{serviceAccountToken: {path: t}}"), ""},
		{"token path", with("{serviceAccountToken: {path: ''}}"), at + "path: Required value"},
		{"token's short life", with("{serviceAccountToken: {path: t, expirationSeconds: 599}}"), at + "sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"},
		{"token's long life", with("{serviceAccountToken: {path: t, expirationSeconds: 4294967297}}"), "may not specify a duration larger than 2^32 seconds"},
		{"token without account", with("{serviceAccountToken: {path: t}}") + ", serviceAccount: ''", at + "sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set"},
		{"bundle", with("{clusterTrustBundle: {path: p}}"), at + "sources[0].clusterTrustBundle: Required value: either name or signerName must be specified"},
		{"bundle of both", with("{clusterTrustBundle: {path: p, name: a, signerName: a.b/c}}"), "only one of name and signerName may be used"},
		{"bundle without name", with("{clusterTrustBundle: {path: p, name: ''}}"), at + "sources[0].clusterTrustBundle.name: Required value: must be a valid object name"},
		{"bundle name and labels", with("{clusterTrustBundle: {path: p, name: a, labelSelector: {}}}"), "labelSelector must be unset if name is specified"},
		{"bundle without signer", with("{clusterTrustBundle: {path: p, signerName: ''}}"), at + "sources[0].clusterTrustBundle.signerName: Required value: must be a valid signer name"},
		{"bundle signer", with("{clusterTrustBundle: {path: p, signerName: a}}"), "must be a fully qualified domain and path of the form 'example.com/signer-name'"},
		{"bundle path", with("{clusterTrustBundle: {path: '', name: a}}"), at + "sources[0].clusterTrustBundle.path: Required value"},
		{"certificate", with("{podCertificate: {signerName: example.com/s, keyType: ED25519, keyPath: k, maxExpirationSeconds: 3600}}"), ""},
		{"certificate key", with("{podCertificate: {signerName: example.com/s, keyType: X, keyPath: k}}"), at + `sources[0].podCertificate.keyType: Unsupported value: "X": supported values: "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"`},
		{"certificate's short life", with("{podCertificate: {signerName: example.com/s, keyType: ED25519, keyPath: k, maxExpirationSeconds: 3599}}"), "if provided, maxExpirationSeconds must be >= 3600"},
		{"certificate's long life", with("{podCertificate: {signerName: example.com/s, keyType: ED25519, keyPath: k, maxExpirationSeconds: 7862401}}"), "if provided, maxExpirationSeconds must be <= 7862400"},
		{"kubernetes' certificate", with("{podCertificate: {signerName: kubernetes.io/s, keyType: ED25519, keyPath: k, maxExpirationSeconds: 86401}}"), "if provided, maxExpirationSeconds must be <= 86400"},
		{"certificate nowhere", with("{podCertificate: {signerName: example.com/s, keyType: ED25519}}"), "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"},
		{"certificate path", with("{podCertificate: {signerName: example.com/s, keyType: ED25519, keyPath: /k}}"), at + `sources[0].podCertificate.keyPath: Invalid value: "/k": must be a relative path`},
		{"certificate annotation", with("{podCertificate: {signerName: example.com/s, keyType: ED25519, keyPath: k, userAnnotations: {a: b}}}"), at + `sources[0].podCertificate.userAnnotations: Invalid value: "a"`},
	})
}

func TestMounts(t *testing.T) {
	with := func(mounts string) string {
		return "c{volumeMounts: [" + mounts + "]}c, volumes: [{name: v}, {name: i, image: {reference: r}}]"
	}
	devices := func(devices string) string {
		return "c{volumeDevices: [" + devices + "]}c, volumes: [{name: v}, {name: p, persistentVolumeClaim: {claimName: c}}]"
	}
	const at, mount = "spec.containers[0].volumeDevices[0].", "spec.containers[0].volumeMounts"
	testPods(t, []podRow{
		{"valid", with("{name: v, mountPath: /a, subPathExpr: $(A), readOnly: true, recursiveReadOnly: Enabled}"), ""},
		{"no name", with("{mountPath: /a}"), mount + "[0].name: Required value"},
		{"name", with("{name: x, mountPath: /a}"), mount + `[0].name: Not found: "x"`},
		{"no path", with("{name: v}"), mount + "[0].mountPath: Required value"},
		{"path twice", with("{name: v, mountPath: /a}, {name: v, mountPath: /a}"), mount + `[1].mountPath: Invalid value: "/a": must be unique`},
		{"sub path", with("{name: v, mountPath: /a, subPath: /b}"), mount + `.subPath: Invalid value: "/b": must be a relative path`},
		{"sub path expression", with("{name: v, mountPath: /a, subPathExpr: ../b}"), mount + `.subPathExpr: Invalid value: "../b": must not contain '..'`},
		{"both sub paths", with("{name: v, mountPath: /a, subPath: a, subPathExpr: b}"), mount + `[0].subPathExpr: Invalid value: "b": subPathExpr and subPath are mutually exclusive`},
		{"propagation", with("{name: v, mountPath: /a, mountPropagation: X}"), mount + `.mountPropagation: Unsupported value: "X": supported values: "Bidirectional", "HostToContainer", "None"`},
		{"propagation to the host", with("{name: v, mountPath: /a, mountPropagation: Bidirectional}"), mount + ".mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers"},
		{"recursive", with("{name: v, mountPath: /a, recursiveReadOnly: X}"), mount + `.recursiveReadOnly: Unsupported value: "X": supported values: "Disabled", "Enabled", "IfPossible"`},
		{"recursive and writable", with("{name: v, mountPath: /a, recursiveReadOnly: Enabled}"), mount + ".recursiveReadOnly: Forbidden: may only be specified when readOnly is true"},
		{"recursive and propagated", with("{name: v, mountPath: /a, readOnly: true, recursiveReadOnly: Enabled, mountPropagation: HostToContainer}"), "may only be specified when mountPropagation is None or not specified"},
		{"options", with("{name: v, mountPath: /a, bindMountOptions: [noexec, x]}"), mount + `[0].bindMountOptions[1]: Unsupported value: "x": supported values: "nodev", "noexec", "nosuid"`},
		{"options of an image", with("{name: i, mountPath: /a, bindMountOptions: [noexec]}"), mount + "[0].bindMountOptions: Forbidden: may not be specified for image volumes"},
		{"device", devices("{name: p, devicePath: /d}"), ""},
		{"device without name", devices("{devicePath: /d}"), at + "name: Required value"},
		{"device of nothing", devices("{name: x, devicePath: /d}"), at + `name: Not found: "x"`},
		{"device of a folder", devices("{name: v, devicePath: /d}"), at + `name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode`},
		{"device twice", devices("{name: p, devicePath: /d}, {name: p, devicePath: /d}"), `spec.containers[0].volumeDevices[1].name: Invalid value: "p": must be unique`},
		{"device path twice", devices("{name: p, devicePath: /d}, {name: p, devicePath: /d}"), `spec.containers[0].volumeDevices[1].devicePath: Invalid value: "/d": must be unique`},
		{"device without path", devices("{name: p}"), at + "devicePath: Required value"},
		{"device path climbs", devices("{name: p, devicePath: /a/../d}"), at + `devicePath: Invalid value: "/a/../d": can not contain backsteps ('..')`},
		{"device and mount", "c{volumeDevices: [{name: p, devicePath: /d}], volumeMounts: [{name: p, mountPath: /d}]}c, volumes: [{name: p, persistentVolumeClaim: {claimName: c}}]", at + `name: Invalid value: "p": must not already exist in volumeMounts`},
		{"mount and device", "c{volumeDevices: [{name: p, devicePath: /d}], volumeMounts: [{name: p, mountPath: /d}]}c, volumes: [{name: p, persistentVolumeClaim: {claimName: c}}]", mount + `[0].mountPath: Invalid value: "/d": must not already exist as a path in volumeDevices`},
	})
}
