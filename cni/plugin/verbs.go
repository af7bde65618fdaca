package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// Args is what a runtime says of one call: in the environment, and on standard input.
type Args struct {
	ContainerID, Netns, IfName string
	Args                       string // CNI_ARGS
	Path                       string // CNI_PATH
	StdinData                  []byte // the configuration
}

// Verbs are the commands of the specification but VERSION, which Run answers.
type Verbs struct{ Add, Del, Check, GC, Status func(*Args) error }

// Call is one run of the program.
type Call struct {
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	About          string // said where there is no command: a person has started it
}

// verb is what the specification asks of a command.
type verb struct {
	do        func(*Args) error
	container bool   // it is of an attachment
	netns     bool   // which has a namespace
	since     string // the first version that has it
}

func (v Verbs) table() map[string]verb {
	return map[string]verb{
		"ADD": {v.Add, true, true, "0.1.0"}, "DEL": {v.Del, true, false, "0.1.0"}, "CHECK": {v.Check, true, true, "0.4.0"},
		"GC": {v.GC, false, false, "1.1.0"}, "STATUS": {v.Status, false, false, "1.1.0"},
	}
}

// Run does what the runtime calls for. Its error is for the runtime, on standard output. It takes the place of the specification's
// library, which compiles regular expressions before it does anything, and reads the configuration twice.
func (v Verbs) Run(c Call, versions version.PluginInfo) *types.Error {
	command := c.Getenv("CNI_COMMAND")
	switch command {
	case "":
		fmt.Fprintf(c.Stderr, "%s\nCNI protocol versions supported: %s\n", c.About, strings.Join(versions.SupportedVersions(), ", "))
		return nil
	case "VERSION":
		if err := versions.Encode(c.Stdout); err != nil {
			return types.NewError(types.ErrIOFailure, err.Error(), "")
		}
		return nil
	}
	does, ok := v.table()[command]
	if !ok {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("unknown CNI_COMMAND: %s", command), "")
	}
	args, err := argsOf(c, does)
	if err != nil {
		return err
	}
	if err := speaks(command, args.StdinData, does, versions); err != nil {
		return err
	}
	shared := args.Netns != "" && !overridden(c.Getenv("CNI_NETNS_OVERRIDE")) && sameNamespace(args.Netns)
	wrong := types.NewError(types.ErrInvalidNetNS, "plugin's netns and netns from CNI_NETNS should not be the same", "")
	if shared && command == "ADD" {
		return wrong
	}
	if err := does.do(args); err != nil {
		e := (*types.Error)(nil)
		if errors.As(err, &e) {
			return e
		}
		return types.NewError(types.ErrInternal, err.Error(), "")
	}
	if shared && command == "DEL" {
		return wrong
	}
	return nil
}

func argsOf(c Call, v verb) (*Args, *types.Error) {
	a := &Args{}
	var missing []string
	for _, e := range []struct {
		name     string
		to       *string
		needed   bool
		validate func(string) *types.Error
	}{
		{"CNI_CONTAINERID", &a.ContainerID, v.container, validContainer},
		{"CNI_NETNS", &a.Netns, v.netns, nil},
		{"CNI_IFNAME", &a.IfName, v.container, validInterface},
		{"CNI_ARGS", &a.Args, false, nil},
		{"CNI_PATH", &a.Path, true, nil},
	} {
		*e.to = c.Getenv(e.name)
		if *e.to == "" && e.needed {
			missing = append(missing, e.name)
		}
		if *e.to == "" || !e.needed || e.validate == nil {
			continue
		}
		if err := e.validate(*e.to); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("required env variables [%s] missing", strings.Join(missing, ",")), "")
	}
	var err error
	if a.StdinData, err = io.ReadAll(c.Stdin); err != nil {
		return nil, types.NewError(types.ErrIOFailure, fmt.Sprintf("error reading from stdin: %v", err), "")
	}
	return a, nil
}

// speaks says whether the configuration has a name and is of a version that both sides know, and that has the command.
func speaks(command string, stdin []byte, v verb, versions version.PluginInfo) *types.Error {
	var conf struct{ CNIVersion, Name string }
	members, err := membersOf(stdin)
	for _, m := range members {
		var to *string
		switch m.Name {
		case "cniVersion":
			to = &conf.CNIVersion
		case "name":
			to = &conf.Name
		}
		if to != nil && err == nil && !plain(to, m.Value) {
			err = json.Unmarshal(m.Value, to)
		}
	}
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("error unmarshall network config: %v", err), "")
	}
	if conf.Name == "" {
		return types.NewError(types.ErrInvalidNetworkConfig, "missing network name", "")
	}
	if !validName(conf.Name) {
		return types.NewError(types.ErrInvalidNetworkConfig, "invalid characters found in network name", conf.Name)
	}
	if conf.CNIVersion == "" {
		conf.CNIVersion = "0.1.0" // that of a time when there was no such field
	}
	if err := (&version.Reconciler{}).Check(conf.CNIVersion, versions); err != nil {
		return types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", err.Details())
	}
	if late, err := version.GreaterThanOrEqualTo(conf.CNIVersion, v.since); err != nil {
		return types.NewError(types.ErrDecodingFailure, err.Error(), "")
	} else if !late {
		return types.NewError(types.ErrIncompatibleCNIVersion, "config version does not allow "+command, "")
	}
	return nil
}

func validContainer(id string) *types.Error {
	if !validName(id) {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "invalid characters in containerID", id)
	}
	return nil
}

// validName says whether s begins with a letter or a digit and goes on with those, underscores, dots and hyphens.
func validName(s string) bool {
	for i, r := range []byte(s) {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.-", rune(r))) {
			return false
		}
	}
	return s != ""
}

func validInterface(name string) *types.Error {
	why := ""
	switch {
	case len(name) >= unix.IFNAMSIZ:
		why = "interface name is too long"
	case name == "." || name == "..":
		why = "interface name is . or .."
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) }):
		why = "interface name contains / or : or % or whitespace characters" // the kernel puts a number in place of %d
	default:
		return nil
	}
	return types.NewError(types.ErrInvalidEnvironmentVariables, why, name)
}

func overridden(s string) bool { return strings.EqualFold(s, "true") || s == "1" }

// sameNamespace says whether path is the namespace the plugin was started in. A path that leads nowhere is not.
func sameNamespace(path string) bool {
	var own, other unix.Stat_t
	return unix.Stat("/proc/thread-self/ns/net", &own) == nil && unix.Stat(path, &other) == nil && own.Dev == other.Dev && own.Ino == other.Ino
}
