// Package bootstrap turns a host into a node: it writes the PKI, kubeconfigs,
// static pod manifests and kubelet files of a cluster, and the objects that
// let others join.
//
// Files, names, flags and messages are kubeadm's, so that what people know of
// it (and their tools) keeps working. It owns what it writes below
// /etc/kubernetes, /var/lib/kubelet/{config.yaml,kubeadm-flags.env} and, where
// systemd runs, kubelet.service. Existing certificates and keys are kept and
// checked, never overwritten. Every step is idempotent: after a failure, mend
// the cause and run the command again, or run `orlop reset`.
package bootstrap

import (
	"io"

	"github.com/spf13/cobra"
)

// ExitError carries the exit code of a command: 1 error, 2 usage, 3 preflight,
// 4 timeout.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode is the process exit code that the error asks for.
func (e *ExitError) ExitCode() int { return e.Code }

// Commands are init, join, reset, token and encryption, for the program's root command.
// version is the tag of the images that belong to this program.
func Commands(version string) []*cobra.Command {
	return []*cobra.Command{initCommand(version), joinCommand(version), resetCommand(), tokenCommand(), encryptionCommand()}
}

// tokenVariable names the token in the environment, where other users of the
// host cannot read it as they can read arguments.
const tokenVariable = "ORLOP_TOKEN"

// say prints one line of progress in kubeadm's form.
func say(w io.Writer, phase, text string) {
	io.WriteString(w, "["+phase+"] "+text+"\n")
}
