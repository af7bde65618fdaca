package plugin

import (
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// LoopbackFuncs returns the verbs of the plugin "loopback", which containerd calls for every pod before the network's own.
// They are here so that a node needs one program for both.
func LoopbackFuncs() Verbs {
	nothing := func(*Args) error { return nil } // the interface goes with the namespace
	return Verbs{Add: addLoopback, Del: nothing, Check: nothing, GC: nothing, Status: nothing}
}

func addLoopback(args *Args) error {
	decoder := version.ConfigDecoder{}
	v, err := decoder.Decode(args.StdinData)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
	}
	pod, err := at(args.Netns)
	if err != nil {
		return coded(errNetwork, err)
	}
	defer pod.close()
	if err := pod.loopback(); err != nil {
		return coded(errNetwork, err)
	}
	return printResult(&current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{{Name: args.IfName, Mac: "00:00:00:00:00:00", Sandbox: args.Netns}},
	}, v)
}
