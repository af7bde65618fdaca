package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPick(t *testing.T) {
	for _, tt := range []struct {
		argv []string
		name string
		args []string
		err  string
	}{
		{argv: []string{"/usr/local/bin/kube-apiserver", "--v=2"}, name: "kube-apiserver", args: []string{"--v=2"}},
		{argv: []string{"orlop-server", "etcd", "--name=a"}, name: "etcd", args: []string{"--name=a"}},
		{argv: []string{"coredns", "etcd"}, name: "coredns", args: []string{"etcd"}},
		{argv: []string{"orlop-server", "httpd"}, err: "name a component"},
		{argv: []string{"orlop-server"}, err: "name a component"},
	} {
		p, args, err := pick(programs(), tt.argv)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("pick(%q): %v, want %q", tt.argv, err, tt.err)
			}
			continue
		}
		if err != nil || p.name != tt.name || cmp.Diff(tt.args, args) != "" {
			t.Errorf("pick(%q) = %s %q, %v, want %s %q", tt.argv, p.name, args, err, tt.name, tt.args)
		}
	}
}

func TestEachProgramHasOneEntry(t *testing.T) {
	for _, p := range programs() {
		if (p.command == nil) == (p.main == nil) {
			t.Errorf("%s has not exactly one entry", p.name)
		}
	}
}
