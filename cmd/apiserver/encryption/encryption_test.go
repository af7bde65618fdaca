package encryption

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
)

// memory is an etcd that may be away for some calls.
type memory struct {
	values map[string]string
	away   int
}

func (m *memory) Range(_ context.Context, from, to string, limit int64) ([]KV, error) {
	if m.away > 0 {
		m.away--
		return nil, errors.New("etcd is away")
	}
	var keys []string
	for k := range m.values {
		if k >= from && k < to {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var kvs []KV
	for _, k := range keys[:min(len(keys), int(limit))] {
		kvs = append(kvs, KV{k, []byte(m.values[k])})
	}
	return kvs, nil
}

const keyA, keyB = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=", "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI="

// load reads a configuration with the named keys of secretbox; none is no configuration.
func load(t *testing.T, keys ...string) value.ResourceTransformers {
	t.Helper()
	if len(keys) == 0 {
		return nil
	}
	var text strings.Builder
	text.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - secretbox:\n      keys:\n")
	for _, k := range keys {
		name, secret, _ := strings.Cut(k, "=")
		fmt.Fprintf(&text, "      - {name: %s, secret: %s}\n", name, secret)
	}
	text.WriteString("  - identity: {}\n")
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := encryptionconfig.LoadEncryptionConfig(t.Context(), file, false, "test")
	if err != nil {
		t.Fatal(err)
	}
	return encryptionconfig.StaticTransformers(cfg.Transformers)
}

var secrets = Resource{schema.GroupResource{Resource: "secrets"}, "/registry/secrets/"}

func seal(t *testing.T, with value.ResourceTransformers, key, text string) string {
	t.Helper()
	out, err := with.TransformerForResource(secrets.GroupResource).TransformToStorage(t.Context(), []byte(text), value.DefaultContext(key))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestCheck(t *testing.T) {
	a, b := load(t, "a="+keyA), load(t, "b="+keyB)
	const key, other = "/registry/secrets/kube-system/x", "/registry/secrets/kube-system/y"
	many := map[string]string{}
	for i := range 3 * page {
		many[fmt.Sprintf("/registry/secrets/n/%03d", i)] = "k8s\x00plain"
	}
	many["/registry/secrets/n/zzz"] = seal(t, a, "/registry/secrets/n/zzz", "secret")
	for name, c := range map[string]struct {
		values map[string]string
		with   value.ResourceTransformers
		want   string // part of the error; empty means none
	}{
		"an empty store":                      {nil, nil, ""},
		"nothing is encrypted":                {map[string]string{key: "k8s\x00plain"}, nil, ""},
		"nothing is encrypted yet":            {map[string]string{key: "k8s\x00plain"}, a, ""},
		"the right key":                       {map[string]string{key: seal(t, a, key, "s")}, a, ""},
		"an old key that is still there":      {map[string]string{key: seal(t, a, key, "s"), other: seal(t, b, other, "s")}, load(t, "b="+keyB, "a="+keyA), ""},
		"no configuration":                    {map[string]string{key: seal(t, a, key, "s")}, nil, `no encryption configuration is given: ` + key + ` was written with key "a" of provider secretbox`},
		"the old key is dropped too early":    {map[string]string{key: seal(t, a, key, "s"), other: seal(t, b, other, "s")}, b, `no key of /etc/config.yaml opens: ` + key + ` was written with key "a"`},
		"another key of the same name":        {map[string]string{key: seal(t, a, key, "s")}, load(t, "a="+keyB), `no key of /etc/config.yaml opens`},
		"only the last of many":               {many, nil, `/registry/secrets/n/zzz was written with key "a"`},
		"another resource, no configuration":  {map[string]string{"/registry/configmaps/n/c": "k8s:enc:aescbc:v1:k:xxxx"}, nil, `key "k" of provider aescbc`},
		"a custom resource behind plain ones": {map[string]string{"/registry/a.io/as/n/c": "{}", "/registry/a.io/bs/n/c": "k8s:enc:aescbc:v1:k:xxxx"}, nil, "/registry/a.io/bs/n/c"},
		"keys of others are not ours":         {map[string]string{"/registry0/x": "k8s:enc:aescbc:v1:k:xxxx"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := ""
			if c.with != nil {
				file = "/etc/config.yaml"
			}
			err := Check(t.Context(), &memory{values: c.values}, Config{
				File: file, Transformers: c.with, Root: "/registry/", Resources: []Resource{secrets}})
			if c.want == "" && err != nil {
				t.Fatal(err)
			}
			var unreadable *UnreadableError
			if c.want != "" && (!errors.As(err, &unreadable) || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestCheckWaitsForEtcd(t *testing.T) {
	sealed := map[string]string{"/registry/secrets/n/x": "k8s:enc:aescbc:v1:k:xxxx"}
	cfg := Config{Root: "/registry/", Resources: []Resource{secrets}, Patience: time.Minute}
	var unreadable *UnreadableError
	if err := Check(t.Context(), &memory{values: sealed, away: 2}, cfg); !errors.As(err, &unreadable) {
		t.Errorf("after etcd was away: %v", err)
	}
	cfg.Patience = 0
	if err := Check(t.Context(), &memory{away: 2}, cfg); err == nil {
		t.Error("etcd stayed away, and the check passed")
	}
}
