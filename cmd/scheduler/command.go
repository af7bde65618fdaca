package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/elected"
	"github.com/orlop-io/orlop/cmd/memory"
)

// NewCommand returns kube-scheduler with upstream's flags.
func NewCommand(version string) *cobra.Command {
	cfg := elected.Defaults("kube-scheduler", 10259)
	cfg.QPS, cfg.Burst = 5000, 10000 // two requests a pod; the API server's own fairness protects it
	cfg.Room = room(memory.Machine())
	path := ""
	cmd := &cobra.Command{
		Use: "kube-scheduler", Short: "Give every pod a node",
		Args: cobra.NoArgs, SilenceUsage: true, Version: version,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if cfg.Verbosity > 1 {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			klog.SetSlogLogger(log) // client-go's own messages
			own := Defaults()
			if path != "" {
				file, read, err := readConfig(path)
				if err != nil {
					return err
				}
				apply(file, &cfg, cmd.Flags().Changed)
				own = read
			}
			log.Info("starting", "program", "kube-scheduler", "version", version)
			return elected.Run(cmd.Context(), cfg, log, func(ctx context.Context, api *rest.Config) error {
				return run(ctx, own, api, log)
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&path, "config", "", "file with a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1; flags go before what it says")
	return cmd
}

// room is how far the heap may grow while many pods wait, on a machine with so many bytes of memory. What stays is some tens of
// megabytes, and each pod makes 60 KB of garbage.
func room(machine uint64) uint64 { return max(64<<20, min(256<<20, machine/64)) }

func run(ctx context.Context, cfg Config, api *rest.Config, log *slog.Logger) error {
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read hostname: %w", err)
	}
	events := newEventWriter(client.CoreV1().Events(""), log)
	shared := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(strip))
	recorders := map[string]Recorder{}
	for name := range cfg.Profiles {
		recorders[name] = events.recorder(name, host)
	}
	s, err := New(cfg, client, shared, recorders, log)
	if err != nil {
		return fmt.Errorf("build scheduler: %w", err)
	}
	events.rush = s.rush
	if err := s.Register(legacyregistry.Register, legacyregistry.CustomRegister); err != nil {
		return err
	}
	if err := legacyregistry.Register(events.dropped); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	shared.Start(ctx.Done())
	defer shared.Shutdown()
	var writing sync.WaitGroup
	writing.Go(func() { events.run(ctx) })
	defer writing.Wait()
	return s.Run(ctx)
}

// strip drops what no decision reads; pods' containers are most of a cluster's memory.
func strip(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil && len(accessor.GetManagedFields()) > 0 {
		accessor.SetManagedFields(nil)
	}
	if pod, ok := obj.(*corev1.Pod); ok {
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				c := &containers[i]
				containers[i] = corev1.Container{Name: c.Name, Image: c.Image, Resources: c.Resources, Ports: c.Ports, RestartPolicy: c.RestartPolicy,
					RestartPolicyRules: c.RestartPolicyRules, VolumeMounts: keepOptions(c.VolumeMounts)}
			}
		}
		pod.Status.ContainerStatuses = keepResources(pod.Status.ContainerStatuses)
		pod.Status.InitContainerStatuses = keepResources(pod.Status.InitContainerStatuses)
	}
	return obj, nil
}

// keepResources keeps what a resize in place changes the requests by.
func keepResources(in []corev1.ContainerStatus) []corev1.ContainerStatus {
	for i := range in {
		in[i] = corev1.ContainerStatus{Name: in[i].Name, Resources: in[i].Resources, AllocatedResources: in[i].AllocatedResources}
	}
	return in
}

// keepOptions keeps of mounts those with options, which a pod must find on its node.
func keepOptions(mounts []corev1.VolumeMount) (kept []corev1.VolumeMount) {
	for _, m := range mounts {
		if len(m.BindMountOptions) > 0 {
			kept = append(kept, m)
		}
	}
	return kept
}
