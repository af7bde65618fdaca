package documents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/spec3"
)

// CustomConfig says of which custom resources the documents are kept. All fields are needed.
type CustomConfig struct {
	Definitions cache.SharedIndexInformer
	// Publish and Withdraw are those of the service behind /openapi/v3, by path, as in apis/example.com/v1.
	Publish  func(path string, document *spec3.OpenAPI)
	Withdraw func(path string)
}

// Custom keeps the documents of v3 for custom resources at what is served.
//
// The library's own controller leaves the document of a version that is no longer served in place until the definition is
// deleted; that of v2 does not.
type Custom struct {
	cfg CustomConfig

	mu      sync.Mutex
	changed map[schema.GroupVersion]bool // since they were published last
	poke    chan struct{}
	// Of the publishing goroutine alone.
	built map[part]*spec3.OpenAPI
}

// part is what one state of a definition adds to the document of a version.
type part struct {
	uid        types.UID
	generation int64
	kind       string // accepted names may change without the generation
	version    string
}

// NewCustom follows the definitions; nothing is published before Run.
func NewCustom(cfg CustomConfig) (*Custom, error) {
	c := &Custom{cfg: cfg, changed: map[schema.GroupVersion]bool{}, poke: make(chan struct{}, 1), built: map[part]*spec3.OpenAPI{}}
	_, err := cfg.Definitions.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.note,
		UpdateFunc: func(old, now any) { c.note(old); c.note(now) },
		DeleteFunc: c.note,
	})
	if err != nil {
		return nil, fmt.Errorf("follow custom resource definitions: %w", err)
	}
	return c, nil
}

func (c *Custom) note(obj any) {
	if gone, is := obj.(cache.DeletedFinalStateUnknown); is {
		obj = gone.Obj
	}
	crd, is := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !is {
		return
	}
	c.mu.Lock()
	for _, v := range crd.Spec.Versions {
		c.changed[schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}] = true
	}
	c.mu.Unlock()
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Run publishes and withdraws documents until ctx ends.
func (c *Custom) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), c.cfg.Definitions.HasSynced) {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.poke:
		}
		if err := c.publish(c.taken()); err != nil {
			klog.FromContext(ctx).Error(err, "describe custom resources")
		}
	}
}

// taken are the versions that changed since it was called last.
func (c *Custom) taken() map[schema.GroupVersion]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.changed
	c.changed = map[schema.GroupVersion]bool{}
	return changed
}

// publish says anew what is served of the versions that changed.
func (c *Custom) publish(changed map[schema.GroupVersion]bool) error {
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, obj := range c.cfg.Definitions.GetStore().List() {
		all = append(all, obj.(*apiextensionsv1.CustomResourceDefinition))
	}
	slices.SortFunc(all, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return cmp.Compare(a.Name, b.Name) })
	alive := map[types.UID]int64{}
	for _, crd := range all {
		alive[crd.UID] = crd.Generation
	}
	for p := range c.built {
		if generation, is := alive[p.uid]; !is || generation != p.generation {
			delete(c.built, p)
		}
	}
	var errs []error
	for gv := range changed {
		var parts []*spec3.OpenAPI
		for _, crd := range all {
			if !serves(crd, gv) {
				continue
			}
			one, err := c.part(crd, gv.Version)
			if err != nil {
				errs = append(errs, fmt.Errorf("describe %s: %w", crd.Name, err)) // the others have their document
				continue
			}
			parts = append(parts, one)
		}
		path := "apis/" + gv.Group + "/" + gv.Version
		if len(parts) == 0 {
			c.cfg.Withdraw(path)
			continue
		}
		merged, err := builder.MergeSpecsV3(parts...)
		if err != nil {
			errs = append(errs, fmt.Errorf("describe %s: %w", gv, err))
			continue
		}
		c.cfg.Publish(path, merged)
	}
	return errors.Join(errs...)
}

func (c *Custom) part(crd *apiextensionsv1.CustomResourceDefinition, version string) (*spec3.OpenAPI, error) {
	key := part{crd.UID, crd.Generation, crd.Status.AcceptedNames.Kind, version}
	if known, found := c.built[key]; found {
		return known, nil
	}
	made, err := builder.BuildOpenAPIV3(crd, version, builder.Options{IncludeSelectableFields: true})
	if err == nil {
		c.built[key] = made
	}
	return made, err
}

func serves(crd *apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) bool {
	return crd.Spec.Group == gv.Group && apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) &&
		slices.ContainsFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Served && v.Name == gv.Version })
}
