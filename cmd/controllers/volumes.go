package controllers

import (
	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/cmd/controllers/ephemeralvolume"
	"github.com/orlop-io/orlop/cmd/controllers/localpath"
	"github.com/orlop-io/orlop/cmd/controllers/volumebinder"
	"github.com/orlop-io/orlop/cmd/controllers/volumeexpander"
	"github.com/orlop-io/orlop/cmd/controllers/volumeprotection"
)

// volumes are the controllers of persistent volumes and their claims.
func volumes() []entry {
	return []entry{
		{name: "persistentvolume-binder-controller", alias: "persistentvolume-binder", account: "persistent-volume-binder",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				recyclers, err := e.recyclers.read(e.localPathImage)
				if err != nil {
					return nil, err
				}
				b, err := volumebinder.New(c, recyclers, e.shared, e.recorder("persistentvolume-controller"), e.log)
				if err != nil {
					return nil, err
				}
				return b.Run, nil
			})},
		{name: "ephemeral-volume-controller", alias: "ephemeral-volume", account: "ephemeral-volume-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				v, err := ephemeralvolume.New(c, e.shared, e.recorder("ephemeral_volume"), e.log)
				return v.Run, err
			})},
		{name: "volumeattributesclass-protection-controller", alias: "volumeattributesclass-protection", account: "volumeattributesclass-protection-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				p, err := volumeprotection.NewAttributes(c, e.shared, e.log)
				return p.Run, err
			})},
		{name: "persistentvolume-expander-controller", alias: "persistentvolume-expander", account: "expand-controller",
			build: typed(func(e *env, _ kubernetes.Interface) (runner, error) {
				x, err := volumeexpander.New(e.shared, e.recorder("volume_expand"), e.log)
				return x.Run, err
			})},
		{name: "local-path-provisioner", alias: "local-path", account: "local-path-provisioner",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				if e.localPathImage == "" {
					return nil, nil
				}
				p, err := localpath.New(c, e.localPathImage, e.shared, e.recorder(localpath.Provisioner), e.log)
				return p.Run, err
			})},
		{name: "persistentvolumeclaim-protection-controller", alias: "pvc-protection", account: "pvc-protection-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				p, err := volumeprotection.NewClaims(c, e.shared, e.log)
				return p.Run, err
			})},
		{name: "persistentvolume-protection-controller", alias: "pv-protection", account: "pv-protection-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				p, err := volumeprotection.NewVolumes(c, e.shared, e.log)
				return p.Run, err
			})},
	}
}
