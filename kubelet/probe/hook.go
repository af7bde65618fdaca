package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Hooks runs what containers want done right after their start and right before their end.
type Hooks struct {
	// Runtime runs commands. Required.
	Runtime runtime
	// Version is in the User-Agent of requests, as in kube-lifecycle/1.37.
	Version string
}

// Run carries out one hook of the container with the given ID and waits for its end, or until ctx ends. ip is the
// pod's address.
func (h Hooks) Run(ctx context.Context, c *v1.Container, id, ip string, hook *v1.LifecycleHandler) error {
	switch {
	case hook.Exec != nil:
		return h.exec(ctx, id, hook.Exec.Command)
	case hook.HTTPGet != nil:
		return h.http(ctx, c, ip, hook.HTTPGet)
	case hook.Sleep != nil:
		select {
		case <-ctx.Done():
			return fmt.Errorf("sleep cut short: %w", ctx.Err())
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return errors.New("cannot run handler: it is none of exec, httpGet and sleep")
}

func (h Hooks) exec(ctx context.Context, id string, command []string) error {
	var limit time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(time.Until(deadline), time.Millisecond)
	}
	res, err := h.Runtime.ExecSync(ctx, id, command, limit)
	if err != nil {
		return err
	}
	if res.ExitCode != 0 {
		output := string(clip(append(res.Stdout, res.Stderr...)))
		return fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), res.ExitCode, output)
	}
	return nil
}

// http sends the request. Any answer is a success, since a hook only announces.
func (h Hooks) http(ctx context.Context, c *v1.Container, ip string, get *v1.HTTPGetAction) error {
	get = get.DeepCopy()
	if get.Port.String() == "0" || get.Port.String() == "" {
		get.Port.IntVal, get.Port.Type = 80, 0
	}
	req, err := httpRequest(get, c, ip, "kube-lifecycle/"+h.Version)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: transport(30 * time.Second), CheckRedirect: onlyLocal}
	defer client.CloseIdleConnections()
	res, err := client.Do(req.WithContext(ctx))
	if err != nil && get.Scheme == v1.URISchemeHTTPS && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		// Hooks were sent by plain HTTP whatever their scheme said, before 1.25; pods that rely on it still run.
		get.Scheme = v1.URISchemeHTTP
		req, err = httpRequest(get, c, ip, "kube-lifecycle/"+h.Version)
		if err != nil {
			return err
		}
		req.Header.Del("Authorization")
		res, err = client.Do(req.WithContext(ctx))
	}
	if err != nil {
		return err
	}
	return res.Body.Close()
}
