// Command orlop-kubelet runs the pods of a node: those of a directory, and those that the API
// server binds to it. It understands upstream's kubelet flags and its configuration file.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/memory"
	"github.com/orlop-io/orlop/kubelet"
)

var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command(stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return 0
	}
	fmt.Fprintf(stderr, "orlop-kubelet: %v\n", err)
	return 1
}

func command(stderr io.Writer) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:           "orlop-kubelet",
		Short:         "Run the pods of this node",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := readConfig(f.config, f.configDir, f.fields.tree)
			if err != nil {
				return err
			}
			log := logger(stderr, file.Logging.Format, max(f.verbosity, int(file.Logging.Verbosity)))
			klog.SetSlogLogger(log)
			cfg, err := configure(cmd.Flags(), &f, file, log)
			if err != nil {
				return err
			}
			k, err := kubelet.New(cfg, log)
			if err != nil {
				return err
			}
			log.Info("kubelet starts", "version", version, "node", cfg.Node, "addresses", cfg.NodeIPs)
			return small(cmd.Context(), k.Run)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// small runs what waits most of the time, in as little memory as that needs; $GOGC says otherwise.
func small(ctx context.Context, run func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	var pace sync.WaitGroup
	if os.Getenv("GOGC") == "" {
		pace.Go(func() { memory.Pace(ctx, memory.Waiting(0)) })
	}
	err := run(ctx)
	stop()
	pace.Wait()
	return err
}

func logger(w io.Writer, format string, verbosity int) *slog.Logger {
	level := slog.LevelInfo
	if verbosity >= 4 {
		level = slog.LevelDebug
	}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
