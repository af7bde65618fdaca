package bootstrap

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// hostEncryption is a folder of its own, so that only the API server's pod sees the keys; and a folder, because a mounted
// file would stay the old one when it is replaced.
const hostEncryption = "/etc/kubernetes/encryption"

const encryptionComment = `# What the API server encrypts in etcd, and with which keys: the first one writes, all of them read.
# Without this file the secrets of this cluster are lost: back it up, apart from etcd's snapshots.
# "orlop encryption rotate" replaces the key.
`

func (p Paths) encryption() string { return p.at(hostEncryption + "/config.yaml") }

// ensureEncryption makes the key that secrets are encrypted with. A file that is there is kept: whoever made it may have
// chosen other providers.
func ensureEncryption(p Paths, now time.Time) error {
	_, err := readEncryption(p)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := newEncryptionKey(now)
	if err != nil {
		return err
	}
	// Secretbox: authenticated, with nonces long enough to be random for ever. AES-GCM must be rotated every 200,000
	// writes, AES-CBC authenticates nothing. Identity, last, reads what was written before there was a key.
	return writeEncryption(p, &apiserverv1.EncryptionConfiguration{Resources: []apiserverv1.ResourceConfiguration{{
		Resources: []string{"secrets"},
		Providers: []apiserverv1.ProviderConfiguration{
			{Secretbox: &apiserverv1.SecretboxConfiguration{Keys: []apiserverv1.Key{key}}},
			{Identity: &apiserverv1.IdentityConfiguration{}},
		},
	}}})
}

// newEncryptionKey is called after its time, so that a backup shows which keys it needs.
func newEncryptionKey(now time.Time) (apiserverv1.Key, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return apiserverv1.Key{}, fmt.Errorf("make an encryption key: %w", err)
	}
	return apiserverv1.Key{
		Name:   "key-" + now.UTC().Format("20060102150405"),
		Secret: base64.StdEncoding.EncodeToString(secret),
	}, nil
}

func readEncryption(p Paths) (*apiserverv1.EncryptionConfiguration, error) {
	text, err := os.ReadFile(p.encryption())
	if err != nil {
		return nil, err
	}
	cfg := new(apiserverv1.EncryptionConfiguration)
	if err := yaml.UnmarshalStrict(text, cfg); err != nil {
		return nil, fmt.Errorf("read %s: %w", p.encryption(), err)
	}
	if cfg.Kind != "EncryptionConfiguration" || len(cfg.Resources) == 0 {
		return nil, fmt.Errorf("read %s: it is no EncryptionConfiguration of apiserver.config.k8s.io/v1 with resources", p.encryption())
	}
	return cfg, nil
}

func writeEncryption(p Paths, cfg *apiserverv1.EncryptionConfiguration) error {
	cfg.APIVersion, cfg.Kind = "apiserver.config.k8s.io/v1", "EncryptionConfiguration"
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("encode the encryption configuration: %w", err)
	}
	if err := os.MkdirAll(p.at(hostEncryption), 0o700); err != nil {
		return err
	}
	return writeFile(p.encryption(), append([]byte(encryptionComment), text...), 0o600)
}

// boxes are the secretbox providers that encrypt; their keys are what rotation replaces.
func boxes(cfg *apiserverv1.EncryptionConfiguration) ([]*apiserverv1.SecretboxConfiguration, error) {
	var out []*apiserverv1.SecretboxConfiguration
	for i, r := range cfg.Resources {
		if len(r.Providers) == 0 || r.Providers[0].Secretbox == nil || len(r.Providers[0].Secretbox.Keys) == 0 {
			return nil, fmt.Errorf("the first provider of resources[%d] is not secretbox with a key: rotate it by hand, as docs/encryption.md says", i)
		}
		if strings.Contains(strings.Join(r.Resources, " "), "*") {
			return nil, fmt.Errorf("resources[%d] has a wildcard: rotate it by hand, as docs/encryption.md says", i)
		}
		out = append(out, r.Providers[0].Secretbox)
	}
	return out, nil
}

// addKey lets all servers read what key encrypts, before any of them uses it.
func addKey(cfg *apiserverv1.EncryptionConfiguration, key apiserverv1.Key) error {
	return eachBox(cfg, func(b *apiserverv1.SecretboxConfiguration) { b.Keys = append(b.Keys, key) })
}

// useLastKey makes the key that was added the one that encrypts.
func useLastKey(cfg *apiserverv1.EncryptionConfiguration) error {
	return eachBox(cfg, func(b *apiserverv1.SecretboxConfiguration) {
		last := len(b.Keys) - 1
		b.Keys = append([]apiserverv1.Key{b.Keys[last]}, b.Keys[:last]...)
	})
}

// dropOldKeys leaves the key that encrypts.
func dropOldKeys(cfg *apiserverv1.EncryptionConfiguration) error {
	return eachBox(cfg, func(b *apiserverv1.SecretboxConfiguration) { b.Keys = b.Keys[:1] })
}

func eachBox(cfg *apiserverv1.EncryptionConfiguration, f func(*apiserverv1.SecretboxConfiguration)) error {
	all, err := boxes(cfg)
	for _, b := range all {
		f(b)
	}
	return err
}

// oldKeys says whether a rotation was left half done.
func oldKeys(cfg *apiserverv1.EncryptionConfiguration) (bool, error) {
	all, err := boxes(cfg)
	for _, b := range all {
		if len(b.Keys) > 1 {
			return true, nil
		}
	}
	return false, err
}
