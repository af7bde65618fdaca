package cri

import (
	"context"
	"encoding/json"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Image gives what the runtime knows of an image, or nil when it does not have it.
func (c *Client) Image(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return nil, wrap("look at image", spec.GetImage(), err)
	}
	return r.Image, nil
}

// Pull fetches an image and returns its reference in the runtime. It takes as long as it takes:
// only ctx ends it.
func (c *Client) Pull(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	r, err := c.image.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth, SandboxConfig: sandbox})
	if err != nil {
		return "", wrap("pull image", spec.GetImage(), err)
	}
	return r.ImageRef, nil
}

// Images lists the runtime's images.
func (c *Client) Images(ctx context.Context) ([]*runtimeapi.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.image.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	return r.GetImages(), wrap("list images", "", err)
}

// RemoveImage deletes an image. One that is gone is success.
func (c *Client) RemoveImage(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	_, err := c.image.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	return gone(wrap("remove image", image, err))
}

// ImageFs gives the file systems that hold images.
func (c *Client) ImageFs(ctx context.Context) ([]*runtimeapi.FilesystemUsage, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.image.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	return r.GetImageFilesystems(), wrap("look at image file system", "", err)
}

// SandboxImage is the image that sandboxes are made of, by the name it has in the runtime's configuration; empty where the
// runtime does not tell.
func (c *Client) SandboxImage(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return "", wrap("ask runtime configuration", "", err)
	}
	var cfg struct {
		SandboxImage string `json:"sandboxImage"`
	}
	if text := r.GetInfo()["config"]; text != "" && json.Unmarshal([]byte(text), &cfg) != nil {
		return "", nil // another runtime's form
	}
	return cfg.SandboxImage, nil
}
