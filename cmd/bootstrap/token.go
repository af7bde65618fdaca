package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

const (
	joinGroup       = "system:bootstrappers:kubeadm:default-node-token"
	defaultTokenTTL = 24 * time.Hour
)

// tokenSecret is the Secret that makes token valid until expires; a zero time
// means forever.
func tokenSecret(token, description string, expires time.Time) *corev1.Secret {
	id, secret, _ := strings.Cut(token, ".")
	s := &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: bootstraputil.BootstrapTokenSecretName(id), Namespace: metav1.NamespaceSystem},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(id),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(secret),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenUsageSigningKey:     []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(joinGroup),
		},
	}
	if description != "" {
		s.Data[bootstrapapi.BootstrapTokenDescriptionKey] = []byte(description)
	}
	if !expires.IsZero() {
		s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(expires.UTC().Format(time.RFC3339))
	}
	return s
}

// joinLine is what to run on a host so that it joins.
func joinLine(server, token, pin string) string {
	return fmt.Sprintf("orlop join %s --token %s --discovery-token-ca-cert-hash %s", server, token, pin)
}

func tokenCommand() *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{Use: "token", Short: "Manage the tokens that nodes join with"}
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "/etc/kubernetes/admin.conf", "kubeconfig of a cluster administrator")
	client := func() (kubernetes.Interface, *clientInfo, error) { return loadClient(kubeconfig) }
	cmd.AddCommand(tokenCreateCommand(client), tokenListCommand(client), tokenDeleteCommand(client), tokenGenerateCommand())
	return cmd
}

// clientInfo is what a join line needs of a kubeconfig.
type clientInfo struct {
	server string // host:port
	pin    string
}

func loadClient(kubeconfig string) (kubernetes.Interface, *clientInfo, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", kubeconfig, err)
	}
	cert, err := parseCert(cfg.CAData)
	if err != nil {
		return nil, nil, fmt.Errorf("authority in %s: %w", kubeconfig, err)
	}
	u, err := url.Parse(cfg.Host)
	if err != nil {
		return nil, nil, fmt.Errorf("server in %s: %w", kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	return client, &clientInfo{server: u.Host, pin: pinOf(cert)}, err
}

type clientFunc func() (kubernetes.Interface, *clientInfo, error)

func tokenCreateCommand(connect clientFunc) *cobra.Command {
	var ttl time.Duration
	var printJoin bool
	var description string
	cmd := &cobra.Command{
		Use:   "create [TOKEN]",
		Short: "Create a token, valid for --ttl, and print it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := tokenFrom(args)
			if err != nil {
				return err
			}
			client, info, err := connect()
			if err != nil {
				return err
			}
			if err := createToken(cmd.Context(), client, token, description, ttl); err != nil {
				return err
			}
			if printJoin {
				token = joinLine(info.server, token, info.pin)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", defaultTokenTTL, "how long the token is valid; 0 means forever")
	cmd.Flags().BoolVar(&printJoin, "print-join-command", false, "print the whole `orlop join` line instead of the token alone")
	cmd.Flags().StringVar(&description, "description", "", "what the token is for")
	return cmd
}

func tokenFrom(args []string) (string, error) {
	if len(args) == 0 {
		return bootstraputil.GenerateBootstrapToken()
	}
	if !bootstraputil.IsValidBootstrapToken(args[0]) {
		return "", &ExitError{Code: 2, Err: errors.New("the token must have the form [a-z0-9]{6}.[a-z0-9]{16}")}
	}
	return args[0], nil
}

func createToken(ctx context.Context, client kubernetes.Interface, token, description string, ttl time.Duration) error {
	if ttl < 0 {
		return &ExitError{Code: 2, Err: fmt.Errorf("--ttl %s is negative", ttl)}
	}
	var expires time.Time
	if ttl > 0 {
		expires = time.Now().Add(ttl)
	}
	secret := tokenSecret(token, description, expires)
	_, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("a token with the ID %s exists already: see `orlop token list`", token[:6])
	}
	if err != nil {
		return fmt.Errorf("create secret %s: %w", secret.Name, err)
	}
	return nil
}

func tokenListCommand(connect clientFunc) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := connect()
			if err != nil {
				return err
			}
			secrets, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(cmd.Context(), metav1.ListOptions{
				FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken),
			})
			if err != nil {
				return fmt.Errorf("list tokens: %w", err)
			}
			return printTokens(cmd.OutOrStdout(), secrets.Items, time.Now())
		},
	}
}

func printTokens(out io.Writer, secrets []corev1.Secret, now time.Time) error {
	sort.Slice(secrets, func(i, j int) bool { return secrets[i].Name < secrets[j].Name })
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
	for _, s := range secrets {
		value := func(key string) string { return string(s.Data[key]) }
		ttl, expires := "<forever>", "<never>"
		if at, err := time.Parse(time.RFC3339, value(bootstrapapi.BootstrapTokenExpirationKey)); err == nil {
			expires = at.Format(time.RFC3339)
			if ttl = "<invalid>"; at.After(now) {
				ttl = duration.ShortHumanDuration(at.Sub(now))
			}
		}
		var usages []string
		for _, usage := range []string{"authentication", "signing"} {
			if value(bootstrapapi.BootstrapTokenUsagePrefix+usage) == "true" {
				usages = append(usages, usage)
			}
		}
		token := value(bootstrapapi.BootstrapTokenIDKey) + "." + value(bootstrapapi.BootstrapTokenSecretKey)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", token, ttl, expires, orNone(strings.Join(usages, ",")),
			orNone(value(bootstrapapi.BootstrapTokenDescriptionKey)), orNone(value(bootstrapapi.BootstrapTokenExtraGroupsKey)))
	}
	return w.Flush()
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func tokenDeleteCommand(connect clientFunc) *cobra.Command {
	return &cobra.Command{
		Use:   "delete TOKEN-OR-ID ...",
		Short: "Delete tokens: nobody can join with them any more",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, _, err := connect()
			if err != nil {
				return err
			}
			for _, arg := range args {
				id, _, _ := strings.Cut(arg, ".")
				if !bootstraputil.IsValidBootstrapTokenID(id) {
					return &ExitError{Code: 2, Err: fmt.Errorf("%q is neither a token nor a token's ID", id)}
				}
				name := bootstraputil.BootstrapTokenSecretName(id)
				if err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(cmd.Context(), name, metav1.DeleteOptions{}); err != nil {
					return fmt.Errorf("delete token %s: %w", id, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "bootstrap token %q deleted\n", id)
			}
			return nil
		},
	}
}

func tokenGenerateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "generate",
		Short: "Print a new random token without creating it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := bootstraputil.GenerateBootstrapToken()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
}

// prefixVar lets a flag hold an address range.
type prefixVar struct{ p *netip.Prefix }

func (v prefixVar) String() string {
	if v.p == nil || !v.p.IsValid() {
		return ""
	}
	return v.p.String()
}

func (v prefixVar) Set(s string) (err error) {
	if strings.Contains(s, ",") {
		// The API server could serve it, but pods have IPv4 addresses alone: Services of the other family would have no endpoints.
		return errors.New("this is a dual-stack cluster's pair of ranges, and the pod network has IPv4 alone: give one IPv4 range")
	}
	*v.p, err = netip.ParsePrefix(s)
	return err
}
func (v prefixVar) Type() string { return "cidr" }

// addrVar lets a flag hold an address.
type addrVar struct{ a *netip.Addr }

func (v addrVar) String() string {
	if v.a == nil || !v.a.IsValid() {
		return ""
	}
	return v.a.String()
}

func (v addrVar) Set(s string) (err error) { *v.a, err = netip.ParseAddr(s); return err }
func (v addrVar) Type() string             { return "ip" }
