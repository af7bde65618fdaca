// Command orlop-agent is what the DaemonSet runs on every node: it installs the CNI plugin, keeps routes to other nodes' pods, and
// translates services in the node's sockets. What it makes stays in the kernel when it ends; "orlop-agent uninstall" removes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cmd/memory"
	"github.com/orlop-io/orlop/cni/routes"
	"github.com/orlop-io/orlop/proxy"
)

var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	cmd := command()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "orlop-agent:", err)
	return 1
}

// options is what flags say.
type options struct {
	kubeconfig           string
	apiServers           []string
	node                 string
	clusterConfiguration string
	clusterCIDRs         []string
	cgroupRoot           string
	pinDir               string
	proxyMode            string
	proxyExternal        string
	sockets              string
	socketOptOut         []string // label selectors
	netnsDir             string
	podRedirect          string
	countPackets         bool
	hostRoot             string
	cni, proxy           bool
	procSys              string
	probes               string
	healthz              string
	metrics              string
	binary               string
	binDir               string
	confDir              string
	runtime              string // CRI endpoint
	files                string // root of the runtime's configuration files
	inPod                bool   // folders are there only if mounted
	stateDir             string
	dataDir              string
	runDir               string
	bridge               string
	overlayWhen          string
	vni                  uint32
	vxlanPort            uint16
	externalIPs          bool
	verbose              bool
	config               proxyConfiguration
}

func command() *cobra.Command {
	var o options
	var clean, kubeProxy bool
	var file string
	cmd := &cobra.Command{
		Use: "orlop-agent", Short: "CNI plugin, routes and services of a node", Version: version,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := o.prepare(file, cmd.Flags().Changed)
			if err != nil {
				return err
			}
			if clean || kubeProxy {
				return cleanup(o, clean, kubeProxy, cmd.OutOrStdout())
			}
			return small(cmd.Context(), func(ctx context.Context) error { return runAgent(ctx, o, log) })
		},
	}
	cmd.Flags().BoolVar(&clean, "cleanup", false, "remove what the agent made to translate services, in whatever mode, and end; pods' network stays (orlop-agent uninstall removes all)")
	cmd.Flags().BoolVar(&kubeProxy, "remove-kube-proxy-rules", false, "remove the rules that a kube-proxy left, of any of its modes, and end: end it first")
	cmd.Flags().StringVar(&file, "config", "", "a KubeProxyConfiguration, as kube-proxy's ConfigMap has it; it goes before flags, but for --kubeconfig and --node-name")
	f := cmd.PersistentFlags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; the pod's service account when empty")
	f.StringSliceVar(&o.apiServers, "api-servers", nil, "API servers as https://HOST:PORT, asked in turn, instead of the kubeconfig's; the endpoints of the Service kubernetes are asked after them")
	f.StringVar(&o.node, "node-name", os.Getenv("NODE_NAME"), "name of this node's Node object")
	f.StringVar(&o.clusterConfiguration, "cluster-configuration", "", "kubeadm ClusterConfiguration to read the pods' range from, if it is there")
	f.StringSliceVar(&o.clusterCIDRs, "cluster-cidr", nil, "ranges of all pods, to which a pod keeps its own address; those of --cluster-configuration, or of the nodes, when empty")
	f.StringVar(&o.cgroupRoot, "cgroup-root", "", "root of the cgroup2 tree that services are translated in; found in /proc/self/mountinfo when empty")
	f.StringVar(&o.proxyMode, "proxy-mode", "", "how services are translated: "+strings.Join(proxy.Modes(), ", ")+"; the first of them that this node can do when empty (orlop-agent limits: what each cannot do)")
	f.StringVar(&o.hostRoot, "host-root", "/host", "folder where the host's /usr is seen, for its iptables; those beside this program are used where there are none")
	f.BoolVar(&o.cni, "cni", true, "bring pods' network: the CNI plugin, its configuration, and routes to other nodes' pods")
	f.BoolVar(&o.externalIPs, "external-ips", false, "translate spec.externalIPs too: whoever may write a Service can then take over any address (CVE-2020-8554)")
	f.BoolVar(&o.proxy, "proxy", true, "translate services")
	f.StringVar(&o.procSys, "proc-sys", "/proc/sys", "where the kernel's settings can be written; in a container /proc/sys cannot")
	f.StringVar(&o.proxyExternal, "proxy-external", "", "how packets from outside are translated in ebpf mode: by BPF programs on devices (tcx, or clsact before Linux 6.6) or by nft; the first that the kernel can do when empty")
	f.StringVar(&o.sockets, "sockets", socketsAll, "whose sockets are translated in ebpf mode: all, or those of the node's own network namespace only (node): what pods send is then translated at their links")
	f.StringArrayVar(&o.socketOptOut, "socket-opt-out", []string{optOut}, "labels of pods whose sockets are left as they are in ebpf mode, as service meshes want it; what they send is translated at their links. It can be given several times")
	o.netnsDir = netnsDir
	f.BoolVar(&o.countPackets, "count-packets", false, "where packets are translated by nftables, count those of each service, and their bytes, which costs each packet something; programs always count theirs")
	f.StringVar(&o.podRedirect, "pod-redirect", redirectAuto, "how packets from outside that are translated by programs, and those of TCP from other nodes' pods, reach pods of this node: straight (peer), by the node's stack with its filters (stack), or straight where nothing on the node would miss them (auto)")
	f.StringVar(&o.pinDir, "pin-dir", "/sys/fs/bpf/orlop", "folder for pinned BPF links and maps")
	f.StringVar(&o.healthz, "healthz-bind-address", ":10256", "address of /healthz and /livez for balancers, as kube-proxy has it; while somebody else has it, it is told and tried again; not served when empty")
	f.StringVar(&o.probes, "probe-bind-address", "127.0.0.1:10253", "address of /healthz and /livez for this node's kubelet, which no other proxy has; not served when empty")
	f.StringVar(&o.metrics, "metrics-bind-address", "127.0.0.1:10249", "address of /metrics and /proxyMode, as kube-proxy has it; while somebody else has it, it is told and tried again; not served when empty")
	f.StringVar(&o.binary, "cni-binary", "/opt/orlop/orlop-cni", "CNI plugin to install")
	f.StringVar(&o.binDir, "cni-bin-dir", "", "folder of CNI plugins; the first that the runtime looks in, as it says or its configuration does, or /opt/cni/bin, when empty")
	f.StringVar(&o.confDir, "cni-conf-dir", "", "folder of CNI configurations; that of the runtime, as it says or its configuration does, or /etc/cni/net.d, when empty")
	f.StringVar(&o.runtime, "runtime-endpoint", "", "CRI socket of the runtime, asked for its CNI folders; containerd's or CRI-O's usual one, where it is seen, when empty")
	o.files, o.inPod = "/", os.Getenv("KUBERNETES_SERVICE_HOST") != ""
	f.StringVar(&o.stateDir, "cni-state-dir", "/var/lib/cni/orlop", "folder of the CNI plugin's leases")
	f.StringVar(&o.dataDir, "data-dir", "/var/lib/orlop-agent", "folder of what the agent keeps over a reboot")
	f.StringVar(&o.runDir, "run-dir", "/run/orlop", "folder of the lock that keeps a second agent waiting")
	f.StringVar(&o.bridge, "bridge", "orlop0", "bridge that pods hang on")
	overlay := routes.DefaultOverlay()
	f.StringVar(&o.overlayWhen, "overlay", string(overlay.When), "when packets to another node's pods go over VXLAN: auto (where a router lies between), always (also on a shared link, as clouds want it that drop what is not from a node's own address) or never (routers know the pods' ranges)")
	f.Uint32Var(&o.vni, "vxlan-vni", overlay.VNI, "VXLAN network identifier, the same on all nodes")
	f.Uint16Var(&o.vxlanPort, "vxlan-port", overlay.Port, "UDP port of VXLAN, the same on all nodes")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log decisions, too")
	cmd.AddCommand(localPath(), limitsCommand(), uninstallCommand(&o), mountsCommand(&o), servicesCommand(&o))
	cmd.AddCommand(&cobra.Command{
		Use: "routes", Short: "Show the routes to other nodes' pods: which are wanted, which are there, and why", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return explainRoutes(cmd.Context(), o, cmd.OutOrStdout()) },
	})
	return cmd
}

// small runs what waits most of the time, in as little memory as that needs; $GOGC says otherwise.
func small(ctx context.Context, run func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	var pace sync.WaitGroup
	if os.Getenv("GOGC") == "" {
		c := memory.Waiting(32 << 20) // its start reads all Services, and would collect garbage for a sixth of it
		c.Calm = 20                   // most of what it holds are Services, which change seldom
		pace.Go(func() { memory.Pace(ctx, c) })
	}
	err := run(ctx)
	stop()
	pace.Wait()
	return err
}

// prepare reads the configuration file, if there is one, into the options, and returns the log.
func (o *options) prepare(file string, given func(flag string) bool) (*slog.Logger, error) {
	var lost []string
	if file != "" {
		c, err := readKubeProxy(file)
		if err != nil {
			return nil, err
		}
		if lost, err = o.configure(c, given); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if o.config.jsonLog {
		log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	}
	if len(lost) > 0 {
		log.Warn("the file of --config goes before these flags", "ignored", lost)
	}
	return log, nil
}

func uninstallCommand(o *options) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Remove from this node all that the agent and its CNI plugin made", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return uninstall(cmd.Context(), *o, dry, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be removed, and remove nothing")
	return cmd
}

func (o options) overlay() routes.Overlay {
	return routes.Overlay{When: routes.When(o.overlayWhen), VNI: o.vni, Port: o.vxlanPort}
}

func prefixes(from string, list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", from, err)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
