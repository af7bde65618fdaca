package validation

import (
	"strings"
	"testing"
)

func TestPodSecurity(t *testing.T) {
	pod := func(c string) string { return "securityContext: {" + c + "}" }
	const at = "spec.securityContext."
	testPods(t, []podRow{
		{"valid", pod("runAsUser: 0, fsGroupChangePolicy: Always, supplementalGroupsPolicy: Strict, seLinuxChangePolicy: MountOption, sysctls: [{name: net.core.somaxconn, value: '1'}]"), ""},
		{"user", pod("runAsUser: -1"), at + "runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"},
		{"group", pod("runAsGroup: -1"), at + "runAsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive"},
		{"fs group", pod("fsGroup: -1"), at + "fsGroup: Invalid value: -1"},
		{"more groups", pod("supplementalGroups: [1, -1]"), at + "supplementalGroups[1]: Invalid value: -1"},
		{"fs group change", pod("fsGroupChangePolicy: X"), at + `fsGroupChangePolicy: Unsupported value: "X": supported values: "Always", "OnRootMismatch"`},
		{"groups policy", pod("supplementalGroupsPolicy: X"), at + `supplementalGroupsPolicy: Unsupported value: "X": supported values: "Merge", "Strict"`},
		{"selinux policy", pod("seLinuxChangePolicy: X"), at + `seLinuxChangePolicy: Unsupported value: "X": supported values: "MountOption", "Recursive"`},
		{"processes", "shareProcessNamespace: true, hostPID: true", at + "shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"},
		{"sysctl without name", pod("sysctls: [{value: '1'}]"), at + "sysctls[0].name: Required value"},
		{"sysctl name", pod("sysctls: [{name: 'a b', value: '1'}]"), at + `sysctls[0].name: Invalid value: "a b": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`},
		{"sysctl twice", pod("sysctls: [{name: kernel/a, value: '1'}, {name: kernel.a, value: '1'}]"), at + `sysctls[1].name: Duplicate value: "kernel.a"`},
		{"sysctl of the host's network", pod("sysctls: [{name: net.core.somaxconn, value: '1'}]") + ", hostNetwork: true", at + "sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true"},
		{"sysctl of the host's memory", pod("sysctls: [{name: kernel/shmmax, value: '1'}]") + ", hostIPC: true", at + "sysctls[0].name: Invalid value: \"kernel/shmmax\": may not be specified when 'hostIPC' is true"},
		{"seccomp", pod("seccompProfile: {}"), at + "seccompProfile.type: Required value: type is required when seccompProfile is set"},
		{"seccomp type", pod("seccompProfile: {type: X}"), at + `seccompProfile.type: Unsupported value: "X": supported values: "Localhost", "RuntimeDefault", "Unconfined"`},
		{"seccomp profile", pod("seccompProfile: {type: Localhost}"), at + "seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"},
		{"seccomp profile climbs", pod("seccompProfile: {type: Localhost, localhostProfile: ../a}"), at + `seccompProfile.localhostProfile: Invalid value: "../a": must not contain '..'`},
		{"seccomp profile unused", pod("seccompProfile: {type: Unconfined, localhostProfile: a}"), "can only be set when seccomp type is Localhost"},
		{"apparmor", pod("appArmorProfile: {}"), at + "appArmorProfile.type: Required value: type is required when appArmorProfile is set"},
		{"apparmor type", pod("appArmorProfile: {type: X}"), at + `appArmorProfile.type: Unsupported value: "X": supported values: "Localhost", "RuntimeDefault", "Unconfined"`},
		{"apparmor profile", pod("appArmorProfile: {type: Localhost}"), at + "appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost"},
		{"apparmor profile empty", pod("appArmorProfile: {type: Localhost, localhostProfile: ''}"), at + "appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost"},
		{"apparmor profile padded", pod("appArmorProfile: {type: Localhost, localhostProfile: ' a'}"), "must not be padded with whitespace"},
		{"apparmor profile long", pod("appArmorProfile: {type: Localhost, localhostProfile: " + strings.Repeat("a", 4096) + "}"), "Too long: may not be more than 4095 bytes"},
		{"apparmor profile unused", pod("appArmorProfile: {type: RuntimeDefault, localhostProfile: a}"), "can only be set when AppArmor type is Localhost"},
		{"own users on the host's network", "hostUsers: false, hostNetwork: true", "spec.hostNetwork: Forbidden: when `hostUsers` is false"},
		{"own users with the host's processes", "hostUsers: false, hostPID: true", "spec.HostPID: Forbidden: when `hostUsers` is false"},
		{"own users with the host's memory", "hostUsers: false, hostIPC: true", "spec.HostIPC: Forbidden: when `hostUsers` is false"},
		{"own users with a device", "c{volumeDevices: [{name: p, devicePath: /d}]}c, hostUsers: false, volumes: [{name: p, persistentVolumeClaim: {claimName: c}}]", "spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false"},
	})
}

func TestContainerSecurity(t *testing.T) {
	with := func(c string) string { return "c{securityContext: {" + c + "}}c" }
	const at = "spec.containers[0].securityContext."
	testPods(t, []podRow{
		{"user", with("runAsUser: -1"), at + "runAsUser: Invalid value: -1"},
		{"group", with("runAsGroup: -1"), at + "runAsGroup: Invalid value: -1"},
		{"proc mount", with("procMount: X"), at + `procMount: Unsupported value: "X": supported values: "Default", "Unmasked"`},
		{"unmasked", with("procMount: Unmasked"), at + "procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"},
		{"unmasked for own users", with("procMount: Unmasked") + ", hostUsers: false", ""},
		{"escalation", with("privileged: true, allowPrivilegeEscalation: false"), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"},
		{"escalation by capability", with("capabilities: {add: [CAP_SYS_ADMIN]}, allowPrivilegeEscalation: false"), "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"},
		{"seccomp", with("seccompProfile: {type: Localhost}"), at + "seccompProfile.localhostProfile: Required value"},
		{"apparmor", with("appArmorProfile: {type: Localhost}"), at + "appArmorProfile.localhostProfile: Required value"},
	})
}

func TestWindows(t *testing.T) {
	options := func(o string) string { return "securityContext: {windowsOptions: {" + o + "}}" }
	const at = "spec.securityContext.windowsOptions."
	const linux, windows = ": Forbidden: windows options cannot be set for a linux pod", ": Forbidden: cannot be set for a windows pod"
	rows := []podRow{
		{"system", "os: {name: ''}", "spec.os.name: Required value: cannot be empty"},
		{"unknown system", "os: {name: beos}", `spec.os: Unsupported value: "beos": supported values: "linux", "windows"`},
		{"linux", options("hostProcess: false") + ", os: {name: linux}", "spec.securityContext.windowsOptions" + linux},
		{"linux container", "c{securityContext: {windowsOptions: {}}}c, os: {name: linux}", "spec.containers[0].securityContext.windowsOptions" + linux},
		{"windows resources", "os: {name: windows}, resources: {limits: {cpu: 1}}", "spec.resources: Forbidden: may not be set for a windows pod"},
		{"credential spec name", options("gmsaCredentialSpecName: A"), at + `gmsaCredentialSpecName: Invalid value: "A"`},
		{"credential spec", options("gmsaCredentialSpec: ''"), at + `gmsaCredentialSpec: Invalid value: "": gmsaCredentialSpec cannot be an empty string`},
		{"credential spec size", options("gmsaCredentialSpec: " + strings.Repeat("a", 65537)), "gmsaCredentialSpec size must be under 64 KiB"},
		{"user", options("runAsUserName: ''"), at + `runAsUserName: Invalid value: "": runAsUserName cannot be an empty string`},
		{"user's control characters", options(`runAsUserName: "a\tb"`), "runAsUserName cannot contain control characters"},
		{"user's backslashes", options(`runAsUserName: 'a\b\c'`), "runAsUserName cannot contain more than one backslash"},
		{"user's domain", options(`runAsUserName: '*\b'`), "runAsUserName's Domain doesn't match the NetBIOS nor the DNS format"},
		{"user's long domain", options(`runAsUserName: '` + strings.Repeat("a", 256) + `\b'`), "runAsUserName's Domain length must be under 256 characters"},
		{"user of a domain", options(`runAsUserName: 'a\'`), "runAsUserName's User cannot be empty"},
		{"user's length", options("runAsUserName: " + strings.Repeat("a", 105)), "runAsUserName's User length must not be longer than 104 characters"},
		{"user's dots", options("runAsUserName: ' . '"), "runAsUserName's User cannot contain only periods or spaces"},
		{"user's characters", options("runAsUserName: a@b"), "runAsUserName's User cannot contain the following characters: \"/:;|=,+*?<>@[]"},
		{"host process", options("hostProcess: true") + ", hostNetwork: true", ""},
		{"host process without network", options("hostProcess: true"), "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers"},
		{"host process of some", "hostNetwork: true, containers: [{name: c, image: i, securityContext: {windowsOptions: {hostProcess: true}}}, {name: d, image: i}]", "If pod contains any hostProcess containers then all containers must be HostProcess containers"},
		{"host process of none", "c{securityContext: {windowsOptions: {hostProcess: false}}}c, hostNetwork: true, " + options("hostProcess: true"), "spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess value must be identical if both are specified, was true"},
	}
	for _, f := range []string{"appArmorProfile: {type: Unconfined}", "seLinuxOptions: {}", "seccompProfile: {type: Unconfined}", "fsGroup: 1", "fsGroupChangePolicy: Always",
		"sysctls: [{name: a, value: b}]", "runAsUser: 1", "runAsGroup: 1", "supplementalGroups: [1]", "supplementalGroupsPolicy: Merge"} {
		name, _, _ := strings.Cut(f, ":")
		rows = append(rows, podRow{"windows " + name, "os: {name: windows}, securityContext: {" + f + "}", "spec.securityContext." + name + windows})
	}
	for _, f := range []string{"hostUsers: true", "hostPID: true", "hostIPC: true", "shareProcessNamespace: true"} {
		name, _, _ := strings.Cut(f, ":")
		rows = append(rows, podRow{"windows " + name, "os: {name: windows}, " + f, "spec.securityContext." + name + windows})
	}
	for _, f := range []string{"appArmorProfile: {type: Unconfined}", "seLinuxOptions: {}", "seccompProfile: {type: Unconfined}", "capabilities: {}", "readOnlyRootFilesystem: true",
		"privileged: false", "allowPrivilegeEscalation: true", "procMount: Default", "runAsUser: 1", "runAsGroup: 1"} {
		name, _, _ := strings.Cut(f, ":")
		rows = append(rows, podRow{"windows container " + name, "c{securityContext: {" + f + "}}c, os: {name: windows}", "spec.containers[0].securityContext." + name + windows})
	}
	testPods(t, rows)
}
