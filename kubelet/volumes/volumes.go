// Package volumes makes the directories that pods mount.
//
// It owns <PodsDir>/<pod UID>: the volumes under volumes/kubernetes.io~<kind>/<name>, in upstream's layout, and the
// places of subPaths. It keeps no record of its own: what is mounted is read from the kernel, so a kubelet that starts
// anew goes on where the last one stopped. Image volumes are not its matter; the container runtime mounts them.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	authv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// source gives the API objects that volumes are made of; Objects is one. An absent object is an error that
// apierrors.IsNotFound knows.
type source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	Claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error)
	Volume(ctx context.Context, name string) (*v1.PersistentVolume, error)
	Token(ctx context.Context, namespace, account string, req *authv1.TokenRequest) (*authv1.TokenRequest, error)
	TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error)
	// RequestCertificate creates a request in the node's name; CertificateRequest waits until it is decided.
	RequestCertificate(ctx context.Context, req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error)
	CertificateRequest(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error)
}

// Config says where volumes are made and of what.
type Config struct {
	// PodsDir holds one directory for each pod, normally /var/lib/kubelet/pods. Required, absolute.
	PodsDir string
	// Source gives the API objects. Required; without an API server its methods return errors.
	Source source
	// Now tells the time for the age of tokens; nil is time.Now.
	Now func() time.Time
	// Log is told what an operator would want to know. Required.
	Log *slog.Logger
}

// Volumes makes and removes pods' volumes. Its methods may be called at the same time for different pods, but not
// for the same one.
type Volumes struct {
	cfg Config

	mu           sync.Mutex
	tokens       map[tokenKey]token
	certificates map[certificateKey]*issuing
}

// New checks cfg and touches nothing.
func New(cfg Config) (*Volumes, error) {
	var errs []error
	if !filepath.IsAbs(cfg.PodsDir) {
		errs = append(errs, fmt.Errorf("pods directory %q: want an absolute path", cfg.PodsDir))
	}
	if cfg.Source == nil {
		errs = append(errs, errors.New("no source of API objects"))
	}
	if cfg.Log == nil {
		errs = append(errs, errors.New("no log"))
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Volumes{cfg: cfg, tokens: map[tokenKey]token{}, certificates: map[certificateKey]*issuing{}}, errors.Join(errs...)
}

// Inputs is what volumes are made of besides the pod.
type Inputs struct {
	// Allocatable is what the node has to give. It bounds volumes in memory, and answers for a resource that a
	// container has no limit of.
	Allocatable v1.ResourceList
}

// Mount is a volume that is ready to be mounted into containers.
type Mount struct {
	// Name is the volume's name in the pod.
	Name string
	// HostPath is the directory, or with some hostPath volumes the file, on the node.
	HostPath string
	// ReadOnly says that no container may write to it, whatever its volumeMount says.
	ReadOnly bool
}

// Error tells which volume could not be made, in the words of the FailedMount event. Trying again may help, unless it
// wraps ErrUnsupported.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ErrUnsupported marks a kind of volume that this kubelet does not know.
var ErrUnsupported = errors.New("not supported by this kubelet")

// parallel is how many of a pod's volumes are made at once; most of the time goes into waiting for the API server.
const parallel = 4

// Setup makes all of the pod's volumes and returns them by name. It may be called again and changes only what is not
// yet, or no longer, as it should be. The error joins one *Error for each volume that failed; the others are in the
// result nevertheless.
func (v *Volumes) Setup(ctx context.Context, pod *v1.Pod, in Inputs) (map[string]Mount, error) {
	var mu sync.Mutex
	out := map[string]Mount{}
	errs := make([]error, len(pod.Spec.Volumes))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if vol.Image != nil {
			continue
		}
		group.Go(func() error {
			m, err := v.setup(ctx, pod, vol, in)
			if err != nil {
				errs[i] = &Error{Volume: vol.Name, Err: err}
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			m.Name = vol.Name
			out[vol.Name] = m
			return nil
		})
	}
	_ = group.Wait() // each volume's error is kept in errs
	return out, errors.Join(errs...)
}

// Refresh brings the contents of the pod's volumes up to date with their sources: ConfigMaps, Secrets, the pod's own
// fields, trust bundles, and tokens and certificates that grow old. Call it when any of these changed, and about once a minute.
func (v *Volumes) Refresh(ctx context.Context, pod *v1.Pod, in Inputs) error {
	var errs []error
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if vol.ConfigMap == nil && vol.Secret == nil && vol.DownwardAPI == nil && vol.Projected == nil {
			continue
		}
		if _, err := v.setup(ctx, pod, vol, in); err != nil {
			errs = append(errs, &Error{Volume: vol.Name, Err: err})
		}
	}
	return errors.Join(errs...)
}

func (v *Volumes) setup(ctx context.Context, pod *v1.Pod, vol *v1.Volume, in Inputs) (Mount, error) {
	switch {
	case vol.EmptyDir != nil:
		return v.emptyDir(pod, vol, in)
	case vol.HostPath != nil:
		kind := v1.HostPathUnset
		if vol.HostPath.Type != nil {
			kind = *vol.HostPath.Type
		}
		return Mount{HostPath: vol.HostPath.Path}, checkHostPath(vol.HostPath.Path, kind)
	case vol.ConfigMap != nil, vol.Secret != nil, vol.DownwardAPI != nil, vol.Projected != nil:
		return v.files(ctx, pod, vol, in)
	case vol.PersistentVolumeClaim != nil:
		return v.claimed(ctx, pod, vol.PersistentVolumeClaim.ClaimName, vol.PersistentVolumeClaim.ReadOnly)
	case vol.Ephemeral != nil:
		return v.claimed(ctx, pod, pod.Name+"-"+vol.Name, false)
	}
	return Mount{}, fmt.Errorf("volume kind %s: %w", kindOf(&vol.VolumeSource), ErrUnsupported)
}

// dir is where the volume of one pod lies.
func (v *Volumes) dir(pod *v1.Pod, kind, name string) (string, error) {
	if err := os.MkdirAll(v.cfg.PodsDir, 0o750); err != nil {
		return "", fmt.Errorf("make pods directory: %w", err)
	}
	root, err := realPath(v.cfg.PodsDir)
	if err != nil {
		return "", err
	}
	parent := filepath.Join(root, string(pod.UID), "volumes", "kubernetes.io~"+kind)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return "", fmt.Errorf("make volume directory: %w", err)
	}
	return filepath.Join(parent, name), nil
}

// PodUIDs lists the pods that have a directory.
func (v *Volumes) PodUIDs() ([]types.UID, error) {
	entries, err := os.ReadDir(v.cfg.PodsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pods' directories: %w", err)
	}
	var out []types.UID
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, types.UID(e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Teardown unmounts all that is mounted in the pod's directory and removes it. Call it when the last container has
// ended. What lies behind mounts stays, and a pod without a directory is a success.
func (v *Volumes) Teardown(_ context.Context, uid types.UID) error {
	v.forgetTokens(uid)
	v.forgetCertificates(uid)
	if uid == "" || filepath.Base(string(uid)) != string(uid) || uid == "." || uid == ".." {
		return fmt.Errorf("remove volumes: pod UID %q cannot be a directory's name", uid)
	}
	root, err := realPath(v.cfg.PodsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeTree(filepath.Join(root, string(uid)))
}
