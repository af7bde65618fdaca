package validation

import (
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// legacySources are the sorts of volumes that other programs serve now; the API keeps them, and their rules.
func legacySources(s *corev1.VolumeSource) []source {
	return slices.Concat([]source{
		{"gitRepo", s.GitRepo != nil, func(at *field.Path) field.ErrorList {
			errs := required(at.Child("repository"), s.GitRepo.Repository)
			return append(errs, descendingPath(s.GitRepo.Directory, at.Child("directory"))...)
		}},
		{"iscsi", s.ISCSI != nil, func(at *field.Path) field.ErrorList {
			return iscsi(iscsiTarget{s.ISCSI.TargetPortal, s.ISCSI.IQN, s.ISCSI.Lun, s.ISCSI.InitiatorName,
				(s.ISCSI.DiscoveryCHAPAuth || s.ISCSI.SessionCHAPAuth) && s.ISCSI.SecretRef == nil}, at)
		}},
		{"glusterfs", s.Glusterfs != nil, func(at *field.Path) field.ErrorList {
			return append(required(at.Child("endpoints"), s.Glusterfs.EndpointsName), required(at.Child("path"), s.Glusterfs.Path)...)
		}},
		{"rbd", s.RBD != nil, func(at *field.Path) field.ErrorList {
			return append(monitors(s.RBD.CephMonitors, at), required(at.Child("image"), s.RBD.RBDImage)...)
		}},
		{"cinder", s.Cinder != nil, func(at *field.Path) field.ErrorList {
			errs := required(at.Child("volumeID"), s.Cinder.VolumeID)
			if s.Cinder.SecretRef != nil {
				errs = append(errs, required(at.Child("secretRef", "name"), s.Cinder.SecretRef.Name)...)
			}
			return errs
		}},
		{"cephfs", s.CephFS != nil, func(at *field.Path) field.ErrorList { return monitors(s.CephFS.Monitors, at) }},
		{"flexVolume", s.FlexVolume != nil, func(at *field.Path) field.ErrorList {
			return flexVolume(s.FlexVolume.Driver, s.FlexVolume.Options, at)
		}},
		{"azureFile", s.AzureFile != nil, func(at *field.Path) field.ErrorList {
			return append(required(at.Child("secretName"), s.AzureFile.SecretName), required(at.Child("shareName"), s.AzureFile.ShareName)...)
		}},
		{"storageos", s.StorageOS != nil, func(at *field.Path) field.ErrorList {
			errs := storageOS(s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace, at)
			if s.StorageOS.SecretRef != nil {
				errs = append(errs, required(at.Child("secretRef", "name"), s.StorageOS.SecretRef.Name)...)
			}
			return errs
		}},
		{"scaleIO", s.ScaleIO != nil, func(at *field.Path) field.ErrorList {
			return scaleIO(s.ScaleIO.Gateway, s.ScaleIO.System, s.ScaleIO.VolumeName, at)
		}},
	}, sharedSources(disks{s.GCEPersistentDisk, s.AWSElasticBlockStore, s.NFS, s.FC, s.Flocker, s.Quobyte, s.VsphereVolume,
		s.PhotonPersistentDisk, s.PortworxVolume, s.AzureDisk}))
}

// disks are the sources that pods and persistent volumes describe by the same types.
type disks struct {
	gce      *corev1.GCEPersistentDiskVolumeSource
	aws      *corev1.AWSElasticBlockStoreVolumeSource
	nfs      *corev1.NFSVolumeSource
	fc       *corev1.FCVolumeSource
	flocker  *corev1.FlockerVolumeSource
	quobyte  *corev1.QuobyteVolumeSource
	vsphere  *corev1.VsphereVirtualDiskVolumeSource
	photon   *corev1.PhotonPersistentDiskVolumeSource
	portworx *corev1.PortworxVolumeSource
	azure    *corev1.AzureDiskVolumeSource
}

func sharedSources(d disks) []source {
	return []source{
		{"gcePersistentDisk", d.gce != nil, func(at *field.Path) field.ErrorList {
			return append(required(at.Child("pdName"), d.gce.PDName), between(d.gce.Partition, 0, 255, at.Child("partition"))...)
		}},
		{"awsElasticBlockStore", d.aws != nil, func(at *field.Path) field.ErrorList {
			return append(required(at.Child("volumeID"), d.aws.VolumeID), between(d.aws.Partition, 0, 255, at.Child("partition"))...)
		}},
		{"nfs", d.nfs != nil, func(at *field.Path) field.ErrorList { return nfs(d.nfs, at) }},
		{"fc", d.fc != nil, func(at *field.Path) field.ErrorList { return fibreChannel(d.fc, at) }},
		{"flocker", d.flocker != nil, func(at *field.Path) field.ErrorList { return flocker(d.flocker, at) }},
		{"quobyte", d.quobyte != nil, func(at *field.Path) field.ErrorList { return quobyte(d.quobyte, at) }},
		{"vsphereVolume", d.vsphere != nil, func(at *field.Path) field.ErrorList { return required(at.Child("volumePath"), d.vsphere.VolumePath) }},
		{"photonPersistentDisk", d.photon != nil, func(at *field.Path) field.ErrorList { return required(at.Child("pdID"), d.photon.PdID) }},
		{"portworxVolume", d.portworx != nil, func(at *field.Path) field.ErrorList { return required(at.Child("volumeID"), d.portworx.VolumeID) }},
		{"azureDisk", d.azure != nil, func(at *field.Path) field.ErrorList { return azureDisk(d.azure, at) }},
	}
}

func between(n, low, high int32, p *field.Path) field.ErrorList {
	if n < low || n > high {
		return field.ErrorList{field.Invalid(p, n, validation.InclusiveRangeError(int(low), int(high)))}
	}
	return nil
}

func nfs(n *corev1.NFSVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p.Child("server"), n.Server)
	errs = append(errs, required(p.Child("path"), n.Path)...)
	if !strings.HasPrefix(n.Path, "/") {
		errs = append(errs, field.Invalid(p.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

type iscsiTarget struct {
	portal, iqn string
	lun         int32
	initiator   *string
	noSecret    bool // CHAP is wanted, and there is no secret for it
}

func iscsi(t iscsiTarget, p *field.Path) field.ErrorList {
	errs := required(p.Child("targetPortal"), t.portal)
	if t.iqn == "" {
		errs = append(errs, field.Required(p.Child("iqn"), ""))
	} else {
		errs = append(errs, iqn(t.iqn, p.Child("iqn"))...)
	}
	errs = append(errs, between(t.lun, 0, 255, p.Child("lun"))...)
	if t.noSecret {
		errs = append(errs, field.Required(p.Child("secretRef"), ""))
	}
	if t.initiator != nil {
		errs = append(errs, iqn(*t.initiator, p.Child("initiatorName"))...)
	}
	return errs
}

// iqn validates an iSCSI name of one of the three formats of RFC 3720, 3.2.6.3.
func iqn(name string, p *field.Path) field.ErrorList {
	shapes := map[string]string{
		"iqn": `^iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$`, "eui": `^eui.[[:alnum:]]{16}$`, "naa": `^naa.[[:alnum:]]{32}$`,
	}
	shape, ok := shapes[name[:min(3, len(name))]]
	if !ok {
		return field.ErrorList{field.Invalid(p, name, "must be valid format starting with iqn, eui, or naa")}
	}
	if !regexp.MustCompile(shape).MatchString(name) {
		return field.ErrorList{field.Invalid(p, name, "must be valid format")}
	}
	return nil
}

func monitors(list []string, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p.Child("monitors"), "")}
	}
	return nil
}

func fibreChannel(f *corev1.FCVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := p.Child("targetWWNs")
	switch {
	case len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0:
		errs = append(errs, field.Required(at, "must specify either targetWWNs or wwids, but not both"))
	case len(f.TargetWWNs) > 0 && len(f.WWIDs) > 0:
		errs = append(errs, field.Invalid(at, f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if len(f.TargetWWNs) == 0 {
		return errs
	}
	if f.Lun == nil {
		return append(errs, field.Required(p.Child("lun"), "lun is required if targetWWNs is specified"))
	}
	return append(errs, between(*f.Lun, 0, 255, p.Child("lun"))...)
}

func flocker(f *corev1.FlockerVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if f.DatasetName == "" && f.DatasetUUID == "" {
		errs = append(errs, field.Required(p, "one of datasetName and datasetUUID is required"))
	}
	if f.DatasetName != "" && f.DatasetUUID != "" {
		errs = append(errs, field.Invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		errs = append(errs, field.Invalid(p.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return errs
}

func quobyte(q *corev1.QuobyteVolumeSource, p *field.Path) field.ErrorList {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	var errs field.ErrorList
	if q.Registry == "" {
		errs = append(errs, field.Required(p.Child("registry"), pairs))
	} else {
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if host, port, ok := strings.Cut(pair, ":"); !ok || host == "" || port == "" || strings.Contains(port, ":") && !netutils.IsIPv6String(host) {
				errs = append(errs, field.Invalid(p.Child("registry"), q.Registry, pairs))
			}
		}
	}
	if len(q.Tenant) >= 65 {
		errs = append(errs, field.Required(p.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	}
	return append(errs, required(p.Child("volume"), q.Volume)...)
}

func flexVolume(driver string, options map[string]string, p *field.Path) field.ErrorList {
	errs := required(p.Child("driver"), driver)
	for k := range options {
		domain, _, _ := strings.Cut(k, "/")
		for _, reserved := range []string{"kubernetes.io", "k8s.io"} {
			if domain == reserved || strings.HasSuffix(domain, "."+reserved) {
				errs = append(errs, field.Invalid(p.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved"))
			}
		}
	}
	return errs
}

func azureDisk(a *corev1.AzureDiskVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p.Child("diskName"), a.DiskName)
	errs = append(errs, required(p.Child("diskURI"), a.DataDiskURI)...)
	if a.CachingMode != nil {
		errs = append(errs, supported(p.Child("cachingMode"), *a.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if a.Kind == nil {
		return errs
	}
	errs = append(errs, supported(p.Child("kind"), *a.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	prefix, example := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *a.Kind == corev1.AzureManagedDisk {
		prefix, example = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(a.DataDiskURI, prefix) {
		errs = append(errs, field.NotSupported(p.Child("diskURI"), a.DataDiskURI, []string{example}))
	}
	return errs
}

func storageOS(volume, namespace string, p *field.Path) field.ErrorList {
	errs := requiredName(p.Child("volumeName"), volume, validation.IsDNS1123Label)
	if namespace != "" {
		errs = append(errs, invalid(p.Child("volumeNamespace"), namespace, validation.IsDNS1123Label(namespace))...)
	}
	return errs
}

func scaleIO(gateway, system, volume string, p *field.Path) field.ErrorList {
	errs := required(p.Child("gateway"), gateway)
	errs = append(errs, required(p.Child("system"), system)...)
	return append(errs, required(p.Child("volumeName"), volume)...)
}

// maxDriverName is the longest name of a CSI driver.
const maxDriverName = 63

func csiDriverName(name string, p *field.Path) field.ErrorList {
	errs := required(p, name)
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(p, name, maxDriverName))
	}
	return append(errs, invalid(p, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}
