package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// delegatedAdd asks the IPAM plugin of the configuration for addresses.
func delegatedAdd(conf *Config, args *Args) (*current.Result, error) {
	out, err := delegate("ADD", conf, args)
	if err != nil {
		return nil, err
	}
	r, err := create.Create(conf.CNIVersion, out)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("result of IPAM plugin %s: %v", conf.delegate, err), "")
	}
	result, err := current.NewResultFromResult(r)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("result of IPAM plugin %s: %v", conf.delegate, err), "")
	}
	return result, nil
}

// delegated calls another verb of the IPAM plugin.
func delegated(verb string, conf *Config, args *Args) error {
	_, err := delegate(verb, conf, args)
	return err
}

// ownVariable is what the program's start adds to its environment.
const ownVariable = "GOMAXPROCS=01"

// delegate runs the IPAM plugin, found in CNI_PATH, with our own environment and configuration, as the specification says. It is not done
// by the library's invoke, which brings 2 MB of tracing into a program that starts for every container.
func delegate(verb string, conf *Config, args *Args) ([]byte, error) {
	wrong := func(code uint, err error) error {
		return types.NewError(code, fmt.Sprintf("%s of IPAM plugin %s: %v", verb, conf.delegate, err), "")
	}
	path := ""
	for _, dir := range filepath.SplitList(args.Path) {
		if info, err := os.Stat(filepath.Join(dir, conf.delegate)); err == nil && info.Mode().IsRegular() {
			path = filepath.Join(dir, conf.delegate)
			break
		}
	}
	if path == "" {
		return nil, wrong(types.ErrInvalidNetworkConfig, fmt.Errorf("there is none in CNI_PATH %q", args.Path))
	}
	cmd := exec.Command(path)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CNI_COMMAND=") && e != ownVariable {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "CNI_COMMAND="+verb)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(args.StdinData), &out, os.Stderr
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	told := &types.Error{}
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) && json.Unmarshal(out.Bytes(), told) == nil && told.Msg != "" {
		return nil, wrong(told.Code, told)
	}
	return nil, wrong(errNetwork, err)
}
