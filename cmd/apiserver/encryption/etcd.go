package encryption

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apiserver/pkg/storage/storagebackend"
)

// Etcd is the Store behind an API server.
type Etcd struct{ client *clientv3.Client }

// Open connects to the servers of t in the background.
func Open(t storagebackend.TransportConfig) (*Etcd, error) {
	cfg := clientv3.Config{Endpoints: t.ServerList, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}
	if t.CertFile != "" || t.TrustedCAFile != "" {
		tls, err := transport.TLSInfo{CertFile: t.CertFile, KeyFile: t.KeyFile, TrustedCAFile: t.TrustedCAFile}.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("read the certificates for etcd: %w", err)
		}
		cfg.TLS = tls
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return &Etcd{client}, nil
}

// Close ends the connections.
func (e *Etcd) Close() error { return e.client.Close() }

// Range implements Store. The answer may be a moment old: nothing is served yet that could have written it.
func (e *Etcd) Range(ctx context.Context, from, to string, limit int64) ([]KV, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := e.client.Get(ctx, from, clientv3.WithRange(to), clientv3.WithLimit(limit))
	if err != nil {
		return nil, err
	}
	kvs := make([]KV, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		kvs = append(kvs, KV{string(kv.Key), kv.Value})
	}
	return kvs, nil
}
