package validation

import (
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podSecurity(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		errs = append(errs, field.Invalid(p.Child("shareProcessNamespace"), *s.ShareProcessNamespace, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if s.HostUsers != nil && !*s.HostUsers {
		for name, on := range map[string]bool{"hostNetwork": s.HostNetwork, "hostPID": s.HostPID, "hostIPC": s.HostIPC} {
			if on {
				errs = append(errs, field.Forbidden(p.Child("hostUsers"), "when `hostUsers` is false, `"+name+"` must be false"))
			}
		}
	}
	c, at := s.SecurityContext, p.Child("securityContext")
	if c == nil {
		return errs
	}
	errs = append(errs, userID(c.RunAsUser, at.Child("runAsUser"))...)
	errs = append(errs, groupID(c.RunAsGroup, at.Child("runAsGroup"))...)
	errs = append(errs, groupID(c.FSGroup, at.Child("fsGroup"))...)
	for i := range c.SupplementalGroups {
		errs = append(errs, groupID(&c.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))...)
	}
	errs = append(errs, sysctls(c.Sysctls, at.Child("sysctls"))...)
	if c.FSGroupChangePolicy != nil {
		errs = append(errs, oneOf(at.Child("fsGroupChangePolicy"), *c.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	if c.SupplementalGroupsPolicy != nil {
		errs = append(errs, oneOf(at.Child("supplementalGroupsPolicy"), *c.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	errs = append(errs, seccomp(c.SeccompProfile, at.Child("seccompProfile"))...)
	return append(errs, appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))...)
}

func containerSecurity(c *corev1.SecurityContext, p *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := userID(c.RunAsUser, p.Child("runAsUser"))
	errs = append(errs, groupID(c.RunAsGroup, p.Child("runAsGroup"))...)
	if c.ProcMount != nil {
		errs = append(errs, oneOf(p.Child("procMount"), *c.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
	}
	errs = append(errs, seccomp(c.SeccompProfile, p.Child("seccompProfile"))...)
	errs = append(errs, appArmor(c.AppArmorProfile, p.Child("appArmorProfile"))...)
	if c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation {
		return errs
	}
	if c.Privileged != nil && *c.Privileged {
		errs = append(errs, field.Invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
	}
	if c.Capabilities != nil {
		for _, capability := range c.Capabilities.Add {
			if capability == "CAP_SYS_ADMIN" {
				errs = append(errs, field.Invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
			}
		}
	}
	return errs
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

func sysctls(list []corev1.Sysctl, p *field.Path) field.ErrorList {
	const segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	shape := regexp.MustCompile("^(" + segment + "[\\./])*" + segment + "$")
	var errs field.ErrorList
	names := sets.New[string]()
	for i, s := range list {
		at := p.Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(s.Name) > 253 || !shape.MatchString(s.Name):
			errs = append(errs, field.Invalid(at, s.Name, "must have at most 253 characters and match regex "+shape.String()))
		case names.Has(s.Name):
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		names.Insert(s.Name)
	}
	return errs
}

func seccomp(s *corev1.SeccompProfile, p *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	if s.Type == "" {
		return field.ErrorList{field.Required(p.Child("type"), "type is required when seccompProfile is set")}
	}
	errs := oneOf(p.Child("type"), s.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	if s.Type != corev1.SeccompProfileTypeLocalhost {
		if s.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(p.Child("localhostProfile"), s, "can only be set when seccomp type is Localhost"))
		}
		return errs
	}
	if s.LocalhostProfile == nil || *s.LocalhostProfile == "" {
		return append(errs, field.Required(p.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
	}
	return append(errs, descendingPath(*s.LocalhostProfile, p.Child("localhostProfile"), true)...)
}

func appArmor(a *corev1.AppArmorProfile, p *field.Path) field.ErrorList {
	if a == nil {
		return nil
	}
	if a.Type == "" {
		return field.ErrorList{field.Required(p.Child("type"), "type is required when appArmorProfile is set")}
	}
	errs := oneOf(p.Child("type"), a.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	switch {
	case a.Type == corev1.AppArmorProfileTypeLocalhost && (a.LocalhostProfile == nil || *a.LocalhostProfile == ""):
		errs = append(errs, field.Required(p.Child("localhostProfile"), "must be set when AppArmor type is Localhost"))
	case a.Type != corev1.AppArmorProfileTypeLocalhost && a.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(p.Child("localhostProfile"), a.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
	}
	return errs
}
