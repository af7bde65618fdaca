package api

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podTies make the fields of a pod fit together, each called with a struct that is filled and with its path.
func podTies() []any {
	return []any{
		func(s *metav1.LabelSelectorRequirement, _ *grower, _ string) {
			if s.Operator == metav1.LabelSelectorOpExists || s.Operator == metav1.LabelSelectorOpDoesNotExist {
				s.Values = nil
			}
		},
		func(r *corev1.NodeSelectorRequirement, g *grower, _ string) {
			switch r.Operator {
			case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
				r.Values = nil
			case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
				r.Values = []string{"17"}
			}
		},
		func(s *corev1.NodeSelectorTerm, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 {
				s.MatchFields = []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{g.word()}}}
			}
		},
		func(t *corev1.Toleration, g *grower, _ string) {
			if t.Operator == corev1.TolerationOpExists {
				t.Value = ""
			}
			if t.TolerationSeconds != nil {
				t.Effect = corev1.TaintEffectNoExecute
			}
		},
		func(a *corev1.PodAffinityTerm, _ *grower, _ string) {
			if a.LabelSelector == nil {
				a.MatchLabelKeys, a.MismatchLabelKeys = nil, nil
			}
		},
		func(c *corev1.TopologySpreadConstraint, g *grower, _ string) {
			c.TopologyKey += "-" + g.word()
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				c.MinDomains = nil
			}
		},
		func(e *corev1.EnvVar, g *grower, path string) {
			if e.ValueFrom != nil && g.turn(path+"?", 4) == 0 {
				e.ValueFrom = nil
			}
			if e.ValueFrom != nil {
				e.Value = ""
			}
		},
		func(m *corev1.VolumeMount, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 {
				m.SubPathExpr, m.SubPath = "", "s/"+g.word()
			} else {
				m.SubPathExpr, m.SubPath = "$(X)/"+g.word(), ""
			}
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled {
				m.ReadOnly, m.MountPropagation = true, nil
			}
		},
		func(v *corev1.SeccompProfile, g *grower, path string) {
			v.Type, v.LocalhostProfile = []corev1.SeccompProfileType{corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined, corev1.SeccompProfileTypeLocalhost}[g.turn(path+"?", 3)], nil
			if v.Type == corev1.SeccompProfileTypeLocalhost {
				v.LocalhostProfile = new("profiles/" + g.word())
			}
		},
		func(v *corev1.AppArmorProfile, g *grower, path string) {
			v.Type, v.LocalhostProfile = []corev1.AppArmorProfileType{corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeUnconfined}[g.turn(path+"?", 3)], nil
			if v.Type == corev1.AppArmorProfileTypeLocalhost {
				v.LocalhostProfile = new(g.word())
			}
		},
		func(r *corev1.ContainerRestartRule, g *grower, _ string) {
			if r.ExitCodes == nil {
				r.ExitCodes = &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}
			}
			slices.Sort(r.ExitCodes.Values)
			r.ExitCodes.Values = slices.Compact(r.ExitCodes.Values)
		},
		func(s *corev1.ClusterTrustBundleProjection, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 {
				s.SignerName, s.LabelSelector, s.Name = nil, nil, new(g.word())
				return
			}
			s.Name = nil
			if s.SignerName == nil {
				s.SignerName = new("none.example/s")
			}
		},
		func(p *corev1.PodCertificateProjection, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 {
				p.KeyPath, p.CertificateChainPath, p.CredentialBundlePath = "", "", "c/"+g.word()
			} else {
				p.KeyPath, p.CertificateChainPath, p.CredentialBundlePath = "key/"+g.word(), "chain/"+g.word(), ""
			}
		},
		func(f *corev1.DownwardAPIVolumeFile, g *grower, path string) {
			if f.FieldRef != nil && (f.ResourceFieldRef == nil || g.turn(path+"?", 2) == 0) {
				f.ResourceFieldRef = nil
				return
			}
			f.FieldRef = nil
			if f.ResourceFieldRef == nil {
				f.ResourceFieldRef = &corev1.ResourceFieldSelector{Resource: "limits.cpu"}
			}
		},
		func(v *corev1.FCVolumeSource, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 && len(v.TargetWWNs) > 0 && v.Lun != nil {
				v.WWIDs = nil
				return
			}
			v.Lun, v.TargetWWNs, v.WWIDs = nil, nil, []string{g.word()}
		},
		func(v *corev1.AzureDiskVolumeSource, _ *grower, _ string) {
			if v.Kind != nil && *v.Kind == corev1.AzureManagedDisk {
				v.DataDiskURI = "/subscriptions/s"
			} else {
				v.DataDiskURI = "https://none.example/d"
			}
		},
		func(v *corev1.FlockerVolumeSource, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 {
				v.DatasetName, v.DatasetUUID = g.word(), ""
			} else {
				v.DatasetName, v.DatasetUUID = "", g.word()
			}
		},
		func(v *corev1.ISCSIVolumeSource, _ *grower, _ string) {
			if v.SecretRef == nil {
				v.DiscoveryCHAPAuth, v.SessionCHAPAuth = false, false
			}
		},
		func(s *corev1.PersistentVolumeClaimSpec, g *grower, path string) { claimTie(s, g, path) },
		func(r *corev1.VolumeResourceRequirements, _ *grower, _ string) {
			r.Requests = corev1.ResourceList{"storage": apiresource.MustParse("1Gi")}
			if r.Limits != nil {
				r.Limits = corev1.ResourceList{"storage": apiresource.MustParse("2Gi")}
			}
		},
		func(s *corev1.PersistentVolumeSpec, g *grower, _ string) {
			if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle && s.HostPath == nil && s.NFS == nil {
				s.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
			}
			if s.CSI == nil {
				s.VolumeAttributesClassName = nil
			}
			s.Capacity = corev1.ResourceList{"storage": apiresource.MustParse("5Gi")}
			if s.Local != nil && s.NodeAffinity == nil {
				s.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: corev1.NodeSelectorOpExists}}}}}}
			}
			if s.Local != nil && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
				s.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
			}
		},
		func(p *corev1.Pod, g *grower, path string) { livePodTie(p, g) },
		func(s *corev1.PodSpec, g *grower, path string) { podTie(s, g, path) },
	}
}

func claimTie(s *corev1.PersistentVolumeClaimSpec, g *grower, path string) {
	if s.DataSourceRef == nil {
		s.DataSource = nil
	}
	if r := s.DataSourceRef; r != nil {
		switch g.turn(path+"?", 3) {
		case 0:
			r.APIGroup, r.Kind = new("snapshot.storage.k8s.io"), "VolumeSnapshot"
			s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: r.APIGroup, Kind: r.Kind, Name: r.Name}
		case 1:
			r.APIGroup, r.Kind = nil, "PersistentVolumeClaim"
			s.DataSource = &corev1.TypedLocalObjectReference{Kind: r.Kind, Name: r.Name}
		default:
			r.APIGroup, r.Kind, s.DataSource = new("none.example"), "Populator", nil
		}
	}
	s.AccessModes = [][]corev1.PersistentVolumeAccessMode{{"ReadWriteOnce"}, {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"}, {"ReadWriteOncePod"}}[g.turn(path+"modes", 3)]
}

// podTie makes a whole pod of its parts. Pods come in four sorts, which exclude each other's fields: those that share
// the host's namespaces, those with users of their own, those named by their domain, and those for Windows.
func podTie(s *corev1.PodSpec, g *grower, path string) {
	sort := g.turn(path+"?sort", 4)
	mounts, devices := volumeNames(s)
	claims := []corev1.ResourceClaim{}
	for i, c := range s.ResourceClaims {
		claims = append(claims, corev1.ResourceClaim{Name: c.Name})
		if i%2 == 0 {
			claims[i].Request = g.word()
		}
	}
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		containerTie(c, g, path+".initContainers[]", sort, mounts, devices, claims)
		if i == 0 || g.sparse > 0 && c.RestartPolicy == nil {
			c.LivenessProbe, c.ReadinessProbe, c.StartupProbe, c.Lifecycle = nil, nil, nil, nil
			restartTie(c, g)
			c.ResizePolicy = nil
		} else {
			c.RestartPolicy, c.RestartPolicyRules = new(corev1.ContainerRestartPolicyAlways), nil
		}
	}
	for i := range s.Containers {
		containerTie(&s.Containers[i], g, path+".containers[]", sort, mounts, devices, claims)
		restartTie(&s.Containers[i], g)
	}
	if s.Resources != nil {
		s.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": apiresource.MustParse("200"), "memory": apiresource.MustParse("400Gi")},
			Requests: corev1.ResourceList{"cpu": apiresource.MustParse("100"), "memory": apiresource.MustParse("200Gi")}}
	}
	for _, v := range s.Volumes {
		var files []corev1.DownwardAPIVolumeFile
		if v.DownwardAPI != nil {
			files = v.DownwardAPI.Items
		}
		if v.Projected != nil {
			for _, p := range v.Projected.Sources {
				if p.DownwardAPI != nil {
					files = append(files, p.DownwardAPI.Items...)
				}
			}
		}
		for _, f := range files {
			if f.ResourceFieldRef != nil {
				f.ResourceFieldRef.ContainerName = s.Containers[0].Name
			}
		}
	}
	s.DeprecatedServiceAccount = s.ServiceAccountName
	s.NodeName, s.SchedulingGates = either(g, path+"?node", s.NodeName, s.SchedulingGates)
	if s.DNSConfig == nil || len(s.DNSConfig.Nameservers) == 0 {
		s.DNSPolicy = corev1.DNSClusterFirst
	}
	for i := range s.TopologySpreadConstraints {
		if c := &s.TopologySpreadConstraints[i]; c.LabelSelector == nil {
			c.MatchLabelKeys = nil
		}
	}
	sorts(s, sort)
}

// either keeps one of two, if both are there.
func either[A any](g *grower, path string, name string, list []A) (string, []A) {
	if name != "" && g.turn(path, 2) == 0 {
		return name, nil
	}
	if len(list) > 0 {
		return "", list
	}
	return name, list
}

func sorts(s *corev1.PodSpec, sort int) {
	s.HostNetwork, s.HostPID, s.HostIPC = sort == 0, sort == 0, sort == 0
	if (sort == 0 || sort == 3) && s.SecurityContext != nil {
		s.SecurityContext.Sysctls = nil
	}
	if sort == 0 {
		s.ShareProcessNamespace, s.HostnameOverride, s.SetHostnameAsFQDN, s.HostUsers = nil, nil, nil, new(true)
		for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
			for i := range list {
				list[i].Ports = slices.CompactFunc(list[i].Ports, func(a, b corev1.ContainerPort) bool { return a.ContainerPort == b.ContainerPort })
				for j := range list[i].Ports {
					list[i].Ports[j].HostPort = list[i].Ports[j].ContainerPort
				}
			}
		}
	}
	if sort == 1 {
		s.HostUsers, s.SetHostnameAsFQDN = new(false), nil
		noDevices(s)
	}
	if sort == 2 {
		s.HostUsers, s.HostnameOverride = nil, nil
	}
	if s.OS == nil {
		for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
			for i := range list {
				if l := list[i].Lifecycle; l != nil {
					l.StopSignal = nil
					if l.PostStart == nil && l.PreStop == nil {
						list[i].Lifecycle = nil
					}
				}
			}
		}
	}
	if sort == 3 {
		windows(s)
	}
}

// noDevices is for pods with users of their own: they have no raw devices.
func noDevices(s *corev1.PodSpec) {
	for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for i := range list {
			list[i].VolumeDevices = nil
		}
	}
}

func windowsOptions() *corev1.WindowsSecurityContextOptions {
	return &corev1.WindowsSecurityContextOptions{GMSACredentialSpecName: new("spec"), GMSACredentialSpec: new("{}"), RunAsUserName: new(`NT AUTHORITY\SYSTEM`), HostProcess: new(true)}
}

func windows(s *corev1.PodSpec) {
	s.OS = &corev1.PodOS{Name: corev1.Windows}
	s.ShareProcessNamespace, s.HostUsers, s.HostnameOverride, s.Resources = nil, nil, nil, nil
	s.SecurityContext = &corev1.PodSecurityContext{WindowsOptions: windowsOptions(), RunAsNonRoot: new(false)}
	s.HostNetwork, s.SetHostnameAsFQDN = true, nil
	for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for i := range list {
			c := &list[i]
			c.SecurityContext = &corev1.SecurityContext{WindowsOptions: windowsOptions()}
			c.Ports = nil
			for j := range c.VolumeMounts {
				c.VolumeMounts[j].MountPropagation = nil
			}
			if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
				c.Lifecycle.StopSignal = new(corev1.SIGTERM)
			}
		}
	}
}

// volumeNames are the volumes that can be mounted, and those that can be devices.
func volumeNames(s *corev1.PodSpec) (mounts []corev1.Volume, devices []string) {
	for _, v := range s.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil && len(devices) == 0 {
			devices = append(devices, v.Name)
		} else {
			mounts = append(mounts, v)
		}
	}
	return mounts, devices
}

func containerTie(c *corev1.Container, g *grower, path string, sort int, mounts []corev1.Volume, devices []string, claims []corev1.ResourceClaim) {
	if sc := c.SecurityContext; sc != nil {
		if sc.Privileged != nil {
			sc.AllowPrivilegeEscalation = nil
		}
		if g.turn(path+"?privileged", 2) == 0 && sc.Capabilities != nil {
			sc.Privileged, sc.AllowPrivilegeEscalation = nil, new(true)
		}
		if sort != 1 && sc.ProcMount != nil {
			sc.ProcMount = new(corev1.DefaultProcMount)
		}
	}
	if len(mounts) == 0 {
		c.VolumeMounts = nil
	}
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		m.Name = mounts[g.turn(path+"?mount", len(mounts))].Name
		if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional && (c.SecurityContext == nil || c.SecurityContext.Privileged == nil || !*c.SecurityContext.Privileged) {
			m.MountPropagation = new(corev1.MountPropagationHostToContainer)
		}
	}
	for i := range c.VolumeDevices {
		if len(devices) == 0 {
			c.VolumeDevices = nil
			break
		}
		c.VolumeDevices[i].Name = devices[i%len(devices)]
	}
	files := slices.IndexFunc(mounts, func(v corev1.Volume) bool { return v.EmptyDir != nil })
	c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool { return files < 0 && e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil })
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil {
			e.ValueFrom.FileKeyRef.VolumeName = mounts[files].Name
		}
		if e.ValueFrom != nil && e.ValueFrom.ResourceFieldRef != nil {
			e.ValueFrom.ResourceFieldRef.ContainerName = c.Name
		}
	}
	resourcesTie(c, g, claims)
	if p := c.ReadinessProbe; p != nil {
		p.TerminationGracePeriodSeconds, p.SuccessThreshold = nil, 3
	}
}

func resourcesTie(c *corev1.Container, g *grower, claims []corev1.ResourceClaim) {
	r := &c.Resources
	if r.Requests != nil {
		r.Requests = corev1.ResourceList{"cpu": apiresource.MustParse("1"), "memory": apiresource.MustParse("1Gi"), "ephemeral-storage": apiresource.MustParse("5M")}
	}
	if r.Limits != nil {
		r.Limits = corev1.ResourceList{"cpu": apiresource.MustParse("2"), "memory": apiresource.MustParse("1.5Gi"), "none.example/dev": apiresource.MustParse("3"), "hugepages-2Mi": apiresource.MustParse("4Mi")}
		if r.Requests != nil {
			maps.Copy(r.Requests, corev1.ResourceList{"none.example/dev": apiresource.MustParse("3"), "hugepages-2Mi": apiresource.MustParse("4Mi")})
		}
	}
	r.Claims = slices.Clone(claims)
	c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.NotRequired}, {ResourceName: "memory", RestartPolicy: corev1.NotRequired}}
}

// restartTie is for containers with rules of when to restart.
func restartTie(c *corev1.Container, _ *grower) {
	if len(c.RestartPolicyRules) > 0 {
		c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
	}
}

// livePodTie fits a pod to what its namespace has: see prepare.
func livePodTie(p *corev1.Pod, g *grower) {
	s := &p.Spec
	s.ServiceAccountName, s.DeprecatedServiceAccount = "default", "default"
	s.Priority, s.PreemptionPolicy = nil, nil
	if s.PriorityClassName != "" {
		s.PriorityClassName, s.Priority, s.PreemptionPolicy = "rt", new(int32(777)), new(corev1.PreemptNever)
	}
	s.Overhead = nil
	if s.RuntimeClassName != nil {
		s.RuntimeClassName, s.Overhead = new("rt"), corev1.ResourceList{"cpu": apiresource.MustParse("1"), "memory": apiresource.MustParse("1Gi")}
	}
	st := &p.Status
	if len(st.PodIPs) > 0 {
		st.PodIP = st.PodIPs[0].IP
	}
	if len(st.HostIPs) > 0 {
		st.HostIP = st.HostIPs[0].IP
	}
	st.ResourceClaimStatuses = nil
	for _, c := range s.ResourceClaims {
		if c.ResourceClaimTemplateName != nil {
			st.ResourceClaimStatuses = append(st.ResourceClaimStatuses, corev1.PodResourceClaimStatus{Name: c.Name, ResourceClaimName: new(g.word())})
		}
	}
}
