package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orlop-io/orlop/cmd/bootstrap"
	"github.com/orlop-io/orlop/cmd/localcluster"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"github.com/orlop-io/orlop/proxy"
)

func TestChoose(t *testing.T) {
	tests := []struct {
		name, named, current string
		all                  []string
		want, fails          string
	}{
		{"named", "b", "orlop-a", []string{"a"}, "b", ""},
		{"current context", "", "orlop-a", []string{"a", "orlop"}, "a", ""},
		{"context of a cluster that is gone", "", "orlop-x", []string{"a", "orlop"}, "orlop", ""},
		{"somebody else's context", "", "production", []string{"a"}, "a", ""},
		{"several", "", "", []string{"a", "b"}, "", "a, b"},
		{"none", "", "", nil, "", "orlop up"},
		{"no name", "No Name", "", nil, "No Name", "cluster name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := choose(tt.named, tt.current, tt.all)
			if got != tt.want || (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		parsed bool
		want   int
	}{
		{"none", nil, true, 0},
		{"any", errors.New("x"), true, 1},
		{"on the command line", errors.New("unknown flag"), false, 2},
		{"preflight", fmt.Errorf("up: %w", &localcluster.ExitError{Code: localcluster.ExitPreflight, Err: errors.New("x")}), true, 3},
		{"another program's", exitCode(137), true, 137},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := code(&bytes.Buffer{}, tt.err, tt.parsed); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}

// Those that make clusters know the modes of the agent that runs in them.
func TestProxyModes(t *testing.T) {
	for _, mode := range append(proxy.Modes(), "unknown") {
		for who, err := range map[string]error{"init": bootstrap.Config{ProxyMode: mode}.Validate(), "up": localcluster.UpConfig{ProxyMode: mode}.Validate()} {
			if refused := strings.Contains(err.Error(), "--proxy-mode"); refused != (mode == "unknown") {
				t.Errorf("%s --proxy-mode %s: %v", who, mode, err)
			}
		}
	}
}

func TestParsePublish(t *testing.T) {
	got, err := parsePublish([]string{"8080:30080", "80:30081"})
	if d := cmp.Diff([]layout.Publish{{HostPort: 8080, NodePort: 30080}, {HostPort: 80, NodePort: 30081}}, got); err != nil || d != "" {
		t.Error(err, d)
	}
	for _, bad := range []string{"8080", "0:30080", "8080:99999", "a:b", ""} {
		if _, err := parsePublish([]string{bad}); err == nil {
			t.Errorf("--publish %q passed", bad)
		}
	}
}

func TestLeadingName(t *testing.T) {
	tests := []struct {
		args []string
		name string
		rest int
	}{
		{[]string{"--name", "a", "get", "pods"}, "a", 2},
		{[]string{"--name=a", "get"}, "a", 1},
		{[]string{"get", "--name", "a"}, "", 3}, // kubectl's own business
		{nil, "", 0},
	}
	for _, tt := range tests {
		name, rest := leadingName(tt.args)
		if name != tt.name || len(rest) != tt.rest {
			t.Errorf("%q: %q, %q", tt.args, name, rest)
		}
	}
}

func TestDemoManifestHasThisVersion(t *testing.T) {
	b, err := demoManifest("v9")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(":dev")) || !bytes.Contains(b, []byte("localhost/orlop-testimage:v9")) {
		t.Errorf("images in\n%s", b)
	}
}
