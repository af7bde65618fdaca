package elected

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// Config is what both programs take on their command lines.
type Config struct {
	// Name is the program's, in the user agent and the default Lease.
	Name string
	// Kubeconfig names the file with address and credentials; empty means the pod's service account.
	Kubeconfig string
	// Master overrides the kubeconfig's server.
	Master string
	// AuthenticationKubeconfig and AuthorizationKubeconfig are whose credentials review the
	// tokens and rights of those who ask for /metrics; empty means Kubeconfig.
	AuthenticationKubeconfig, AuthorizationKubeconfig string
	// ClientCAFile holds the CA whose client certificates are believed; empty believes none.
	ClientCAFile string
	// BindAddress and SecurePort are where health and metrics are served; port 0 serves nothing.
	BindAddress string
	SecurePort  int
	// CertFile and KeyFile are the serving certificate; both empty makes one in memory.
	CertFile, KeyFile string
	// LeaderElect off means that this is the only copy.
	LeaderElect bool
	// LeaseNamespace and LeaseName say which Lease decides.
	LeaseNamespace, LeaseName string
	// LeaseDuration is how long others wait for a silent leader; RenewDeadline how long a
	// leader tries before it gives up, shorter; RetryPeriod the pause between tries, shorter still.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	// QPS and Burst bound the requests per second.
	QPS   float32
	Burst int
	// Room, in bytes, is how far the heap may grow while the program is busy before garbage is collected; little costs time.
	Room uint64
	// Verbosity above 1 logs decisions too.
	Verbosity int
}

// AddFlags binds upstream's flags to cfg, with its present values as defaults.
func (cfg *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&cfg.Kubeconfig, "kubeconfig", cfg.Kubeconfig, "file with the API server's address and credentials")
	fs.StringVar(&cfg.Master, "master", cfg.Master, "address of the API server, over the kubeconfig's")
	fs.StringVar(&cfg.AuthenticationKubeconfig, "authentication-kubeconfig", "", "kubeconfig for TokenReviews of callers of /metrics")
	fs.StringVar(&cfg.AuthorizationKubeconfig, "authorization-kubeconfig", "", "kubeconfig for SubjectAccessReviews of callers of /metrics")
	fs.StringVar(&cfg.ClientCAFile, "client-ca-file", "", "CA whose client certificates may call /metrics")
	fs.StringVar(&cfg.BindAddress, "bind-address", cfg.BindAddress, "address to serve health and metrics on")
	fs.IntVar(&cfg.SecurePort, "secure-port", cfg.SecurePort, "port to serve health and metrics on with HTTPS; 0 serves nothing")
	fs.StringVar(&cfg.CertFile, "tls-cert-file", "", "serving certificate; without it, one is made in memory")
	fs.StringVar(&cfg.KeyFile, "tls-private-key-file", "", "key of the serving certificate")
	fs.BoolVar(&cfg.LeaderElect, "leader-elect", cfg.LeaderElect, "work only while holding the Lease")
	fs.DurationVar(&cfg.LeaseDuration, "leader-elect-lease-duration", cfg.LeaseDuration, "how long others wait for a silent leader")
	fs.DurationVar(&cfg.RenewDeadline, "leader-elect-renew-deadline", cfg.RenewDeadline, "how long a leader tries to renew before it gives up")
	fs.DurationVar(&cfg.RetryPeriod, "leader-elect-retry-period", cfg.RetryPeriod, "pause between tries to take or renew the Lease")
	fs.StringVar(&cfg.LeaseName, "leader-elect-resource-name", cfg.LeaseName, "name of the Lease")
	fs.StringVar(&cfg.LeaseNamespace, "leader-elect-resource-namespace", cfg.LeaseNamespace, "namespace of the Lease")
	fs.Float32Var(&cfg.QPS, "kube-api-qps", cfg.QPS, "requests per second to the API server")
	fs.IntVar(&cfg.Burst, "kube-api-burst", cfg.Burst, "requests at once to the API server")
	fs.IntVarP(&cfg.Verbosity, "v", "v", cfg.Verbosity, "log level; above 1 shows decisions")
}

// Defaults returns upstream's defaults for the program called name, which serves on port.
func Defaults(name string, port int) Config {
	return Config{
		Name: name, BindAddress: "0.0.0.0", SecurePort: port,
		LeaderElect: true, LeaseNamespace: "kube-system", LeaseName: name,
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		QPS: 200, Burst: 400, Room: 64 << 20,
	}
}

func (cfg Config) validate() error {
	var errs []error
	if cfg.SecurePort < 0 || cfg.SecurePort > 65535 {
		errs = append(errs, fmt.Errorf("--secure-port %d is not a port", cfg.SecurePort))
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		errs = append(errs, errors.New("--tls-cert-file and --tls-private-key-file go together"))
	}
	if cfg.LeaderElect && (cfg.LeaseDuration <= cfg.RenewDeadline || cfg.RenewDeadline <= cfg.RetryPeriod) {
		errs = append(errs, errors.New("lease duration must exceed renew deadline, and that the retry period"))
	}
	return errors.Join(errs...)
}
