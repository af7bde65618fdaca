package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/criconfig"
	"github.com/orlop-io/orlop/kubelet/imagegc"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// collector removes images; one removal at a time.
type collector struct {
	mu     sync.Mutex
	ages   imagegc.Ages
	failed bool // the last collection did
}

// nodeImages lists at most 50 images, the largest first, or as many as the configuration says.
func (k *Kubelet) nodeImages(ctx context.Context) []v1.ContainerImage {
	list, err := k.rt.Images(ctx)
	if err != nil {
		return nil
	}
	out := []v1.ContainerImage{}
	for _, i := range list {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) > 0 {
			out = append(out, v1.ContainerImage{Names: names[:min(5, len(names))], SizeBytes: int64(i.Size)})
		}
	}
	slices.SortFunc(out, func(a, b v1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Names[0], b.Names[0]))
	})
	if k.cfg.ShownImages < 0 {
		return out
	}
	return out[:min(k.cfg.ShownImages, len(out))]
}

// collectImages removes images that are too old, and unused ones while their file system is too full.
func (k *Kubelet) collectImages(ctx context.Context) error {
	c := &k.images
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err := k.listImages(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	_, err = k.removeImages(ctx, "age", c.ages.Expired(k.cfg.ImageGC, list, now))
	dir := k.imageDir.Load()
	if dir == nil {
		return err
	}
	capacity, available, fsErr := diskSpace(*dir)
	if fsErr != nil {
		return errors.Join(err, fsErr)
	}
	if capacity == 0 {
		k.events.Node(true, "InvalidDiskCapacity", "invalid capacity 0 on image filesystem")
		return errors.Join(err, errors.New("invalid capacity 0 on image filesystem"))
	}
	want := k.cfg.ImageGC.ToFree(capacity, available)
	if want == 0 {
		return err
	}
	k.log.Info("image file system is too full", "directory", *dir, "capacity", capacity, "available", available, "free", want)
	freed, rmErr := k.removeImages(ctx, "space", c.ages.Oldest(k.cfg.ImageGC, list, want, now))
	if freed < want {
		short := fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed)
		k.events.Node(true, "FreeDiskSpaceFailed", short)
		rmErr = errors.Join(rmErr, errors.New(short))
	}
	return errors.Join(err, rmErr)
}

// listImages lists images and notes which are in use.
func (k *Kubelet) listImages(ctx context.Context) ([]imagegc.Image, error) {
	listed := time.Now()
	list, err := k.rt.Images(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := k.rt.Containers(ctx)
	if err != nil {
		return nil, err
	}
	pause, err := k.rt.SandboxImage(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{pause: true, k.cfg.PauseImage: true}
	for _, c := range containers {
		used[c.ImageRef], used[c.GetImage().GetImage()], used[c.ImageId] = true, true, true
	}
	for name := range k.volumeImages() { // the runtime knows nothing of what it has mounted of them
		have, err := k.rt.Image(ctx, &runtimeapi.ImageSpec{Image: name})
		if err != nil {
			return nil, err
		}
		used[have.GetId()] = true
	}
	var out []imagegc.Image
	var refs []string
	for _, i := range list {
		refs = append(refs, i.Id)
		out = append(out, imagegc.Image{ID: i.Id, Size: int64(i.Size), Keep: keepImage(i, used)})
	}
	k.images.ages.Look(out, time.Now())
	if err := k.access.Keep(refs, listed); err != nil {
		k.log.Warn("forget who could use images that have gone", "err", err)
	}
	return out, nil
}

// keepImage says whether an image must stay: it is in use by its id or one of its names, or the runtime pins it, or it is
// of this machine only, and has no registry to come back from.
func keepImage(i *runtimeapi.Image, used map[string]bool) bool {
	if i.Pinned || used[i.Id] {
		return true
	}
	return slices.ContainsFunc(append(slices.Clone(i.RepoTags), i.RepoDigests...), func(name string) bool {
		return used[name] || strings.HasPrefix(name, "localhost/")
	})
}

// removeImages removes images and gives the bytes that were freed; one that fails does not keep the others.
func (k *Kubelet) removeImages(ctx context.Context, why string, list []imagegc.Image) (freed int64, err error) {
	var errs []error
	for _, i := range list {
		if err := k.rt.RemoveImage(ctx, i.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		k.log.Info("removed image", "image", i.ID, "bytes", i.Size, "why", why)
		k.metrics.imagesCollected.WithLabelValues(why).Inc()
		freed += i.Size
	}
	return freed, errors.Join(errs...)
}

// collect is the regular removal. A first failure may be the runtime's that is just starting.
func (k *Kubelet) collect(ctx context.Context) {
	err := k.collectImages(ctx)
	if err != nil && ctx.Err() == nil {
		k.log.Warn("image garbage collection", "err", err)
		if k.images.failed {
			k.events.Node(true, "ImageGCFailed", err.Error())
		}
	}
	k.images.failed = err != nil
}

// dropUnused removes, for want of room, all that nobody uses: dead containers of pods that have ended, and images.
func (k *Kubelet) dropUnused(ctx context.Context) {
	if err := k.dropDead(ctx); err != nil && ctx.Err() == nil {
		k.log.Warn("remove dead containers", "err", err)
		k.events.Node(true, "ContainerGCFailed", err.Error())
	}
	c := &k.images
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err := k.listImages(ctx)
	if err == nil {
		all := k.cfg.ImageGC
		all.MinAge = 0
		_, err = k.removeImages(ctx, "space", c.ages.Oldest(all, list, -1, time.Now()))
	}
	if err != nil && ctx.Err() == nil {
		k.log.Warn("remove unused images", "err", err)
	}
}

// dropDead removes the containers of pods that have ended, whose logs nobody can have asked for in vain before the disk
// was full.
func (k *Kubelet) dropDead(ctx context.Context) error {
	var errs []error
	for _, w := range k.all() {
		s := &w.shown.Load().state
		if s.Stage < lifecycle.Finished {
			continue
		}
		for i := range s.Containers {
			if id := s.Containers[i].Facts.ID; id != "" {
				errs = append(errs, k.rt.RemoveContainer(ctx, id))
			}
		}
		errs = append(errs, os.RemoveAll(criconfig.LogDir(k.cfg.PodLogsDir, s.Pod.Namespace, s.Pod.Name, s.Pod.UID)))
	}
	k.pruneLogLinks()
	return errors.Join(errs...)
}

// dropOldInstances removes logs and last words of container instances that are not even the last but one: nobody can ask
// for them.
func (k *Kubelet) dropOldInstances() {
	for _, w := range k.all() {
		s := &w.shown.Load().state
		logs := criconfig.LogDir(k.cfg.PodLogsDir, s.Pod.Namespace, s.Pod.Name, s.Pod.UID)
		words := filepath.Join(k.cfg.RootDir, "pods", string(w.uid), "containers")
		for i := range s.Containers {
			c := &s.Containers[i]
			for _, dir := range []string{filepath.Join(logs, c.Name), filepath.Join(words, c.Name)} {
				if err := dropBelow(dir, c.Next-2); err != nil {
					w.log.Warn("remove remains of old containers", "container", c.Name, "err", err)
				}
			}
		}
	}
	k.pruneLogLinks()
}

// dropBelow removes the files of a directory whose names begin with a number below least.
func dropBelow(dir string, least int) error {
	if least <= 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), ".")
		if n, err := strconv.Atoi(number); err == nil && n < least {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// diskSpace is the size of a directory's file system and what of it is free, in bytes.
func diskSpace(dir string) (capacity, available int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("look at file system of %s: %w", dir, err)
	}
	return int64(fs.Blocks) * fs.Bsize, int64(fs.Bavail) * fs.Bsize, nil
}
