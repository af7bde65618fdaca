package bootstrap

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// joinConfig is what `orlop join` joins with.
type joinConfig struct {
	server    string // host:port of an API server
	nodeName  string
	address   netip.Addr
	token     string
	pins      []string
	unsafe    bool // trust any authority that signs with the token
	criSocket string
	ignore    []string
	timeout   time.Duration
	dryRun    bool
	version   string
	images    string
}

func joinCommand(version string) *cobra.Command {
	j := joinConfig{version: version}
	cmd := &cobra.Command{
		Use:   "join HOST:PORT",
		Short: "Make this host a node of an existing cluster",
		Long: `Make this host a node of an existing cluster. The cluster is known by its
authority's pin, this host by the token; "orlop token create --print-join-command"
on the control plane prints the whole line.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			j.server = args[0]
			if j.token == "" {
				j.token = os.Getenv(tokenVariable)
			}
			if err := j.validate(); err != nil {
				return &ExitError{Code: 2, Err: err}
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), j.timeout, fmt.Errorf("not within --timeout %s", j.timeout))
			defer cancel()
			return runJoin(ctx, cmd.OutOrStdout(), j)
		},
	}
	j.address = defaultAddress()
	f := cmd.Flags()
	f.StringVar(&j.nodeName, "node-name", defaultNodeName(), "name of this node")
	f.Var(addrVar{&j.address}, "node-ip", "address of this node, as other nodes see it")
	f.StringVar(&j.token, "token", "", "token of `orlop token create`; by default $"+tokenVariable)
	f.StringSliceVar(&j.pins, "discovery-token-ca-cert-hash", nil, "pin of the cluster's authority, as sha256:HEX; may be given more than once")
	f.BoolVar(&j.unsafe, "discovery-token-unsafe-skip-ca-verification", false, "trust any authority that knows the token")
	f.StringVar(&j.criSocket, "cri-socket", "unix:///run/containerd/containerd.sock", "socket of the container runtime")
	f.StringVar(&j.images, "image-repository", defaultImageRepository, "where images are pulled from; localhost means that they are imported from beside this program")
	f.StringSliceVar(&j.ignore, "ignore-preflight-errors", nil, "names of checks whose errors become warnings; all for every check")
	f.DurationVar(&j.timeout, "timeout", 5*time.Minute, "give up after this long")
	f.BoolVar(&j.dryRun, "dry-run", false, "print what would be written, and change nothing")
	return cmd
}

func (j joinConfig) validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(j.server); err != nil {
		errs = append(errs, fmt.Errorf("%q: want HOST:PORT of the API server", j.server))
	}
	if !bootstraputil.IsValidBootstrapToken(j.token) {
		errs = append(errs, errors.New("--token: want the form [a-z0-9]{6}.[a-z0-9]{16}"))
	}
	if len(j.pins) == 0 && !j.unsafe {
		errs = append(errs, errors.New("--discovery-token-ca-cert-hash is required: without it anybody who learned the token could pose as the cluster"))
	}
	if !j.address.IsValid() || j.address.IsLoopback() {
		errs = append(errs, fmt.Errorf("--node-ip %s: want an address that other nodes can reach", j.address))
	}
	return errors.Join(errs...)
}

func runJoin(ctx context.Context, out io.Writer, j joinConfig) error {
	programs, err := programDir()
	if err != nil {
		return err
	}
	program := filepath.Join(programs, "orlop-kubelet")
	if j.dryRun {
		printFiles(out, map[string][]byte{unitPath: []byte(unit(program))})
		say(out, "dry-run", "Would write /etc/kubernetes/{pki/ca.crt,bootstrap-kubelet.conf} and /var/lib/kubelet/{config.yaml,kubeadm-flags.env} from what "+j.server+" says")
		return nil
	}
	p := Paths{}
	say(out, "preflight", "Checking this host")
	if err := preflight(ctx, out, joinChecks(p, j.criSocket, programs), j.ignore); err != nil {
		return err
	}
	if err := ensureImages(ctx, out, Config{ImageRepository: j.images, Version: j.version, CRISocket: j.criSocket}, programs, serverImage, agentImage); err != nil {
		return err
	}
	say(out, "discovery", "Asking "+j.server+" who it is")
	cluster, err := discover(ctx, j)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: cluster.Server, BearerToken: j.token, TLSClientConfig: rest.TLSClientConfig{CAData: cluster.CertificateAuthorityData},
	})
	if err != nil {
		return err
	}
	shared, err := fetchKubeletConfiguration(ctx, client)
	if err != nil {
		return err
	}
	user := "tls-bootstrap-token-user"
	auth := &clientcmdapi.AuthInfo{Token: j.token}
	if err := writeFile(p.pki("ca.crt"), cluster.CertificateAuthorityData, 0o644); err != nil {
		return err
	}
	if err := writeKubeconfig(p.kubernetes("bootstrap-kubelet.conf"), cluster.Server, cluster.CertificateAuthorityData, user, auth); err != nil {
		return err
	}
	node := nodeKubelet{name: j.nodeName, ip: j.address.String(), criSocket: j.criSocket, systemd: systemdRuns()}
	if err := writeKubelet(p, shared, node); err != nil {
		return err
	}
	if err := startKubelet(ctx, out, program); err != nil {
		return err
	}
	say(out, "kubelet-start", "Waiting for the kubelet to get its certificate")
	if err := waitFor(ctx, 50*time.Millisecond, "kubelet to write "+p.kubernetes("kubelet.conf"), func(context.Context) error {
		if !fileExists(p.kubernetes("kubelet.conf")) {
			return errors.Join(errors.New("no certificate yet: see `kubectl get csr` on the control plane"), kubeletTrouble())
		}
		return nil
	}); err != nil {
		return err
	}
	// The kubelet has a certificate of its own now; the token is a secret too many.
	if err := os.Remove(p.kubernetes("bootstrap-kubelet.conf")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Fprintf(out, "\nThis node has joined the cluster.\n\nRun 'kubectl get nodes' on the control plane to see it.\n")
	return nil
}

// discover learns the cluster's address and authority. The first answer comes
// over a connection that is not verified; it is believed only if it is signed
// with the token and its authority has a wanted pin. A second one, over a
// verified connection, must say the same.
func discover(ctx context.Context, j joinConfig) (*clientcmdapi.Cluster, error) {
	first, err := clusterInfo(ctx, j, rest.TLSClientConfig{Insecure: true})
	if err != nil {
		return nil, err
	}
	if err := checkPins(first.CertificateAuthorityData, j); err != nil {
		return nil, err
	}
	second, err := clusterInfo(ctx, j, rest.TLSClientConfig{CAData: first.CertificateAuthorityData})
	if err != nil {
		return nil, err
	}
	if second.Server != first.Server || string(second.CertificateAuthorityData) != string(first.CertificateAuthorityData) {
		return nil, errors.New("the cluster's answer changed between two questions: somebody stands between this host and the API server")
	}
	return second, nil
}

func clusterInfo(ctx context.Context, j joinConfig, tls rest.TLSClientConfig) (*clientcmdapi.Cluster, error) {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://" + j.server, TLSClientConfig: tls})
	if err != nil {
		return nil, err
	}
	id, secret := j.token[:6], j.token[7:]
	var cluster *clientcmdapi.Cluster
	// The signature appears some moments after the token was made.
	err = waitFor(ctx, 200*time.Millisecond, "ConfigMap kube-public/cluster-info signed with token "+id, func(ctx context.Context) error {
		cm, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
		if err != nil {
			return err
		}
		content := cm.Data[bootstrapapi.KubeConfigKey]
		signature := cm.Data[bootstrapapi.JWSSignatureKeyPrefix+id]
		if signature == "" {
			return errors.New("it has no signature by this token: is the token right, and not expired?")
		}
		if !jws.DetachedTokenIsValid(signature, content, id, secret) {
			return errors.New("its signature is not by this token: is the token's second part right?")
		}
		cfg, err := clientcmd.Load([]byte(content))
		if err != nil {
			return err
		}
		for _, c := range cfg.Clusters {
			cluster = c
			return nil
		}
		return errors.New("it names no cluster")
	})
	return cluster, err
}

func checkPins(ca []byte, j joinConfig) error {
	if j.unsafe && len(j.pins) == 0 {
		return nil
	}
	var have []string
	for block, rest := pem.Decode(ca); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("authority of %s: %w", j.server, err)
		}
		if slices.Contains(j.pins, pinOf(cert)) {
			return nil
		}
		have = append(have, pinOf(cert))
	}
	return fmt.Errorf("the authority of %s has the pin %v, not %v: wrong cluster, or somebody poses as it", j.server, have, j.pins)
}

func fetchKubeletConfiguration(ctx context.Context, client kubernetes.Interface) (*kubeletconfig.KubeletConfiguration, error) {
	cfg := &kubeletconfig.KubeletConfiguration{}
	err := waitFor(ctx, 200*time.Millisecond, "ConfigMap kube-system/kubelet-config", func(ctx context.Context) error {
		cm, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kubelet-config", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return yaml.UnmarshalStrict([]byte(cm.Data["kubelet"]), cfg)
	})
	return cfg, err
}
