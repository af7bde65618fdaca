package controllers

import (
	"strings"
	"testing"
)

func TestWants(t *testing.T) {
	signer := entry{name: "bootstrap-signer-controller", alias: "bootstrapsigner", off: true}
	ordinary := entry{name: "deployment-controller", alias: "deployment"}
	for _, tc := range []struct {
		name  string
		list  []string
		entry entry
		want  bool
	}{
		{"on by default", []string{"*"}, ordinary, true},
		{"off by default", []string{"*"}, signer, false},
		{"kubeadm's", []string{"*", "bootstrapsigner", "tokencleaner"}, signer, true},
		{"all but one", []string{"*", "-deployment"}, ordinary, false},
		{"by full name", []string{"-deployment-controller", "*"}, ordinary, false},
		{"only another", []string{"namespace"}, ordinary, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := wants(tc.list, tc.entry); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestKubeadmFlagsAreAccepted(t *testing.T) {
	cmd := NewCommand("v")
	err := cmd.ParseFlags([]string{
		"--allocate-node-cidrs=true", "--authentication-kubeconfig=x", "--authorization-kubeconfig=x", "--bind-address=127.0.0.1",
		"--client-ca-file=x", "--cluster-cidr=10.244.0.0/16", "--cluster-name=kubernetes", "--cluster-signing-cert-file=x",
		"--cluster-signing-key-file=x", "--controllers=*,bootstrapsigner,tokencleaner", "--kubeconfig=x", "--leader-elect=true",
		"--requestheader-client-ca-file=x", "--root-ca-file=x", "--service-account-private-key-file=x",
		"--service-cluster-ip-range=10.96.0.0/12", "--use-service-account-credentials=true",
	})
	if err != nil {
		t.Error(err)
	}
}

// Names of controllers are either known, or refused with the reason; those that are not here may be left out.
func TestNamesThatAreRefused(t *testing.T) {
	for list, want := range map[string]string{
		"*,-attachdetach,-resourceclaim-controller": "",
		"*,attachdetach": `--controllers: "attachdetach" is a controller of upstream's that is not built here`,
		"*,-deploiment":  `--controllers: "deploiment" is not a controller`,
	} {
		o := &options{controllers: strings.Split(list, ",")}
		got := ""
		if err := o.check(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", list, got, want)
		}
	}
}
