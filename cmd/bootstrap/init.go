package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

const defaultImageRepository = "localhost"

// initOptions are the flags that are not part of the cluster's config.
type initOptions struct {
	ignore         []string
	dryRun         bool
	skipTokenPrint bool
	timeout        time.Duration
}

func initCommand(version string) *cobra.Command {
	c := Config{Version: version}
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make this host the control plane of a new cluster",
		Long: `Make this host the control plane of a new cluster: certificates, kubeconfigs, the
static pods of etcd, API server, controller manager and scheduler, the kubelet
that runs them, and the objects that let others join. Files and names are kubeadm's.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Token == "" {
				c.Token = os.Getenv(tokenVariable)
			}
			if err := c.Validate(); err != nil {
				return &ExitError{Code: 2, Err: err}
			}
			if c.Token == "" {
				token, err := bootstraputil.GenerateBootstrapToken()
				if err != nil {
					return err
				}
				c.Token = token
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), o.timeout, fmt.Errorf("not within --timeout %s", o.timeout))
			defer cancel()
			return runInit(ctx, cmd.OutOrStdout(), c, o)
		},
	}
	c.PodCIDR.UnmarshalText([]byte("10.244.0.0/16"))
	c.ServiceCIDR.UnmarshalText([]byte("10.96.0.0/12"))
	c.Address = defaultAddress()
	f := cmd.Flags()
	f.StringVar(&c.NodeName, "node-name", defaultNodeName(), "name of this node")
	f.Var(addrVar{&c.Address}, "apiserver-advertise-address", "address at which other nodes reach this API server")
	f.Uint16Var(&c.Port, "apiserver-bind-port", 6443, "port of the API server")
	f.StringVar(&c.Endpoint, "control-plane-endpoint", "", "host or host:port shared by all API servers, if there is a balancer")
	f.Var(prefixVar{&c.PodCIDR}, "pod-network-cidr", "addresses of pods; each node gets a /24 of it")
	f.Var(prefixVar{&c.ServiceCIDR}, "service-cidr", "virtual addresses of Services")
	f.StringVar(&c.Domain, "service-dns-domain", "cluster.local", "DNS domain of Services")
	f.StringSliceVar(&c.ExtraSANs, "apiserver-cert-extra-sans", nil, "more names and addresses of the API server")
	f.StringVar(&c.ImageRepository, "image-repository", defaultImageRepository, "where the control plane's images are pulled from; localhost means that they are imported from beside this program")
	f.StringVar(&c.CRISocket, "cri-socket", "unix:///run/containerd/containerd.sock", "socket of the container runtime")
	f.StringVar(&c.Token, "token", "", "token for nodes to join with; by default $"+tokenVariable+", else a random one")
	f.DurationVar(&c.TokenTTL, "token-ttl", defaultTokenTTL, "how long the token is valid; 0 means forever")
	f.StringVar(&c.CNI, "cni", ours, "who brings pods' network: orlop, or none for somebody else's plugin; nodes are not ready before it is there")
	f.StringVar(&c.Proxy, "proxy", ours, "who translates services: orlop, or none for kube-proxy or another proxy")
	f.StringVar(&c.ProxyMode, "proxy-mode", "", "how orlop's agent translates services: "+strings.Join(proxyModes(), ", ")+"; the first of them that a node can do when empty")
	f.BoolVar(&c.Untainted, "untainted", false, "let this node run ordinary pods too")
	f.StringSliceVar(&o.ignore, "ignore-preflight-errors", nil, "names of checks whose errors become warnings; all for every check")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would be written, and change nothing")
	f.BoolVar(&o.skipTokenPrint, "skip-token-print", false, "do not print the token")
	f.DurationVar(&o.timeout, "timeout", 4*time.Minute, "give up after this long")
	return cmd
}

func runInit(ctx context.Context, out io.Writer, c Config, o initOptions) error {
	programs, err := programDir()
	if err != nil {
		return err
	}
	if o.dryRun {
		return dryRunInit(out, c, programs)
	}
	p := Paths{}
	say(out, "preflight", "Checking this host")
	if err := preflight(ctx, out, initChecks(p, c, programs), o.ignore); err != nil {
		return err
	}
	if err := ensureImages(ctx, out, c, programs, serverImage); err != nil {
		return err
	}
	cas, err := writeControlPlane(out, p, c, time.Now())
	if err != nil {
		return err
	}
	if err := writeKubelet(p, kubeletConfiguration(c), c.kubelet()); err != nil {
		return err
	}
	if err := startKubelet(ctx, out, filepath.Join(programs, "orlop-kubelet")); err != nil {
		return err
	}
	say(out, "wait-control-plane", "Waiting for the kubelet to start the control plane from "+p.at("/etc/kubernetes/manifests"))
	began := time.Now()
	// Nothing runs the agent before the API server knows of it: its image comes while that starts.
	cfg, err := p.superAdmin()
	if err != nil {
		return err
	}
	starting, startCtx := errgroup.WithContext(ctx)
	starting.Go(func() error { return awaitAPI(startCtx, cfg) })
	starting.Go(func() error { return ensureImages(startCtx, out, c, programs, agentImage) })
	if err := starting.Wait(); err != nil {
		return err
	}
	if err := startCluster(ctx, out, cfg, c, cas["ca"]); err != nil {
		return err
	}
	say(out, "wait-control-plane", fmt.Sprintf("The control plane is up after %.1f s", time.Since(began).Seconds()))
	printNextSteps(out, c, pinOf(cas["ca"].cert), o.skipTokenPrint)
	return nil
}

// writeControlPlane writes all files of the control plane below p and returns
// the authorities.
func writeControlPlane(out io.Writer, p Paths, c Config, now time.Time) (map[string]identity, error) {
	say(out, "certs", "Certificates in "+p.pki(""))
	cas, err := ensurePKI(p, c, now)
	if err != nil {
		return nil, err
	}
	say(out, "encryption", "Key that secrets are encrypted with in "+p.encryption())
	if err := ensureEncryption(p, now); err != nil {
		return nil, err
	}
	say(out, "kubeconfig", "Kubeconfigs in "+p.kubernetes(""))
	if err := ensureKubeconfigs(p, c, cas["ca"], now); err != nil {
		return nil, err
	}
	say(out, "control-plane", "Static pods in "+p.at("/etc/kubernetes/manifests"))
	pods, err := staticPods(c)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.at(hostEtcd), 0o700); err != nil {
		return nil, err
	}
	for name, content := range pods {
		if err := writeFile(p.manifest(name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return cas, nil
}

func (c Config) kubelet() nodeKubelet {
	return nodeKubelet{name: c.NodeName, ip: c.Address.String(), criSocket: c.CRISocket, systemd: systemdRuns(), taint: !c.Untainted}
}

// superAdmin is how init itself reaches the API server.
func (p Paths) superAdmin() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", p.kubernetes("super-admin.conf"))
	if err != nil {
		return nil, err
	}
	// The objects go out side by side; the client's own brake would queue them.
	cfg.QPS, cfg.Burst = 200, 200
	return cfg, nil
}

// awaitAPI waits for the API server. What the kubelet says is the better reason when it is not
// even up.
func awaitAPI(ctx context.Context, cfg *rest.Config) error {
	if err := waitReady(ctx, cfg); err != nil {
		return errors.Join(err, kubeletTrouble())
	}
	return nil
}

// startCluster gives the API server the cluster's objects.
func startCluster(ctx context.Context, out io.Writer, cfg *rest.Config, c Config, ca identity) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	objs, err := clusterObjects(c, ca.certPEM(), time.Now())
	if err != nil {
		return err
	}
	say(out, "addon", fmt.Sprintf("Applying %d objects: rights of nodes, bootstrap token, node agent, cluster DNS", len(objs)))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return applyAll(ctx, dyn, objs) })
	group.Go(func() error { return markControlPlane(ctx, client, c) })
	return group.Wait()
}

func kubeletTrouble() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 100*time.Millisecond, errors.New("now"))
	defer cancel()
	return waitKubelet(ctx)
}

// waitReady waits for the API server's /readyz.
func waitReady(ctx context.Context, cfg *rest.Config) error {
	transport, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	return waitFor(ctx, 50*time.Millisecond, "API server at "+cfg.Host, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.Host+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := transport.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz answers %s", resp.Status)
		}
		return nil
	})
}

func printNextSteps(out io.Writer, c Config, pin string, hideToken bool) {
	token := c.Token
	if hideToken {
		token = "<token>"
	}
	fmt.Fprintf(out, `
Your control plane has started.

To use it as an ordinary user:

  mkdir -p $HOME/.kube
  sudo cp -i /etc/kubernetes/admin.conf $HOME/.kube/config
  sudo chown $(id -u):$(id -g) $HOME/.kube/config

The pod network, the service proxy and cluster DNS are part of the cluster already.

To add a node, run on it as root:

  %s
`, joinLine(c.server()[len("https://"):], token, pin))
}

// dryRunInit writes everything into a folder that it removes again, and prints
// what has no secrets in it.
func dryRunInit(out io.Writer, c Config, programs string) error {
	dir, err := os.MkdirTemp("", "orlop-dry-run-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p := Paths{Root: dir}
	cas, err := writeControlPlane(io.Discard, p, c, time.Now())
	if err != nil {
		return err
	}
	if err := writeKubelet(p, kubeletConfiguration(c), c.kubelet()); err != nil {
		return err
	}
	say(out, "dry-run", "Would write certificates and keys to "+hostPKI+" and "+hostEncryption+", kubeconfigs to /etc/kubernetes, and:")
	pods, err := staticPods(c)
	if err != nil {
		return err
	}
	files := map[string][]byte{unitPath: []byte(unit(filepath.Join(programs, "orlop-kubelet")))}
	for name, content := range pods {
		files[Paths{}.manifest(name)] = content
	}
	for _, name := range []string{"config.yaml", "kubeadm-flags.env"} {
		if files[Paths{}.kubelet(name)], err = os.ReadFile(p.kubelet(name)); err != nil {
			return err
		}
	}
	printFiles(out, files)
	objs, err := clusterObjects(c, cas["ca"].certPEM(), time.Now())
	if err != nil {
		return err
	}
	say(out, "dry-run", "Would apply these objects:")
	for _, o := range objs {
		fmt.Fprintf(out, "  %s %s\n", o.GetKind(), filepath.Join(o.GetNamespace(), o.GetName()))
	}
	return nil
}

func printFiles(out io.Writer, files map[string][]byte) {
	var paths []string
	for path := range files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for _, path := range paths {
		fmt.Fprintf(out, "--- %s\n%s", path, files[path])
	}
}

// programDir is the folder this program lies in; the other programs and the
// images lie beside it.
func programDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's folder: %w", err)
	}
	return filepath.Dir(self), nil
}
