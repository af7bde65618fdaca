package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

// etcdctlCommand is the hidden subcommand that runs on a control-plane host.
const etcdctlCommand = "host-etcdctl"

// adminConf is the administrator's kubeconfig on a host that runs a control plane.
const adminConf = "/etc/kubernetes/admin.conf"

// leadingName takes --name off the front of arguments that are another program's.
func leadingName(args []string) (name string, rest []string) {
	if len(args) > 1 && args[0] == "--name" {
		return args[1], args[2:]
	}
	if len(args) > 0 {
		if v, ok := strings.CutPrefix(args[0], "--name="); ok {
			return v, args[1:]
		}
	}
	return "", args
}

// namesConfig says whether kubectl's arguments choose a kubeconfig themselves, or a context that
// only the user's own may have.
func namesConfig(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") || a == "--context" || strings.HasPrefix(a, "--context=")
	})
}

func kubectlCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [--name CLUSTER] ...",
		Short:              "Run kubectl against the cluster",
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return quiet(kubectl(e, args)) },
	}
}

func quiet(code int) error {
	if code == 0 {
		return nil
	}
	return exitCode(code)
}

// kubectl is the whole of kubectl, with the cluster's kubeconfig as the default one.
func kubectl(e *env, args []string) int {
	name, args := leadingName(args)
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	if name != "" || !namesConfig(args) {
		path, err := e.kubeconfigFor(name)
		if err != nil {
			return code(e.stderr, err, true)
		}
		if path != "" {
			flags.KubeConfig = &path
		}
		if path != "" && path != adminConf {
			// What kubectl remembers of the cluster's API goes with the cluster.
			cache := filepath.Join(filepath.Dir(path), "kubectl-cache")
			flags.CacheDir = &cache
		}
	}
	streams := genericiooptions.IOStreams{In: e.stdin, Out: e.stdout, ErrOut: e.stderr}
	os.Args = append([]string{"kubectl"}, args...) // kubectl looks there itself, for plugins and for kuberc
	command := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		ConfigFlags:   flags.WithWarningPrinter(streams),
		IOStreams:     streams,
	})
	command.SetArgs(args)
	if err := cli.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err) // tells the error as kubectl does, and exits
		return 1
	}
	return 0
}

// kubeconfigFor finds the kubeconfig for a cluster: its own one if the caller may read it; on a
// host of a real cluster the administrator's; else kubectl's default, which is the empty string.
func (e *env) kubeconfigFor(name string) (string, error) {
	chosen, err := e.cluster(name)
	switch {
	case err == nil:
		path := layout.AdminKubeconfig(chosen)
		f, err := os.Open(path)
		if errors.Is(err, os.ErrPermission) {
			return "", nil // the user's own kubeconfig has the context
		}
		if err != nil {
			return "", fmt.Errorf("read the kubeconfig of cluster %s: %w", chosen, err)
		}
		f.Close()
		return path, nil
	case name != "" || !errors.Is(err, errNoCluster):
		return "", err
	}
	if _, err := os.Stat(adminConf); err == nil && e.getenv("KUBECONFIG") == "" {
		return adminConf, nil
	}
	return "", nil
}

func etcdctlShell(e *env) *cobra.Command {
	return &cobra.Command{
		Use:                "etcdctl [--name CLUSTER] ...",
		Short:              "Run etcdctl against the cluster's etcd",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, args := leadingName(args)
			if _, err := os.Stat(etcdPKI("ca.crt")); err == nil && name == "" {
				return quiet(etcdctlHere(args)) // this is a control-plane host itself
			}
			name, err := e.cluster(name)
			if err != nil {
				return err
			}
			return e.onHost(cmd.Context(), name, name+"-1", append([]string{e.exe, etcdctlCommand}, args...), false)
		},
	}
}

// etcdctlHere is the whole of etcdctl, with the credentials of this host as defaults.
func etcdctlHere(args []string) int {
	for k, v := range map[string]string{
		"ETCDCTL_ENDPOINTS": "https://127.0.0.1:2379",
		"ETCDCTL_CACERT":    etcdPKI("ca.crt"),
		"ETCDCTL_CERT":      etcdPKI("healthcheck-client.crt"),
		"ETCDCTL_KEY":       etcdPKI("healthcheck-client.key"),
	} {
		if os.Getenv(k) == "" {
			os.Setenv(k, v)
		}
	}
	os.Args = append([]string{"etcdctl"}, args...)
	if err := ctlv3.Start(); err != nil {
		return 1 // told already
	}
	return 0
}
