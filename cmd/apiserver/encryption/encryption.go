// Package encryption looks, before an API server serves, whether it can read what is encrypted in etcd.
//
// The generic server would start with a wrong key or none, answer every request for such a resource with an internal
// error, and let controllers take its objects for gone. This package reads; it never writes.
package encryption

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"
)

// page is how many objects are read at a time: a secret may have a megabyte.
const page = 64

// KV is one key of etcd.
type KV struct {
	Key   string
	Value []byte
}

// Store reads etcd.
type Store interface {
	// Range returns at most limit keys from the first one that is not less than from and less than to, in order.
	Range(ctx context.Context, from, to string, limit int64) ([]KV, error)
}

// Resource is a resource and where etcd has it.
type Resource struct {
	schema.GroupResource
	// Prefix is that of all its keys; it ends in a slash.
	Prefix string
}

// Config says what to look at.
type Config struct {
	// File is the path of the encryption configuration, empty if there is none.
	File string
	// Transformers are what File configures, nil if there is none.
	Transformers value.ResourceTransformers
	// Root is the prefix of all keys, with a slash at its end.
	Root string
	// Resources are looked through whole: the secrets, and what File names.
	Resources []Resource
	// Patience is how long etcd may be away.
	Patience time.Duration
}

// UnreadableError says that etcd holds what this server has no key for.
type UnreadableError struct {
	// Key is one such key of etcd, Seal the provider and name of the encryption key it was written with.
	Key, Seal string
	// File is the configuration that lacks the key, empty if none was given.
	File string
	// Cause is what decrypting said; nil if it was not tried.
	Cause error
}

func (e *UnreadableError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("etcd holds encrypted objects and no encryption configuration is given: %s was written with %s. "+
			"Start with --encryption-provider-config naming the file that has this key (orlop init keeps it in "+
			"/etc/kubernetes/encryption/config.yaml; restore it from your backup)", e.Key, e.Seal)
	}
	return fmt.Sprintf("etcd holds objects that no key of %s opens: %s was written with %s (%v). "+
		"Put the key that was used back into the file, after the one that encrypts", e.File, e.Key, e.Seal, e.Cause)
}

func (e *UnreadableError) Unwrap() error { return e.Cause }

// Check returns an *UnreadableError when etcd holds what cfg cannot read. While etcd does not answer, it asks again.
func Check(ctx context.Context, s Store, cfg Config) error {
	patient := &patientStore{s, time.Now().Add(cfg.Patience)}
	for _, r := range cfg.Resources {
		if err := checkResource(ctx, patient, r, cfg); err != nil {
			return err
		}
	}
	if cfg.Transformers != nil {
		return nil
	}
	return checkFirsts(ctx, patient, cfg)
}

// checkResource tries one object of each encryption key that the resource's objects were written with.
func checkResource(ctx context.Context, s Store, r Resource, cfg Config) error {
	tried := map[string]bool{}
	for from, to := r.Prefix, after(r.Prefix); ; {
		kvs, err := s.Range(ctx, from, to, page)
		if err != nil {
			return fmt.Errorf("read %s from etcd: %w", r.Resource, err)
		}
		for _, kv := range kvs {
			seal, sealed := sealOf(kv.Value)
			if !sealed || tried[seal] {
				continue
			}
			tried[seal] = true
			if err := open(ctx, kv, seal, r.GroupResource, cfg); err != nil {
				return err
			}
		}
		if len(kvs) < page {
			return nil
		}
		from = kvs[len(kvs)-1].Key + "\x00"
	}
}

func open(ctx context.Context, kv KV, seal string, r schema.GroupResource, cfg Config) error {
	if cfg.Transformers == nil {
		return &UnreadableError{Key: kv.Key, Seal: describe(seal)}
	}
	if _, _, err := cfg.Transformers.TransformerForResource(r).TransformFromStorage(ctx, kv.Value, value.DefaultContext(kv.Key)); err != nil {
		return &UnreadableError{Key: kv.Key, Seal: describe(seal), File: cfg.File, Cause: err}
	}
	return nil
}

// checkFirsts looks at the first object below each folder, for a server without any key: which resources were encrypted
// was said by the configuration that is missing.
func checkFirsts(ctx context.Context, s Store, cfg Config) error {
	for from, to := cfg.Root, after(cfg.Root); ; {
		kvs, err := s.Range(ctx, from, to, 1)
		if err != nil {
			return fmt.Errorf("read etcd: %w", err)
		}
		if len(kvs) == 0 {
			return nil
		}
		if seal, sealed := sealOf(kvs[0].Value); sealed {
			return &UnreadableError{Key: kvs[0].Key, Seal: describe(seal)}
		}
		from = after(folder(cfg.Root, kvs[0].Key))
	}
}

// folder is the part of key that names its resource: one step below root, or two for custom resources, whose first step
// is their group.
func folder(root, key string) string {
	steps := strings.SplitAfter(strings.TrimPrefix(key, root), "/")
	if len(steps) > 2 && strings.Contains(steps[0], ".") {
		return root + steps[0] + steps[1]
	}
	if len(steps) > 1 {
		return root + steps[0]
	}
	return key
}

// after is the first key behind all that begin with prefix.
func after(prefix string) string {
	last := prefix[len(prefix)-1]
	return prefix[:len(prefix)-1] + string([]byte{last + 1})
}

const sealPrefix = "k8s:enc:"

// sealOf returns what stands before an encrypted value: provider, version and key name.
func sealOf(data []byte) (seal string, sealed bool) {
	text := string(data[:min(len(data), 256)])
	rest, sealed := strings.CutPrefix(text, sealPrefix)
	if !sealed {
		return "", false
	}
	fields := strings.SplitN(rest, ":", 4)
	if len(fields) < 4 {
		return sealPrefix, true
	}
	return strings.Join(fields[:3], ":"), true
}

func describe(seal string) string {
	fields := strings.Split(seal, ":")
	if len(fields) != 3 {
		return "an unknown key"
	}
	return fmt.Sprintf("key %q of provider %s", fields[2], fields[0])
}

// patientStore asks again while etcd does not answer.
type patientStore struct {
	Store
	deadline time.Time
}

func (p *patientStore) Range(ctx context.Context, from, to string, limit int64) ([]KV, error) {
	for {
		kvs, err := p.Store.Range(ctx, from, to, limit)
		if err == nil || ctx.Err() != nil || time.Now().After(p.deadline) {
			return kvs, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
