package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orlop-io/orlop/cmd/localcluster"
	"github.com/orlop-io/orlop/cmd/localcluster/kubeconfig"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

// defaultName is the cluster that commands mean when there are several and none is named.
const defaultName = "orlop"

// errNoCluster says that there is no cluster to choose.
var errNoCluster = errors.New("there is no cluster on this machine: make one with `orlop up`")

// choose decides which cluster is meant: the one that was named, else the one of the current
// context, else the one called orlop, else the only one.
func choose(named, current string, all []string) (string, error) {
	if named != "" {
		return named, layout.CheckName(named)
	}
	if name, ok := strings.CutPrefix(current, "orlop-"); ok && slices.Contains(all, name) {
		return name, nil
	}
	switch {
	case len(all) == 0:
		return "", errNoCluster
	case slices.Contains(all, defaultName):
		return defaultName, nil
	case len(all) == 1:
		return all[0], nil
	}
	return "", fmt.Errorf("which cluster? name one of %s with --name", strings.Join(all, ", "))
}

// cluster is choose, on this machine.
func (e *env) cluster(named string) (string, error) {
	if named == "" {
		named = e.getenv("ORLOP_CLUSTER")
	}
	all, err := layout.Names()
	if err != nil {
		return "", err
	}
	name, err := choose(named, e.currentContext(), all)
	if err == nil && named != "" && !slices.Contains(all, named) {
		err = fmt.Errorf("cluster %s: %w", named, layout.ErrNoCluster)
	}
	return name, err
}

// currentContext reads the caller's kubeconfig. One that cannot be read chooses nothing.
func (e *env) currentContext() string {
	path := e.getenv("KUBECONFIG")
	if path == "" {
		user, err := kubeconfig.Caller(e.getenv)
		if err != nil {
			return ""
		}
		path = user.DefaultPath()
	}
	if list := filepath.SplitList(path); len(list) > 0 {
		path = list[0]
	}
	cfg, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return ""
	}
	return cfg.CurrentContext
}

// nameFlag adds --name to a command about one cluster.
func nameFlag(cmd *cobra.Command, to *string) *cobra.Command {
	cmd.Flags().StringVar(to, "name", "", "the cluster; by default that of the current context, or orlop, or the only one [$ORLOP_CLUSTER]")
	_ = cmd.RegisterFlagCompletionFunc("name", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		names, _ := layout.Names() // completion has nobody to tell
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// hostCluster finds the cluster of a host, which its name tells unless it is a mere number.
func (e *env) hostCluster(named, host string) (string, error) {
	if i := strings.LastIndex(host, "-"); named == "" && i > 0 {
		if all, err := layout.Names(); err == nil && slices.Contains(all, host[:i]) {
			return host[:i], nil
		}
	}
	return e.cluster(named)
}

func completeHosts(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var hosts []string
	if names, err := layout.Names(); err == nil && len(args) == 0 {
		for _, n := range names {
			if c, err := layout.Load(n); err == nil {
				for _, h := range c.Hosts {
					hosts = append(hosts, h.Name)
				}
			}
		}
	}
	return hosts, cobra.ShellCompDirectiveNoFileComp
}

func usageError(format string, args ...any) error {
	return &localcluster.ExitError{Code: localcluster.ExitUsage, Err: fmt.Errorf(format, args...)}
}
