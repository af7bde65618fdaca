// Package apiserver is the Kubernetes API server: the generic server of k8s.io/apiserver with the built-in resources
// of package registry, custom resources and aggregation chained behind one listener.
//
// All state is in etcd. Any number of these servers may run side by side.
package apiserver

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/version"
	encryptionconfigcontroller "k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	logsapi "k8s.io/component-base/logs/api/v1"
	componentversion "k8s.io/component-base/version"

	"github.com/orlop-io/orlop/cmd/memory"
)

// keyPoll is how often the file of encryption keys is looked at.
const keyPoll = 10 * time.Second

// NewCommand returns the command kube-apiserver. It serves until cmd.Context() ends.
func NewCommand(programVersion string) *cobra.Command {
	o := NewOptions()
	cmd := &cobra.Command{
		Use:           "kube-apiserver",
		Short:         "Serve the Kubernetes API",
		Version:       programVersion,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Run.ComponentGlobalsRegistry.Set(); err != nil {
				return fmt.Errorf("set feature gates: %w", err)
			}
			if err := logsapi.ValidateAndApply(o.Logging, nil); err != nil {
				return fmt.Errorf("set up logging: %w", err)
			}
			if os.Getenv("GOGC") == "" {
				defer inBackground(cmd.Context(), func(ctx context.Context) { memory.Pace(ctx, collection(memory.Machine())) })()
			}
			// The library offers no other way than this variable. It reads one small file; a rotation waits for it three times.
			encryptionconfigcontroller.EncryptionConfigFileChangePollDuration = keyPoll
			s, err := New(cmd.Context(), o)
			if err != nil {
				return err
			}
			return s.Run(cmd.Context())
		},
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

// inBackground runs f; stop ends its context and waits for it.
func inBackground(ctx context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// checkVersion reports a build without the version that clients compare with theirs.
func checkVersion() error {
	if _, err := version.ParseGeneric(componentversion.Get().GitVersion); err != nil {
		return fmt.Errorf("version of k8s.io/component-base: %w", err)
	}
	return nil
}
