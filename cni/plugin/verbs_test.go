package plugin

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestRun(t *testing.T) {
	env := func(changes ...string) map[string]string {
		out := map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c-1_a.b", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
		for i := 0; i < len(changes); i += 2 {
			out[changes[i]] = changes[i+1]
		}
		return out
	}
	const good = `{"cniVersion": "1.1.0", "name": "n"}`
	old := strings.Replace(good, "1.1.0", "1.0.0", 1)
	for _, tt := range []struct {
		name  string
		env   map[string]string
		stdin string
		code  uint
		say   string // in the error
	}{
		{"ADD", env(), good, 0, ""},
		{"DEL without a namespace", env("CNI_COMMAND", "DEL", "CNI_NETNS", ""), good, 0, ""},
		{"ADD without a namespace", env("CNI_NETNS", ""), good, 4, "[CNI_NETNS]"},
		{"ADD with nothing", env("CNI_NETNS", "", "CNI_CONTAINERID", "", "CNI_IFNAME", "", "CNI_PATH", ""), good, 4, "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"},
		{"ADD into the plugin's own namespace", env("CNI_NETNS", "/proc/thread-self/ns/net"), good, 103, "should not be the same"},
		{"the same, allowed", env("CNI_NETNS", "/proc/thread-self/ns/net", "CNI_NETNS_OVERRIDE", "TRUE"), good, 0, ""},
		{"DEL of the plugin's own namespace", env("CNI_COMMAND", "DEL", "CNI_NETNS", "/proc/thread-self/ns/net"), good, 103, "should not be the same"},
		{"a container's name that leads elsewhere", env("CNI_CONTAINERID", "../x"), good, 4, "containerID"},
		{"an interface's name with a slash", env("CNI_IFNAME", "a/b"), good, 4, "interface name contains"},
		{"an interface's name that the kernel completes", env("CNI_IFNAME", "eth%d"), good, 4, "interface name contains"},
		{"an interface's name of 16 letters", env("CNI_IFNAME", "abcdefghijklmnop"), good, 4, "too long"},
		{"an interface called ..", env("CNI_IFNAME", ".."), good, 4, "is . or .."},
		{"no such command", env("CNI_COMMAND", "MAKE"), good, 4, "unknown CNI_COMMAND: MAKE"},
		{"not JSON", env(), "{", 6, "unmarshall"},
		{"no name", env(), `{"cniVersion": "1.0.0"}`, 7, "missing network name"},
		{"a network's name that leads elsewhere", env(), `{"cniVersion": "1.0.0", "name": "../x"}`, 7, "network name"},
		{"an unknown version", env(), `{"cniVersion": "9.0.0", "name": "n"}`, 1, "incompatible"},
		{"a configuration without a version", env(), `{"name": "n"}`, 1, "incompatible"},
		{"GC", env("CNI_COMMAND", "GC"), good, 0, ""},
		{"GC before there was one", env("CNI_COMMAND", "GC"), old, 1, "does not allow GC"},
		{"STATUS before there was one", env("CNI_COMMAND", "STATUS"), old, 1, "does not allow STATUS"},
		{"CHECK before there was one", env("CNI_COMMAND", "CHECK"), strings.Replace(good, "1.1.0", "0.3.1", 1), 1, "does not allow CHECK"},
		{"CHECK", env("CNI_COMMAND", "CHECK"), old, 0, ""},
		{"what the verb says", env("CNI_COMMAND", "STATUS"), good, 999, "no"},
	} {
		called := ""
		say := func(name string) func(*Args) error {
			return func(*Args) error {
				called = name
				if tt.code == 999 {
					return errors.New("no")
				}
				return nil
			}
		}
		v := Verbs{Add: say("ADD"), Del: say("DEL"), Check: say("CHECK"), GC: say("GC"), Status: say("STATUS")}
		var out bytes.Buffer
		err := v.Run(Call{Getenv: func(k string) string { return tt.env[k] }, Stdin: strings.NewReader(tt.stdin), Stdout: &out, Stderr: &out}, Versions())
		var code uint
		text := ""
		if err != nil {
			code, text = err.Code, err.Msg+" "+err.Details
		}
		want := tt.code
		switch want {
		case 103:
			want = types.ErrInvalidNetNS
		case 999:
			want = types.ErrInternal
		}
		if code != want || !strings.Contains(text, tt.say) {
			t.Errorf("%s: code %d, %q; wanted %d, %q", tt.name, code, text, want, tt.say)
		}
		if tt.code == 0 && called != tt.env["CNI_COMMAND"] {
			t.Errorf("%s: called %q", tt.name, called)
		}
	}
}

func TestRunWithoutACommand(t *testing.T) {
	var out, about bytes.Buffer
	get := map[string]string{}
	c := Call{Getenv: func(k string) string { return get[k] }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &about, About: "what this is"}
	if err := Funcs().Run(c, Versions()); err != nil || out.Len() > 0 || !strings.Contains(about.String(), "what this is\nCNI protocol versions supported: 0.3.0") {
		t.Errorf("%v, %q, %q", err, out.String(), about.String())
	}
	get["CNI_COMMAND"] = "VERSION"
	if err := Funcs().Run(c, Versions()); err != nil || !strings.Contains(out.String(), `"supportedVersions":["0.3.0"`) {
		t.Errorf("%v, %q", err, out.String())
	}
}
