package validation

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podOS validates the system that a pod says it is for, and refuses what that system does not know.
func podOS(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	if s.OS == nil {
		return nil
	}
	switch s.OS.Name {
	case "":
		return field.ErrorList{field.Required(p.Child("os", "name"), "cannot be empty")}
	case corev1.Linux:
		return linuxOnly(s, p)
	case corev1.Windows:
		return windowsOnly(s, p)
	}
	return supported(p.Child("os"), s.OS.Name, corev1.Linux, corev1.Windows)
}

func linuxOnly(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	const refused = "windows options cannot be set for a linux pod"
	var errs field.ErrorList
	if c := s.SecurityContext; c != nil && c.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(p.Child("securityContext", "windowsOptions"), refused))
	}
	for _, l := range containerLists(s) {
		for i, c := range l.list {
			if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
				errs = append(errs, field.Forbidden(p.Child(l.name).Index(i).Child("securityContext", "windowsOptions"), refused))
			}
		}
	}
	return errs
}

func windowsOnly(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(at *field.Path, set bool) {
		if set {
			errs = append(errs, field.Forbidden(at, "cannot be set for a windows pod"))
		}
	}
	if c, at := s.SecurityContext, p.Child("securityContext"); c != nil {
		refuse(at.Child("appArmorProfile"), c.AppArmorProfile != nil)
		refuse(at.Child("seLinuxOptions"), c.SELinuxOptions != nil)
		refuse(at.Child("hostUsers"), s.HostUsers != nil)
		refuse(at.Child("hostPID"), s.HostPID)
		refuse(at.Child("hostIPC"), s.HostIPC)
		refuse(at.Child("seccompProfile"), c.SeccompProfile != nil)
		refuse(at.Child("fsGroup"), c.FSGroup != nil)
		refuse(at.Child("fsGroupChangePolicy"), c.FSGroupChangePolicy != nil)
		refuse(at.Child("sysctls"), len(c.Sysctls) > 0)
		refuse(at.Child("shareProcessNamespace"), s.ShareProcessNamespace != nil)
		refuse(at.Child("runAsUser"), c.RunAsUser != nil)
		refuse(at.Child("runAsGroup"), c.RunAsGroup != nil)
		refuse(at.Child("supplementalGroups"), c.SupplementalGroups != nil)
		refuse(at.Child("supplementalGroupsPolicy"), c.SupplementalGroupsPolicy != nil)
	}
	for _, l := range containerLists(s) {
		for i := range l.list {
			c, at := l.list[i].SecurityContext, p.Child(l.name).Index(i).Child("securityContext")
			if c == nil {
				continue
			}
			refuse(at.Child("appArmorProfile"), c.AppArmorProfile != nil)
			refuse(at.Child("seLinuxOptions"), c.SELinuxOptions != nil)
			refuse(at.Child("seccompProfile"), c.SeccompProfile != nil)
			refuse(at.Child("capabilities"), c.Capabilities != nil)
			refuse(at.Child("readOnlyRootFilesystem"), c.ReadOnlyRootFilesystem != nil)
			refuse(at.Child("privileged"), c.Privileged != nil)
			refuse(at.Child("allowPrivilegeEscalation"), c.AllowPrivilegeEscalation != nil)
			refuse(at.Child("procMount"), c.ProcMount != nil)
			refuse(at.Child("runAsUser"), c.RunAsUser != nil)
			refuse(at.Child("runAsGroup"), c.RunAsGroup != nil)
		}
	}
	return errs
}

// hostProcess holds that either all containers of a pod are processes of a Windows host or none, and that they use its network.
func hostProcess(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	asked := func(w *corev1.WindowsSecurityContextOptions) *bool {
		if w == nil {
			return nil
		}
		return w.HostProcess
	}
	var whole *bool
	if s.SecurityContext != nil {
		whole = asked(s.SecurityContext.WindowsOptions)
	}
	host, other := 0, 0
	for _, l := range containerLists(s) {
		for i, c := range l.list {
			var own *bool
			if c.SecurityContext != nil {
				own = asked(c.SecurityContext.WindowsOptions)
			}
			if whole != nil && own != nil && *whole != *own {
				at := p.Child(l.name).Index(i).Child("securityContext", "windowsOptions", "hostProcess")
				errs = append(errs, field.Invalid(at, *own, fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *whole)))
			}
			if own == nil {
				own = whole
			}
			if isTrue(own) {
				host++
			} else {
				other++
			}
		}
	}
	if host == 0 {
		return errs
	}
	if other > 0 {
		errs = append(errs, field.Invalid(p, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !s.HostNetwork {
		errs = append(errs, field.Invalid(p.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

// Limits of Windows' names.
const (
	maxCredentialSpecKiB = 64
	maxUserDomain        = 256
	maxUserName          = 104
	badUserChars         = `"/:;|=,+*?<>@[]`
)

func windowsOptions(w *corev1.WindowsSecurityContextOptions, p *field.Path) field.ErrorList {
	if w == nil {
		return nil
	}
	var errs field.ErrorList
	if n := w.GMSACredentialSpecName; n != nil {
		errs = append(errs, invalid(p.Child("gmsaCredentialSpecName"), *n, validation.IsDNS1123Subdomain(*n))...)
	}
	if s := w.GMSACredentialSpec; s != nil {
		if *s == "" {
			errs = append(errs, field.Invalid(p.Child("gmsaCredentialSpec"), *s, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*s) > maxCredentialSpecKiB<<10 {
			errs = append(errs, field.Invalid(p.Child("gmsaCredentialSpec"), *s, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentialSpecKiB)))
		}
	}
	if n := w.RunAsUserName; n != nil {
		for _, m := range windowsUser(*n) {
			errs = append(errs, field.Invalid(p.Child("runAsUserName"), *n, m))
		}
	}
	return errs
}

// windowsUser says what is wrong with a name of the form domain\user or user.
func windowsUser(name string) []string {
	if name == "" {
		return []string{"runAsUserName cannot be an empty string"}
	}
	if regexp.MustCompile(`[[:cntrl:]]+`).MatchString(name) {
		return []string{"runAsUserName cannot contain control characters"}
	}
	if strings.Count(name, `\`) > 1 {
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	domain, user, hasDomain := strings.Cut(name, `\`)
	if !hasDomain {
		domain, user = "", name
	}
	var bad []string
	if len(domain) >= maxUserDomain {
		bad = append(bad, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxUserDomain))
	}
	netBIOS := regexp.MustCompile(`^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$`)
	dnsDomain := regexp.MustCompile(`^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)*$`)
	if hasDomain && !netBIOS.MatchString(domain) && !dnsDomain.MatchString(domain) {
		bad = append(bad, "runAsUserName's Domain doesn't match the NetBIOS nor the DNS format")
	}
	switch {
	case user == "":
		bad = append(bad, "runAsUserName's User cannot be empty")
	case len(user) > maxUserName:
		bad = append(bad, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxUserName))
	case strings.Trim(user, ". ") == "":
		bad = append(bad, "runAsUserName's User cannot contain only periods or spaces")
	case strings.ContainsAny(user, badUserChars):
		bad = append(bad, "runAsUserName's User cannot contain the following characters: "+badUserChars)
	}
	return bad
}
