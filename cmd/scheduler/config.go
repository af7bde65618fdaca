package scheduler

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cmd/elected"
)

// Config is what a Scheduler is told beyond the cluster.
type Config struct {
	// Profiles are by schedulerName; pods of other names are left to others.
	Profiles map[string]*Profile
	// FirstBackoff and LastBackoff bound the pause before a pod is tried again, which doubles.
	FirstBackoff, LastBackoff time.Duration
}

// Defaults are upstream's: the one profile of default-scheduler.
func Defaults() Config {
	p := DefaultProfile(corev1.DefaultSchedulerName)
	return Config{Profiles: map[string]*Profile{p.Name: p}, FirstBackoff: time.Second, LastBackoff: 10 * time.Second}
}

// readConfig reads a KubeSchedulerConfiguration.
func readConfig(path string) (*configv1.KubeSchedulerConfiguration, Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, Config{}, fmt.Errorf("read configuration: %w", err)
	}
	file, cfg, err := parseConfig(text)
	if err != nil {
		return nil, Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return file, cfg, nil
}

// parseConfig is strict: a field that nothing here reads is refused by its name.
func parseConfig(text []byte) (*configv1.KubeSchedulerConfiguration, Config, error) {
	var file configv1.KubeSchedulerConfiguration
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, Config{}, err
	}
	if file.APIVersion != configv1.SchemeGroupVersion.String() || file.Kind != "KubeSchedulerConfiguration" {
		return nil, Config{}, fmt.Errorf("no kind %q is registered for version %q; want KubeSchedulerConfiguration of %s", file.Kind, file.APIVersion, configv1.SchemeGroupVersion)
	}
	cfg := Defaults()
	cfg.FirstBackoff = time.Duration(ptr.Deref(file.PodInitialBackoffSeconds, 1)) * time.Second
	cfg.LastBackoff = time.Duration(ptr.Deref(file.PodMaxBackoffSeconds, 10)) * time.Second
	errs := checkFile(&file, cfg)
	if len(file.Profiles) == 0 {
		file.Profiles = []configv1.KubeSchedulerProfile{{}}
	}
	cfg.Profiles = map[string]*Profile{}
	for i := range file.Profiles {
		path := field.NewPath("profiles").Index(i)
		name := ptr.Deref(file.Profiles[i].SchedulerName, "")
		switch {
		case name == "" && len(file.Profiles) > 1:
			errs = append(errs, field.Required(path.Child("schedulerName"), ""))
			continue
		case name == "":
			name = corev1.DefaultSchedulerName
		case cfg.Profiles[name] != nil:
			errs = append(errs, field.Duplicate(path.Child("schedulerName"), name))
		}
		p, problems := profileOf(name, &file.Profiles[i], path)
		if file.Profiles[i].PercentageOfNodesToScore == nil {
			p.percentage = int(ptr.Deref(file.PercentageOfNodesToScore, 0))
		}
		cfg.Profiles[name], errs = p, append(errs, problems...)
	}
	return &file, cfg, errs.ToAggregate()
}

// checkFile looks at what is beside the profiles.
func checkFile(file *configv1.KubeSchedulerConfiguration, cfg Config) (errs field.ErrorList) {
	if p := file.Parallelism; p != nil && *p <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("parallelism"), *p, "should be an integer value greater than zero"))
	}
	if cfg.FirstBackoff <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), *file.PodInitialBackoffSeconds, "must be greater than 0"))
	}
	if cfg.LastBackoff < cfg.FirstBackoff {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), int64(cfg.LastBackoff/time.Second), "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	errs = append(errs, checkPercentage(file.PercentageOfNodesToScore, field.NewPath("percentageOfNodesToScore"))...)
	unsupported := func(there bool, path ...string) {
		if there {
			errs = append(errs, field.Forbidden(field.NewPath(path[0], path[1:]...), "not supported by this scheduler"))
		}
	}
	unsupported(len(file.Extenders) > 0, "extenders")
	unsupported(ptr.Deref(file.EnableProfiling, false), "enableProfiling")
	unsupported(ptr.Deref(file.EnableContentionProfiling, false), "enableContentionProfiling")
	unsupported(cmp.Or(file.LeaderElection.ResourceLock, "leases") != "leases", "leaderElection", "resourceLock")
	unsupported(file.ClientConnection.ContentType != "" || file.ClientConnection.AcceptContentTypes != "", "clientConnection", "contentType")
	return errs
}

func checkPercentage(n *int32, path *field.Path) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(path, *n, "not in valid range [0-100]")}
	}
	return nil
}

// apply puts what the file says of leases and the client into e, but for what flags said too.
func apply(file *configv1.KubeSchedulerConfiguration, e *elected.Config, flagged func(name string) bool) {
	le, cc := file.LeaderElection, file.ClientConnection
	setUnless := func(flag string, there bool, set func()) {
		if there && !flagged(flag) {
			set()
		}
	}
	setUnless("leader-elect", le.LeaderElect != nil, func() { e.LeaderElect = *le.LeaderElect })
	setUnless("leader-elect-lease-duration", le.LeaseDuration.Duration > 0, func() { e.LeaseDuration = le.LeaseDuration.Duration })
	setUnless("leader-elect-renew-deadline", le.RenewDeadline.Duration > 0, func() { e.RenewDeadline = le.RenewDeadline.Duration })
	setUnless("leader-elect-retry-period", le.RetryPeriod.Duration > 0, func() { e.RetryPeriod = le.RetryPeriod.Duration })
	setUnless("leader-elect-resource-name", le.ResourceName != "", func() { e.LeaseName = le.ResourceName })
	setUnless("leader-elect-resource-namespace", le.ResourceNamespace != "", func() { e.LeaseNamespace = le.ResourceNamespace })
	setUnless("kubeconfig", cc.Kubeconfig != "", func() { e.Kubeconfig = cc.Kubeconfig })
	setUnless("kube-api-qps", cc.QPS > 0, func() { e.QPS = cc.QPS })
	setUnless("kube-api-burst", cc.Burst > 0, func() { e.Burst = int(cc.Burst) })
}

// strictly reads a plugin's arguments.
func strictly[T any](raw []byte, kind string) (*T, error) {
	var meta struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(raw, &meta); err != nil {
		return nil, err
	}
	if meta.Kind != "" && meta.Kind != kind {
		return nil, fmt.Errorf("args were not of type %s, got %s", kind, meta.Kind)
	}
	if meta.APIVersion != "" && meta.APIVersion != configv1.SchemeGroupVersion.String() {
		return nil, errors.New("args are of version " + meta.APIVersion)
	}
	args := new(T)
	return args, yaml.UnmarshalStrict(raw, args)
}
