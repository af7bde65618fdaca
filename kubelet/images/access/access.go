// Package access remembers by which credentials images came to this node, and decides whether a pod may use one that is
// there already without asking its registry again.
//
// It owns a directory of records in upstream's form (KEP-2535): one file for each image that was pulled, with the secrets
// that it was pulled by, and one for each pull that is under way. A pull that the kubelet did not survive leaves the latter:
// then it is not known who may use the image, so who wants it has to show credentials.
package access

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Secret names a secret, and has the hash of what it holds for a registry.
type Secret = kubeletconfig.ImagePullSecret

// Config says what is asked for.
type Config struct {
	// Dir keeps the records, normally /var/lib/kubelet/image_manager. Required, absolute.
	Dir string
	// Policy says which images need credentials; empty is NeverVerifyPreloadedImages.
	Policy kubeletconfig.ImagePullCredentialsVerificationPolicy
	// Free are images, or with /* at the end all below, that need none under NeverVerifyAllowlistedImages, as long as
	// they came here by other ways than the kubelet's.
	Free []string
}

// Records are what is remembered. Its methods may be called at the same time.
type Records struct {
	cfg Config
	mu  sync.Mutex // held while files are read and written
}

// New checks cfg and touches no file.
func New(cfg Config) (*Records, error) {
	var errs []error
	if cfg.Policy == "" {
		cfg.Policy = kubeletconfig.NeverVerifyPreloadedImages
	}
	all := []kubeletconfig.ImagePullCredentialsVerificationPolicy{kubeletconfig.NeverVerify, kubeletconfig.NeverVerifyPreloadedImages,
		kubeletconfig.NeverVerifyAllowlistedImages, kubeletconfig.AlwaysVerify}
	if !slices.Contains(all, cfg.Policy) {
		errs = append(errs, fmt.Errorf("imagePullCredentialsVerificationPolicy %q: want one of %q", cfg.Policy, all))
	}
	if len(cfg.Free) > 0 && cfg.Policy != kubeletconfig.NeverVerifyAllowlistedImages {
		errs = append(errs, fmt.Errorf("preloadedImagesVerificationAllowlist is for the policy %s, which is %s", kubeletconfig.NeverVerifyAllowlistedImages, cfg.Policy))
	}
	for _, pattern := range cfg.Free {
		name, err := reference.ParseNormalizedNamed(strings.TrimSuffix(pattern, "/*"))
		if err != nil || !reference.IsNameOnly(name) {
			errs = append(errs, fmt.Errorf("preloadedImagesVerificationAllowlist: %q is no image without tag and digest", pattern))
		}
	}
	if !filepath.IsAbs(cfg.Dir) {
		errs = append(errs, fmt.Errorf("directory of image records %q: want an absolute path", cfg.Dir))
	}
	return &Records{cfg: cfg}, errors.Join(errs...)
}

// Hash is the hash of what a secret holds for a registry, for Secret.
func Hash(credentials any) (string, error) {
	text, err := json.Marshal(credentials)
	if err != nil {
		return "", fmt.Errorf("hash credentials: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Allows says whether a pod with these secrets may use an image that is there, as the runtime names it by ref, without a
// pull. What cannot be read allows nothing.
func (r *Records) Allows(image, ref string, secrets []Secret) (bool, error) {
	if r.cfg.Policy == kubeletconfig.NeverVerify {
		return true, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(ref)
	if err != nil {
		return false, err
	}
	if rec == nil && !exists(r.intent(image)) { // it did not come by us
		return r.free(image), nil
	}
	if rec == nil {
		return false, nil
	}
	return grants(rec.CredentialMapping[nameOf(image)], secrets), nil
}

// free says whether an image that came by other ways needs no credentials.
func (r *Records) free(image string) bool {
	switch r.cfg.Policy {
	case kubeletconfig.NeverVerifyPreloadedImages:
		return true
	case kubeletconfig.NeverVerifyAllowlistedImages:
		return slices.ContainsFunc(r.cfg.Free, func(pattern string) bool {
			if below, ok := strings.CutSuffix(pattern, "/*"); ok {
				return strings.HasPrefix(nameOf(image), nameOf(below)+"/") || strings.HasPrefix(image, below+"/")
			}
			return nameOf(image) == nameOf(pattern)
		})
	}
	return false
}

// grants says whether one of the secrets is one that the image was pulled by, or holds the same.
func grants(c kubeletconfig.ImagePullCredentials, secrets []Secret) bool {
	return c.NodePodsAccessible || slices.ContainsFunc(secrets, func(s Secret) bool {
		return slices.ContainsFunc(c.KubernetesSecrets, func(known Secret) bool { return same(s, known) || s.CredentialHash == known.CredentialHash })
	})
}

func same(a, b Secret) bool { return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name }

// Pulling notes that an image is about to be pulled; Ended must follow.
func (r *Records) Pulling(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return write(r.intent(image), &kubeletconfig.ImagePullIntent{TypeMeta: kind("ImagePullIntent"), Image: image})
}

// Ended says that no pull of the image is under way any more, and what is to be known of it is.
func (r *Records) Ended(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(r.intent(image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget pull: %w", err)
	}
	return nil
}

// Pulled notes by which secret an image was pulled; nil is without any, so that everyone may use it.
func (r *Records) Pulled(image, ref string, by *Secret) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(ref)
	if err != nil || rec == nil { // what cannot be read is made anew
		rec = &kubeletconfig.ImagePulledRecord{TypeMeta: kind("ImagePulledRecord"), ImageRef: ref}
	}
	c := rec.CredentialMapping[nameOf(image)]
	switch {
	case c.NodePodsAccessible || by != nil && slices.Contains(c.KubernetesSecrets, *by):
		return nil
	case by == nil:
		c = kubeletconfig.ImagePullCredentials{NodePodsAccessible: true}
	default:
		c.KubernetesSecrets = slices.DeleteFunc(slices.Clone(c.KubernetesSecrets), func(s Secret) bool { return same(s, *by) })
		c.KubernetesSecrets = append(c.KubernetesSecrets, *by)
	}
	if rec.CredentialMapping == nil {
		rec.CredentialMapping = map[string]kubeletconfig.ImagePullCredentials{}
	}
	rec.CredentialMapping[nameOf(image)] = c
	rec.LastUpdatedTime = metav1.Now()
	return write(r.record(ref), rec)
}

// Keep forgets all images but those that were there at a time, by the runtime's names for them, and those noted since.
func (r *Records) Keep(there []string, at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep := map[string]bool{}
	for _, ref := range there {
		keep[filepath.Base(r.record(ref))] = true
	}
	entries, err := os.ReadDir(filepath.Join(r.cfg.Dir, "pulled"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list records of images: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if info, err := e.Info(); !keep[e.Name()] && err == nil && info.ModTime().Before(at) {
			errs = append(errs, os.Remove(filepath.Join(r.cfg.Dir, "pulled", e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (r *Records) read(ref string) (*kubeletconfig.ImagePulledRecord, error) {
	text, err := os.ReadFile(r.record(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of image %s: %w", ref, err)
	}
	out := &kubeletconfig.ImagePulledRecord{}
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("read record of image %s: %w", ref, err)
	}
	if out.ImageRef != ref {
		return nil, fmt.Errorf("the record of image %s is of %s", ref, out.ImageRef)
	}
	return out, nil
}

func (r *Records) record(ref string) string { return filepath.Join(r.cfg.Dir, "pulled", hashed(ref)) }
func (r *Records) intent(image string) string {
	return filepath.Join(r.cfg.Dir, "pulling", hashed(image))
}

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + hex.EncodeToString(sum[:])
}

func kind(name string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: kubeletconfig.SchemeGroupVersion.String(), Kind: name}
}

// nameOf is an image without tag and digest, whole.
func nameOf(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	return reference.TrimNamed(named).String()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// write puts v into a file whole or not at all, and on the disk: after a crash an image must not pass for one that came by
// other ways.
func write(path string, v any) (err error) {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record of image: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write record of image: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write record of image: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write record of image: %w", errors.Join(err, os.Remove(tmp.Name())))
		}
	}()
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
