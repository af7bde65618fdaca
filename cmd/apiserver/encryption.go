package apiserver

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cmd/apiserver/encryption"
)

// checkEncryption refuses to serve a store that holds what this server has no key for.
func (b *base) checkEncryption(ctx context.Context) error {
	o := b.options.Etcd
	resources, err := b.encryptedResources(o.EncryptionProviderConfigFilepath)
	if err != nil {
		return err
	}
	store, err := encryption.Open(o.StorageConfig.Transport)
	if err != nil {
		return err
	}
	defer store.Close()
	return encryption.Check(ctx, store, encryption.Config{
		File: o.EncryptionProviderConfigFilepath, Transformers: b.config.ResourceTransformers,
		Root: b.storageRoot(), Resources: resources, Patience: time.Minute,
	})
}

func (b *base) storageRoot() string {
	return strings.TrimSuffix(b.options.Etcd.StorageConfig.Prefix, "/") + "/"
}

// encryptedResources are the secrets and what the configuration names; wildcards name nothing here.
func (b *base) encryptedResources(file string) ([]encryption.Resource, error) {
	names := []string{"secrets"}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the encryption configuration: %w", err)
		}
		// The server has read it strictly before; here the names are enough.
		var cfg apiserverv1.EncryptionConfiguration
		if err := yaml.Unmarshal(text, &cfg); err != nil {
			return nil, fmt.Errorf("read the encryption configuration %s: %w", file, err)
		}
		for _, r := range cfg.Resources {
			names = append(names, r.Resources...)
		}
	}
	slices.Sort(names)
	var out []encryption.Resource
	for _, name := range slices.Compact(names) {
		if strings.Contains(name, "*") {
			continue
		}
		r := schema.ParseGroupResource(name)
		folder := b.factory.ResourcePrefix(r)
		if !b.types.Scheme.IsGroupRegistered(r.Group) {
			folder = r.Group + "/" + r.Resource // a custom resource
		}
		out = append(out, encryption.Resource{GroupResource: r, Prefix: b.storageRoot() + folder + "/"})
	}
	return out, nil
}
