// Package controllers is the controller manager: one package below it for each
// controller, one table (table.go) that starts them.
//
// It owns flags, identities, the informers they share, and the event stream.
package controllers

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/controllers/accounts"
	"github.com/orlop-io/orlop/cmd/controllers/csr"
	"github.com/orlop-io/orlop/cmd/controllers/nodeipam"
	"github.com/orlop-io/orlop/cmd/controllers/nodelifecycle"
	"github.com/orlop-io/orlop/cmd/controllers/podautoscaler"
	"github.com/orlop-io/orlop/cmd/elected"
)

// options are the command line.
type options struct {
	elected.Config
	controllers    []string
	ownAccounts    bool
	rootCAFile     string
	signingCert    string
	signingKey     string
	signingLife    time.Duration
	allocateCIDRs  bool
	clusterCIDR    string
	mask4, mask6   int
	mask           int
	nodes          nodelifecycle.Config
	terminatedPods int
	quotaPeriod    time.Duration
	autoscaling    podautoscaler.Settings
	tokenKeyFile   string
	localPathImage string
	legacyTokens   time.Duration
	recyclers      recyclers
}

// NewCommand returns kube-controller-manager with upstream's flags.
func NewCommand(version string) *cobra.Command {
	o := &options{
		Config:      elected.Defaults("kube-controller-manager", 10257),
		autoscaling: podautoscaler.Defaults(),
		nodes:       nodelifecycle.Defaults(),
	}
	cmd := &cobra.Command{
		Use: "kube-controller-manager", Short: "Keep the cluster as its objects say",
		Args: cobra.NoArgs, SilenceUsage: true, Version: version,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if o.Verbosity > 1 {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			klog.SetSlogLogger(log) // client-go's own messages
			if err := o.check(); err != nil {
				return err
			}
			log.Info("starting", "program", "kube-controller-manager", "version", version)
			return elected.Run(cmd.Context(), o.Config, log, func(ctx context.Context, api *rest.Config) error {
				return o.run(ctx, api, log)
			})
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	o.Config.AddFlags(fs)
	fs.StringSliceVar(&o.controllers, "controllers", []string{"*"}, "controllers to run: '*' for those on by default, 'name' for one, '-name' for all but one; there are: "+strings.Join(names(), ", "))
	fs.BoolVar(&o.ownAccounts, "use-service-account-credentials", false, "let each controller act as a service account of its own")
	fs.StringVar(&o.rootCAFile, "root-ca-file", "", "CA to publish in every namespace")
	fs.StringVar(&o.signingCert, "cluster-signing-cert-file", "", "CA certificate that signs requests")
	fs.StringVar(&o.signingKey, "cluster-signing-key-file", "", "key of that CA")
	fs.DurationVar(&o.signingLife, "cluster-signing-duration", 365*24*time.Hour, "how long signed certificates live at most")
	fs.BoolVar(&o.allocateCIDRs, "allocate-node-cidrs", false, "give every node a part of --cluster-cidr")
	fs.StringVar(&o.clusterCIDR, "cluster-cidr", "", "range of pod addresses, one a family")
	fs.IntVar(&o.mask, "node-cidr-mask-size", 0, "prefix length of a node's part, in a cluster of one family")
	fs.IntVar(&o.mask4, "node-cidr-mask-size-ipv4", 24, "prefix length of a node's IPv4 part")
	fs.IntVar(&o.mask6, "node-cidr-mask-size-ipv6", 64, "prefix length of a node's IPv6 part")
	fs.DurationVar(&o.nodes.Grace, "node-monitor-grace-period", o.nodes.Grace, "how long a node may be silent")
	fs.DurationVar(&o.nodes.StartupGrace, "node-startup-grace-period", o.nodes.StartupGrace, "how long a node that never reported may be silent")
	fs.DurationVar(&o.nodes.Period, "node-monitor-period", o.nodes.Period, "time between looks at nodes' heartbeats")
	fs.Float64Var(&o.nodes.EvictionRate, "node-eviction-rate", o.nodes.EvictionRate, "how many nodes a second of a healthy zone, or of one that is all down, may begin to lose their pods")
	fs.Float64Var(&o.nodes.SecondaryEvictionRate, "secondary-node-eviction-rate", o.nodes.SecondaryEvictionRate, "how many of an unhealthy zone; none where it has no more than --large-cluster-size-threshold nodes")
	fs.Float64Var(&o.nodes.UnhealthyZone, "unhealthy-zone-threshold", o.nodes.UnhealthyZone, "what share of a zone's nodes, and at least three, must be down for it to be unhealthy")
	fs.IntVar(&o.nodes.LargeZone, "large-cluster-size-threshold", o.nodes.LargeZone, "with how many nodes an unhealthy zone still loses no pods")
	fs.IntVar(&o.terminatedPods, "terminated-pod-gc-threshold", 12500, "how many ended pods may stay; 0 keeps all")
	fs.DurationVar(&o.autoscaling.Sync, "horizontal-pod-autoscaler-sync-period", o.autoscaling.Sync, "time between looks at each pod autoscaler")
	fs.DurationVar(&o.autoscaling.Downscale, "horizontal-pod-autoscaler-downscale-stabilization", o.autoscaling.Downscale, "how far back the highest recommendation counts before scaling down")
	fs.Float64Var(&o.autoscaling.Tolerance, "horizontal-pod-autoscaler-tolerance", o.autoscaling.Tolerance, "how far from 1 the ratio of use to target may be before anything is done")
	fs.DurationVar(&o.autoscaling.CPUInitialization, "horizontal-pod-autoscaler-cpu-initialization-period", o.autoscaling.CPUInitialization, "how long after its start a pod's CPU use may be skipped")
	fs.DurationVar(&o.autoscaling.InitialReadiness, "horizontal-pod-autoscaler-initial-readiness-delay", o.autoscaling.InitialReadiness, "within what time of a pod's start its unreadiness counts as its first")
	fs.DurationVar(&o.quotaPeriod, "resource-quota-sync-period", 5*time.Minute, "time between full counts of what quotas limit")
	fs.String("cluster-name", "kubernetes", "accepted; nothing here needs a name")
	fs.StringVar(&o.tokenKeyFile, "service-account-private-key-file", "", "key that signs the tokens kept in Secrets")
	fs.StringVar(&o.localPathImage, "local-path-image", "", "image of orlop-agent, with which the provisioner of local paths makes directories on nodes, and volumes are recycled; there is no such provisioner without")
	fs.DurationVar(&o.legacyTokens, "legacy-service-account-token-clean-up-period", 365*24*time.Hour, "for how long a token that an old cluster made must be unused to become invalid, and then to be deleted")
	o.recyclers.addFlags(fs)
	fs.String("service-cluster-ip-range", "", "range of service addresses, that no node may get")
	fs.String("requestheader-client-ca-file", "", "accepted; requests by proxies are not believed here")
}

// check completes the options and refuses what cannot be meant.
func (o *options) check() error {
	if o.mask > 0 {
		o.mask4 = o.mask
		if strings.Contains(o.clusterCIDR, ":") {
			o.mask6 = o.mask
		}
	}
	var errs []error
	for _, name := range o.controllers {
		bare, off := strings.CutPrefix(name, "-")
		switch {
		case bare == "*" || slices.ContainsFunc(table(), func(e entry) bool { return e.is(bare) }):
		case !slices.Contains(absent(), bare):
			errs = append(errs, fmt.Errorf("--controllers: %q is not a controller", bare))
		case !off: // to leave out what is not there is easy
			errs = append(errs, fmt.Errorf("--controllers: %q is a controller of upstream's that is not built here", bare))
		}
	}
	if o.allocateCIDRs {
		if _, err := nodeipam.ParsePools(o.clusterCIDR, o.mask4, o.mask6); err != nil {
			errs = append(errs, err)
		}
	}
	if (o.signingCert == "") != (o.signingKey == "") {
		errs = append(errs, errors.New("--cluster-signing-cert-file and --cluster-signing-key-file go together"))
	}
	return errors.Join(errs...)
}

// wants tells whether the list of names turns e on. The first entry that names it
// decides; '*' stands for what is on by default.
func wants(list []string, e entry) bool {
	star := false
	for _, name := range list {
		switch {
		case name == "*":
			star = true
		case e.is(name):
			return true
		case strings.HasPrefix(name, "-") && e.is(name[1:]):
			return false
		}
	}
	return star && !e.off
}

// env is what the table's entries are built from.
type env struct {
	*options
	api    *rest.Config
	root   kubernetes.Interface
	shared informers.SharedInformerFactory
	// filtered are informers of a few objects of a kind.
	filtered      []informers.SharedInformerFactory
	tokenInformer coreinformers.SecretInformer
	events        record.EventBroadcaster
	log           *slog.Logger
}

func (o *options) run(ctx context.Context, api *rest.Config, log *slog.Logger) error {
	root, err := kubernetes.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	e := &env{
		options: o, api: api, root: root, log: log,
		shared: informers.NewSharedInformerFactoryWithOptions(root, 0, informers.WithTransform(strip)),
		events: record.NewBroadcaster(record.WithContext(ctx)),
	}
	e.events.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: root.CoreV1().Events("")})
	defer e.events.Shutdown()

	g, gctx := errgroup.WithContext(ctx)
	for _, entry := range table() {
		if !wants(o.controllers, entry) {
			continue
		}
		run, err := entry.build(e, e.identity(entry.account))
		if err != nil {
			return fmt.Errorf("build %s: %w", entry.name, err)
		}
		if run == nil {
			log.Info("controller has nothing to do with these flags", "controller", entry.name)
			continue
		}
		g.Go(func() error {
			if err := run(gctx); gctx.Err() == nil {
				return fmt.Errorf("%s ended: %w", entry.name, err)
			}
			return nil
		})
	}
	factories := append(e.filtered, e.shared)
	for _, f := range factories {
		f.Start(gctx.Done())
	}
	err = g.Wait()
	for _, f := range factories {
		f.Shutdown()
	}
	return err
}

// identity returns the configuration that a controller acts with.
func (e *env) identity(account string) *rest.Config {
	if e.ownAccounts && account != "" {
		return accounts.Config(e.api, e.root, account)
	}
	cfg := rest.CopyConfig(e.api)
	rest.AddUserAgent(cfg, account)
	return cfg
}

// recorder returns the event source called component.
func (e *env) recorder(component string) record.EventRecorder {
	return e.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// only returns informers that hold just what the options select.
func (e *env) only(opts ...informers.SharedInformerOption) informers.SharedInformerFactory {
	f := informers.NewSharedInformerFactoryWithOptions(e.root, 0, append(opts, informers.WithTransform(strip))...)
	e.filtered = append(e.filtered, f)
	return f
}

// strip drops what no controller reads and every object carries.
func strip(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil && len(accessor.GetManagedFields()) > 0 {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}

// signer reads the signing CA; nil when there is none.
func (o *options) signer() (*csr.Signer, error) {
	if o.signingCert == "" {
		return nil, nil
	}
	text, err := os.ReadFile(o.signingCert)
	if err != nil {
		return nil, fmt.Errorf("read signing CA: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("signing CA %s holds no PEM", o.signingCert)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read signing CA: %w", err)
	}
	if text, err = os.ReadFile(o.signingKey); err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	key, err := keyutil.ParsePrivateKeyPEM(text)
	if err != nil {
		return nil, fmt.Errorf("read signing key %s: %w", o.signingKey, err)
	}
	return csr.NewSigner(ca, key, o.signingLife)
}
