package validation

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podSecurity(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	c, at := s.SecurityContext, p.Child("securityContext")
	if isTrue(s.ShareProcessNamespace) && s.HostPID {
		errs = append(errs, field.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if c == nil {
		return errs
	}
	errs = append(errs, groupID(c.FSGroup, at.Child("fsGroup"))...)
	errs = append(errs, userID(c.RunAsUser, at.Child("runAsUser"))...)
	errs = append(errs, groupID(c.RunAsGroup, at.Child("runAsGroup"))...)
	for i := range c.SupplementalGroups {
		errs = append(errs, groupID(&c.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))...)
	}
	errs = append(errs, sysctls(s, at.Child("sysctls"))...)
	if c.FSGroupChangePolicy != nil {
		errs = append(errs, supported(at.Child("fsGroupChangePolicy"), *c.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	if c.SupplementalGroupsPolicy != nil {
		errs = append(errs, supported(at.Child("supplementalGroupsPolicy"), *c.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if c.SELinuxChangePolicy != nil {
		errs = append(errs, supported(at.Child("seLinuxChangePolicy"), *c.SELinuxChangePolicy, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	}
	errs = append(errs, seccomp(c.SeccompProfile, at.Child("seccompProfile"))...)
	errs = append(errs, appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))...)
	return append(errs, windowsOptions(c.WindowsOptions, at.Child("windowsOptions"))...)
}

// hostUsers holds that a pod with users of its own shares none of the host's other namespaces.
func hostUsers(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	if s.HostUsers == nil || *s.HostUsers {
		return nil
	}
	const why = "when `hostUsers` is false"
	var errs field.ErrorList
	for _, f := range []struct {
		name string
		set  bool
	}{{"hostNetwork", s.HostNetwork}, {"HostPID", s.HostPID}, {"HostIPC", s.HostIPC}} {
		if f.set {
			errs = append(errs, field.Forbidden(p.Child(f.name), why))
		}
	}
	for _, l := range containerLists(s) {
		for i, c := range l.list {
			if len(c.VolumeDevices) > 0 {
				errs = append(errs, field.Forbidden(p.Child(l.name).Index(i).Child("volumeDevices"), why))
			}
		}
	}
	return errs
}

type containerList struct {
	name string
	list []corev1.Container
}

// containerLists are all containers of a pod, by field. The ephemeral ones are given as ordinary containers.
func containerLists(s *corev1.PodSpec) []containerList {
	ephemeral := make([]corev1.Container, len(s.EphemeralContainers))
	for i := range ephemeral {
		ephemeral[i] = corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
	}
	return []containerList{{"initContainers", s.InitContainers}, {"containers", s.Containers}, {"ephemeralContainers", ephemeral}}
}

func containerSecurity(c *corev1.SecurityContext, in scope, p *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := userID(c.RunAsUser, p.Child("runAsUser"))
	errs = append(errs, groupID(c.RunAsGroup, p.Child("runAsGroup"))...)
	if c.ProcMount != nil {
		errs = append(errs, supported(p.Child("procMount"), *c.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if *c.ProcMount == corev1.UnmaskedProcMount && (in.spec.HostUsers == nil || *in.spec.HostUsers) {
			errs = append(errs, field.Invalid(p.Child("procMount"), *c.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, seccomp(c.SeccompProfile, p.Child("seccompProfile"))...)
	if c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation {
		if isTrue(c.Privileged) {
			errs = append(errs, field.Invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if c.Capabilities != nil {
			for _, capability := range c.Capabilities.Add {
				if capability == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	errs = append(errs, windowsOptions(c.WindowsOptions, p.Child("windowsOptions"))...)
	return append(errs, appArmor(c.AppArmorProfile, p.Child("appArmorProfile"))...)
}

func userID(id *int64, p *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalid(p, *id, validation.IsValidUserID(*id))
}

func groupID(id *int64, p *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalid(p, *id, validation.IsValidGroupID(*id))
}

func sysctls(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	if len(s.SecurityContext.Sysctls) == 0 {
		return nil
	}
	const segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	shape := regexp.MustCompile("^(" + segment + "[\\./])*" + segment + "$")
	var errs field.ErrorList
	names := sets.New[string]()
	for i, c := range s.SecurityContext.Sysctls {
		at, name := p.Index(i).Child("name"), dotted(c.Name)
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(c.Name) > 253 || !shape.MatchString(c.Name):
			errs = append(errs, field.Invalid(at, c.Name, "must have at most 253 characters and match regex "+shape.String()))
		case names.Has(name):
			errs = append(errs, field.Duplicate(at, c.Name))
		}
		names.Insert(name)
		if s.HostNetwork && strings.HasPrefix(name, "net.") {
			errs = append(errs, field.Invalid(at, c.Name, "may not be specified when 'hostNetwork' is true"))
		}
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		if s.HostIPC && ipc {
			errs = append(errs, field.Invalid(at, c.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
	return errs
}

// dotted gives a sysctl's name with dots between its parts: if slashes come first, dots and slashes have changed places.
func dotted(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}

func seccomp(s *corev1.SeccompProfile, p *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	if s.Type == "" {
		return field.ErrorList{field.Required(p.Child("type"), "type is required when seccompProfile is set")}
	}
	errs := supported(p.Child("type"), s.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	at := p.Child("localhostProfile")
	switch {
	case s.Type == corev1.SeccompProfileTypeLocalhost && s.LocalhostProfile == nil:
		errs = append(errs, field.Required(at, "must be set when seccomp type is Localhost"))
	case s.Type == corev1.SeccompProfileTypeLocalhost:
		errs = append(errs, descendingPath(*s.LocalhostProfile, at)...)
	case s.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(at, s, "can only be set when seccomp type is Localhost"))
	}
	return errs
}

// maxAppArmorProfile is the longest name of a profile.
const maxAppArmorProfile = 4095

func appArmor(a *corev1.AppArmorProfile, p *field.Path) field.ErrorList {
	if a == nil {
		return nil
	}
	at := p.Child("localhostProfile")
	switch a.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case a.LocalhostProfile == nil:
			return field.ErrorList{field.Required(at, "must be set when AppArmor type is Localhost")}
		case strings.TrimSpace(*a.LocalhostProfile) != *a.LocalhostProfile:
			return field.ErrorList{field.Invalid(at, *a.LocalhostProfile, "must not be padded with whitespace")}
		case *a.LocalhostProfile == "":
			return field.ErrorList{field.Required(at, "must be set when AppArmor type is Localhost")}
		case len(*a.LocalhostProfile) > maxAppArmorProfile:
			return field.ErrorList{field.TooLong(at, *a.LocalhostProfile, maxAppArmorProfile)}
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if a.LocalhostProfile != nil {
			return field.ErrorList{field.Invalid(at, a.LocalhostProfile, "can only be set when AppArmor type is Localhost")}
		}
	case "":
		return field.ErrorList{field.Required(p.Child("type"), "type is required when appArmorProfile is set")}
	default:
		return supported(p.Child("type"), a.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
	return nil
}
