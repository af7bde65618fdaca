package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/cri"
)

// maxOutput bounds what is read of an answer and told in an event.
const maxOutput = 10 << 10

// attempt asks once.
type attempt func(context.Context, target) answer

// answer is what came of it. With err, the node could not ask, and result is unknown.
type answer struct {
	result result
	output string
	err    error
}

type actions struct {
	runtime runtime
	version string
}

func (a actions) attempt(ctx context.Context, t target) answer {
	limit := seconds(t.probe.TimeoutSeconds, 1)
	switch {
	case t.probe.Exec != nil:
		return a.exec(ctx, t, limit)
	case t.probe.HTTPGet != nil:
		return a.http(ctx, t, limit)
	case t.probe.TCPSocket != nil:
		return tcp(ctx, t, limit)
	case t.probe.GRPC != nil:
		return a.grpc(ctx, t, limit)
	}
	return answer{err: errors.New("missing probe handler")}
}

func (a actions) exec(ctx context.Context, t target, limit time.Duration) answer {
	res, err := a.runtime.ExecSync(ctx, t.id, t.probe.Exec.Command, limit)
	if err != nil {
		if errors.Is(err, cri.ErrTimeout) || strings.Contains(err.Error(), "timeout") {
			return answer{result: failure, output: fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(t.probe.Exec.Command, " "), limit)}
		}
		return answer{err: err}
	}
	output := string(clip(append(res.Stdout, res.Stderr...)))
	if res.ExitCode != 0 {
		return answer{result: failure, output: output}
	}
	return answer{result: success, output: output}
}

func clip(b []byte) []byte { return b[:min(len(b), maxOutput)] }

// dialer makes connections that leave no TIME_WAIT behind: a node with many probes would run out of ports.
func dialer(limit time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: limit, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
		}), err)
	}}
}

func (a actions) http(ctx context.Context, t target, limit time.Duration) answer {
	req, err := httpRequest(t.probe.HTTPGet, t.container, t.ip, "kube-probe/"+a.version)
	if err != nil {
		return answer{err: err}
	}
	client := &http.Client{
		Timeout:       limit,
		Transport:     transport(limit),
		CheckRedirect: onlyLocal,
	}
	defer client.CloseIdleConnections()
	res, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return answer{result: failure, output: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if err != nil {
		return answer{result: failure, output: err.Error()}
	}
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return answer{result: warning, output: fmt.Sprintf("Probe terminated redirects, Response body: %s", body)}
	case res.StatusCode >= 200 && res.StatusCode < 400:
		return answer{result: success, output: string(body)}
	}
	return answer{result: failure, output: fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode)}
}

// transport makes each request on a connection of its own. Certificates are not checked, as a probe goes to an address
// that no certificate names; it sends nothing that is secret.
func transport(limit time.Duration) *http.Transport {
	return &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        dialer(limit).DialContext,
	}
}

// onlyLocal follows redirects to the same host and takes any other for the answer, as else one could make the node
// send requests anywhere.
func onlyLocal(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

func httpRequest(get *v1.HTTPGetAction, c *v1.Container, ip, agent string) (*http.Request, error) {
	port, err := portNumber(get.Port, c)
	if err != nil {
		return nil, err
	}
	host := get.Host
	if host == "" {
		host = ip
	}
	u, err := url.Parse(get.Path)
	if err != nil {
		u = &url.URL{Path: get.Path} // sent as it is; the server may know what it means
	}
	u.Scheme = strings.ToLower(string(get.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for _, h := range get.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept")
	}
	if h := req.Header.Get("Host"); h != "" {
		req.Host = h
	}
	return req, nil
}

func portNumber(port intstr.IntOrString, c *v1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %s", port.String())
	}
	return n, nil
}

func tcp(ctx context.Context, t target, limit time.Duration) answer {
	port, err := portNumber(t.probe.TCPSocket.Port, t.container)
	if err != nil {
		return answer{err: err}
	}
	host := t.probe.TCPSocket.Host
	if host == "" {
		host = t.ip
	}
	conn, err := dialer(limit).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return answer{result: failure, output: err.Error()}
	}
	if err := conn.Close(); err != nil {
		return answer{result: success, output: err.Error()}
	}
	return answer{result: success}
}
