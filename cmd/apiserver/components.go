package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/components"
)

// componentChecks asks the parts of the control plane on this machine where kubeadm puts them, and every etcd server.
func componentChecks(storage *serverstorage.DefaultStorageFactory) map[string]components.Check {
	// Both serve health checks to everybody, under certificates that they made themselves.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	checks := map[string]components.Check{
		"controller-manager": healthy(client, "https://127.0.0.1:10257/healthz"),
		"scheduler":          healthy(client, "https://127.0.0.1:10259/healthz"),
	}
	for i, backend := range storage.Backends() {
		config := storage.StorageConfig
		config.Transport.ServerList = []string{backend.Server}
		checks[fmt.Sprintf("etcd-%d", i)] = func(ctx context.Context) components.Answer {
			stop := make(chan struct{})
			defer close(stop)
			probe, err := factory.CreateHealthCheck(config, stop)
			if err == nil {
				err = retryUntil(ctx, probe)
			}
			if err != nil {
				return components.Answer{Error: err.Error()}
			}
			return components.Answer{Healthy: true, Message: "ok"}
		}
	}
	return checks
}

// retryUntil calls probe until it succeeds: its connection is made in the background, so the first answers say nothing.
func retryUntil(ctx context.Context, probe func() error) error {
	for {
		err := probe()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func healthy(client *http.Client, url string) components.Check {
	return func(ctx context.Context) components.Answer {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return components.Answer{Error: err.Error()}
		}
		resp, err := client.Do(req)
		if err != nil {
			return components.Answer{Message: err.Error()}
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		switch {
		case err != nil:
			return components.Answer{Error: err.Error()}
		case resp.StatusCode < 200 || resp.StatusCode >= 400:
			return components.Answer{Message: fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)}
		}
		return components.Answer{Healthy: true, Message: string(body)}
	}
}
