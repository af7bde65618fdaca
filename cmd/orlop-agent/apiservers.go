package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/orlop-io/orlop/proxy"
)

// apiServers are the API servers of the cluster, asked one after the other until one answers: the Service "kubernetes" is of no use to those who
// make it work. The first are those that flags or the kubeconfig name; the others were endpoints of that Service, and are remembered over a reboot.
type apiServers struct {
	file string // of the endpoints

	mu     sync.Mutex
	named  []*url.URL
	seen   []string // as in file
	all    []*url.URL
	newest int // that answered last
}

// newAPIServers reads what an earlier process remembered. A file that cannot be read is as none: it only adds to what is named.
func newAPIServers(named []string, dir string) (*apiServers, error) {
	s := &apiServers{file: filepath.Join(dir, "api-servers")}
	for _, n := range named {
		u, err := url.Parse(n)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("API server %q: want https://HOST:PORT", n)
		}
		s.named = append(s.named, u)
	}
	if len(s.named) == 0 {
		return nil, errors.New("no API server is named: give --kubeconfig or --api-servers")
	}
	if b, err := os.ReadFile(s.file); err == nil {
		s.seen = strings.Fields(string(b))
	}
	s.mergeLocked()
	return s, nil
}

func (s *apiServers) mergeLocked() {
	s.all, s.newest = slices.Clone(s.named), 0
	for _, text := range s.seen {
		u, err := url.Parse(text)
		if err == nil && u.Host != "" && !slices.ContainsFunc(s.all, func(o *url.URL) bool { return o.Host == u.Host }) {
			s.all = append(s.all, u)
		}
	}
}

// remember takes the endpoints of the Service "kubernetes".
func (s *apiServers) remember(packed proxy.PackedSlice) error {
	if packed.Service() != "default/kubernetes" {
		return nil
	}
	var list []string
	slice, _ := packed.Unpack() // it is whole
	for _, p := range slice.Ports {
		for _, e := range slice.Endpoints {
			for _, a := range e.Addrs {
				list = append(list, "https://"+netip.AddrPortFrom(a, p.Port).String())
			}
		}
	}
	slices.Sort(list)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(list) == 0 || slices.Equal(list, s.seen) {
		return nil
	}
	s.seen = list
	s.mergeLocked()
	if err := writeWhole(s.file, []byte(strings.Join(list, "\n")+"\n")); err != nil {
		return fmt.Errorf("remember API servers: %w", err)
	}
	return nil
}

// learn remembers, and says why it cannot.
func (s *apiServers) learn(log *slog.Logger) func(proxy.PackedSlice) {
	return func(slice proxy.PackedSlice) {
		if s == nil { // the client needs none
			return
		}
		if err := s.remember(slice); err != nil {
			log.Warn("the API servers of now are not known after a reboot", "err", err)
		}
	}
}

// wrap has a transport ask the servers in turn.
func (s *apiServers) wrap(next http.RoundTripper) http.RoundTripper { return turns{s, next} }

type turns struct {
	*apiServers
	next http.RoundTripper
}

// RoundTrip asks the server that answered last, and the others if nobody is there. What has been sent, and may have been heard, is not sent again.
func (t turns) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	all, first := t.all, t.newest
	t.mu.Unlock()
	var errs []error
	for i := range all {
		at := (first + i) % len(all)
		one := req.Clone(req.Context())
		one.URL.Scheme, one.URL.Host, one.Host = all[at].Scheme, all[at].Host, ""
		if i > 0 && req.Body != nil && req.Body != http.NoBody {
			if req.GetBody == nil {
				break
			}
			body, err := req.GetBody()
			if err != nil {
				break
			}
			one.Body = body
		}
		resp, err := t.next.RoundTrip(one)
		if err == nil {
			t.mu.Lock()
			if at < len(t.all) && t.all[at].Host == all[at].Host {
				t.newest = at
			}
			t.mu.Unlock()
			return resp, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", all[at].Host, err))
		if req.Context().Err() != nil || req.Method != http.MethodGet && !unreached(err) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// unreached says that a request has reached nobody.
func unreached(err error) bool {
	var op interface{ Timeout() bool }
	return strings.Contains(err.Error(), "dial ") || errors.As(err, &op) && op.Timeout()
}

// writeWhole makes a file have the content whatever happens meanwhile.
func writeWhole(path string, content []byte) (err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return replaceFile(path, func(f io.Writer) error {
		_, err := f.Write(content)
		return err
	})
}

// replaceFile makes a file have what write writes, or leaves it as it was.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".new-" + strconv.Itoa(os.Getpid())
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(0o600))
	if err != nil {
		return err
	}
	if err = errors.Join(write(f), f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}
