package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/orlop-io/orlop/cni/install"
	"github.com/orlop-io/orlop/cri"
)

// runtimeSockets are where runtimes listen that are not told otherwise.
var runtimeSockets = [...]string{"/run/containerd/containerd.sock", "/run/crio/crio.sock"}

// withFolders fills in the folders of CNI plugins and configurations that are not given: those that the runtime uses, as it says itself where its
// socket is seen; else as its configuration file says, where that is; else the ones everybody starts from.
//
// In a pod a folder that is not mounted is nobody's: what is written there no runtime sees. That is the error, and the folders are then set
// all the same.
func (o options) withFolders(ctx context.Context, exists func(string) bool, log *slog.Logger) (options, error) {
	if o.binDir != "" && o.confDir != "" {
		return o, nil
	}
	bins, conf := o.askRuntime(ctx, exists, log)
	if len(bins) == 0 && conf == "" {
		found, err := install.RuntimeFolders(o.files)
		if err != nil {
			log.Warn("the runtime's configuration does not tell its CNI folders; the usual ones are taken", "err", err)
		}
		bins, conf = []string{found.Bin}, found.Conf
	}
	bin := ""
	for _, dir := range bins { // the first that is there, or else that is to be made
		if bin == "" || exists(dir) && !exists(bin) {
			bin = dir
		}
	}
	o.binDir, o.confDir = cmp.Or(o.binDir, bin, "/opt/cni/bin"), cmp.Or(o.confDir, conf, "/etc/cni/net.d")
	for what, dir := range map[string]string{"plugins": o.binDir, "configurations": o.confDir} {
		if o.inPod && !exists(dir) {
			return o, fmt.Errorf("the runtime looks for CNI %s in %s, which is no folder in this container: mount the node's there (a hostPath volume with the same mountPath)", what, dir)
		}
	}
	return o, nil
}

// askRuntime returns what the runtime says of its folders, or nothing.
func (o options) askRuntime(ctx context.Context, exists func(string) bool, log *slog.Logger) (bins []string, conf string) {
	endpoint := o.runtime
	for _, s := range runtimeSockets {
		if endpoint == "" && exists(s) {
			endpoint = s
		}
	}
	if endpoint == "" {
		return nil, ""
	}
	client, err := cri.New(cri.Config{Endpoint: endpoint})
	if err == nil {
		bins, conf, err = client.NetworkFolders(ctx)
		client.Close()
	}
	if err != nil {
		log.Info("the runtime does not tell its CNI folders; its configuration file is read", "endpoint", endpoint, "err", err)
	}
	return bins, conf
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
