// Package images gets images into the runtime.
//
// Pulls of different images run side by side up to a cap, and one image is pulled once however
// many pods wait for it. Back-off after a failure belongs to the caller.
package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/flowcontrol"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cri"
	"github.com/orlop-io/orlop/kubelet/images/access"
)

// runtime is the part of the CRI client needed here.
type runtime interface {
	Image(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error)
	Pull(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error)
}

// Config bounds the pulling.
type Config struct {
	// Parallel is how many images are pulled at once; 0 means 4, below 0 no bound.
	Parallel int
	// QPS and Burst bound how often a registry is asked; a pull beyond fails, and is tried again by whoever wants it. 0 is
	// no bound.
	QPS   float32
	Burst int
	// Access remembers who may use what was pulled; nil: any pod may use what is there.
	Access *access.Records
	// Pulled hears once of each pull that succeeded: the image's size in bytes and how long it took without waiting for
	// its turn; nil hears nothing.
	Pulled func(size uint64, took time.Duration)
}

// Puller gets images. Its methods may be called at the same time.
type Puller struct {
	rt     runtime
	log    *slog.Logger
	slots  chan struct{}
	rate   flowcontrol.RateLimiter // nil is no bound
	pulled func(uint64, time.Duration)
	access *access.Records // may be nil

	mu    sync.Mutex
	pulls map[string]*pull // by image and credentials
}

// pull is one pull in flight; waiters counts those who want it, and at 0 it is given up.
type pull struct {
	waiters int
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
	took    time.Duration
	counted sync.Once
}

// New makes a puller.
func New(cfg Config, rt runtime, log *slog.Logger) *Puller {
	p := &Puller{rt: rt, log: log, pulls: map[string]*pull{}, pulled: cfg.Pulled, access: cfg.Access}
	if p.pulled == nil {
		p.pulled = func(uint64, time.Duration) {}
	}
	if cfg.QPS > 0 {
		p.rate = flowcontrol.NewTokenBucketRateLimiter(cfg.QPS, max(cfg.Burst, 1))
	}
	switch {
	case cfg.Parallel == 0:
		p.slots = make(chan struct{}, 4)
	case cfg.Parallel > 0:
		p.slots = make(chan struct{}, cfg.Parallel)
	}
	return p
}

// Image is an image as the runtime has it.
type Image struct {
	// Ref names it to the runtime; ID is its digest for the container's status.
	Ref, ID string
	// User and UID say whom it runs as by itself, if it says.
	User string
	UID  *int64
}

// Error is why an image is not there, in the words of the container's status.
type Error struct{ Reason, Message, Image string }

func (e *Error) Error() string { return e.Message }

// Request says which image is wanted how.
type Request struct {
	Image  string
	Policy v1.PullPolicy
	// Auths are tried in turn; without any, the pull is tried without.
	Auths   []Auth
	Sandbox *runtimeapi.PodSandboxConfig
	Handler string
	// Tell hears the events Pulling, Pulled, Failed and ErrImageNeverPull.
	Tell func(warning bool, reason, message string)
}

// Ensure gets an image and says how the runtime names it. Errors other than ctx's are *Error.
func (p *Puller) Ensure(ctx context.Context, r Request) (Image, error) {
	if _, err := reference.ParseNormalizedNamed(r.Image); err != nil {
		msg := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", r.Image, r.Image, err)
		r.Tell(true, "InspectFailed", msg)
		return Image{}, &Error{"InvalidImageName", msg, r.Image}
	}
	spec := &runtimeapi.ImageSpec{Image: r.Image, RuntimeHandler: r.Handler}
	have, err := p.rt.Image(ctx, spec)
	if err != nil {
		msg := fmt.Sprintf("Failed to inspect image %q: %v", r.Image, err)
		r.Tell(true, "InspectFailed", msg)
		return Image{}, &Error{"ImageInspectError", msg, r.Image}
	}
	switch {
	case have != nil && r.Policy != v1.PullAlways && p.allows(r, have.Id):
		r.Tell(false, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
		return image(have), nil
	case r.Policy == v1.PullNever:
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
		if have != nil {
			msg = fmt.Sprintf("Container image %q is present, but with pull policy of Never its registry cannot be asked whether the pod may use it", r.Image)
		}
		r.Tell(true, "ErrImageNeverPull", msg)
		return Image{}, &Error{"ErrImageNeverPull", msg, r.Image}
	}
	return p.pull(ctx, r, spec)
}

// allows says whether the pod may use an image that is there.
func (p *Puller) allows(r Request, ref string) bool {
	if p.access == nil {
		return true
	}
	var secrets []access.Secret
	for _, a := range r.Auths {
		secrets = append(secrets, a.Secret)
	}
	ok, err := p.access.Allows(r.Image, ref, secrets)
	if err != nil {
		p.log.Warn("ask who may use an image", "image", r.Image, "err", err)
	}
	return ok
}

func (p *Puller) pull(ctx context.Context, r Request, spec *runtimeapi.ImageSpec) (Image, error) {
	r.Tell(false, "Pulling", fmt.Sprintf("Pulling image %q", r.Image))
	begun := time.Now()
	f, err := p.share(ctx, r, spec)
	if ctx.Err() != nil {
		return Image{}, ctx.Err()
	}
	var got *runtimeapi.Image
	if err == nil {
		if got, err = p.rt.Image(ctx, spec); err == nil && got == nil {
			err = errors.New("pulled, but not there")
		}
	}
	if err != nil {
		msg := fmt.Sprintf("failed to pull image %q: %s", r.Image, cri.Words(err))
		r.Tell(true, "Failed", "Failed to "+strings.TrimPrefix(msg, "failed to "))
		r.Tell(true, "Failed", "Error: ErrImagePull")
		return Image{}, &Error{"ErrImagePull", msg, r.Image}
	}
	f.counted.Do(func() { p.pulled(got.Size, f.took) }) // however many waited for it
	r.Tell(false, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		r.Image, f.took.Truncate(time.Millisecond), time.Since(begun).Truncate(time.Millisecond), got.Size))
	return image(got), nil
}

// share joins the pull of the same image with the same credentials that is in flight, or begins it.
func (p *Puller) share(ctx context.Context, r Request, spec *runtimeapi.ImageSpec) (*pull, error) {
	key := r.Image
	for _, a := range r.Auths {
		key += "\x00" + a.Config.String() + "\x00" + a.Secret.UID
	}
	p.mu.Lock()
	f := p.pulls[key]
	if f == nil {
		if p.rate != nil && !p.rate.TryAccept() {
			p.mu.Unlock()
			return nil, errors.New("pull QPS exceeded")
		}
		var pullCtx context.Context
		f = &pull{done: make(chan struct{})}
		// The pull outlives the pod that asked first, while another waits for it.
		pullCtx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
		p.pulls[key] = f
		go p.run(pullCtx, f, r, spec, key)
	}
	f.waiters++
	p.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.waiters--
	if f.waiters == 0 {
		f.cancel()
		if p.pulls[key] == f {
			delete(p.pulls, key)
		}
	}
	select {
	case <-f.done:
		return f, f.err
	default:
		return nil, ctx.Err()
	}
}

func (p *Puller) run(ctx context.Context, f *pull, r Request, spec *runtimeapi.ImageSpec, key string) {
	defer func() {
		p.mu.Lock()
		if p.pulls[key] == f {
			delete(p.pulls, key)
		}
		p.mu.Unlock()
		close(f.done)
	}()
	if p.slots != nil {
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-ctx.Done():
			f.err = ctx.Err()
			return
		}
	}
	begun := time.Now()
	if p.access != nil {
		if f.err = p.access.Pulling(r.Image); f.err != nil {
			return
		}
	}
	auths := r.Auths
	if len(auths) == 0 {
		auths = []Auth{{}}
	}
	var errs []error
	for _, auth := range auths {
		ref, err := p.rt.Pull(ctx, spec, auth.Config, r.Sandbox)
		if err == nil {
			f.took = time.Since(begun)
			f.err = p.note(ctx, r.Image, ref, spec, auth)
			return
		}
		errs = append(errs, err)
	}
	f.err = errors.Join(errs...)
	if p.access != nil {
		f.err = errors.Join(f.err, p.access.Ended(r.Image))
	}
}

// note remembers who may use an image from now on. The runtime may name it otherwise when it is asked for than when it was pulled.
func (p *Puller) note(ctx context.Context, name, ref string, spec *runtimeapi.ImageSpec, auth Auth) error {
	if p.access == nil {
		return nil
	}
	if got, err := p.rt.Image(ctx, spec); err == nil && got != nil {
		ref = got.Id
	}
	var by *access.Secret
	if auth.Config != nil {
		by = &auth.Secret
	}
	if err := p.access.Pulled(name, ref, by); err != nil {
		return err
	}
	return p.access.Ended(name)
}

func image(i *runtimeapi.Image) Image {
	out := Image{Ref: i.Id, ID: i.Id, User: i.Username}
	if len(i.RepoDigests) > 0 {
		out.ID = i.RepoDigests[0]
	}
	if i.Uid != nil {
		uid := i.Uid.Value
		out.UID = &uid
	}
	return out
}
