package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// The API server's names for what flows through a stream.
const (
	paramInput   = "input"
	paramOutput  = "output"
	paramError   = "error"
	paramTTY     = "tty"
	paramCommand = "command"
)

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	req := &runtimeapi.ExecRequest{
		Cmd:    q[paramCommand],
		Tty:    q.Get(paramTTY) == "1",
		Stdin:  q.Get(paramInput) == "1",
		Stdout: q.Get(paramOutput) == "1",
	}
	req.Stderr = q.Get(paramError) == "1" && !req.Tty // a terminal has one way out
	if !req.Stdin && !req.Stdout && !req.Stderr {
		http.Error(w, "you must specify at least 1 of stdin, stdout, stderr", http.StatusBadRequest)
		return
	}
	s.stream(w, r, func(ctx context.Context) (string, error) {
		var err error
		if req.ContainerId, err = s.runningContainer(r); err != nil {
			return "", err
		}
		return s.cfg.Runtime.ExecURL(ctx, req)
	})
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	req := &runtimeapi.AttachRequest{
		Tty:    q.Get(paramTTY) == "1",
		Stdin:  q.Get(paramInput) == "1",
		Stdout: q.Get(paramOutput) == "1",
	}
	req.Stderr = q.Get(paramError) == "1" && !req.Tty
	if !req.Stdin && !req.Stdout && !req.Stderr {
		http.Error(w, "you must specify at least 1 of stdin, stdout, stderr", http.StatusBadRequest)
		return
	}
	s.stream(w, r, func(ctx context.Context) (string, error) {
		var err error
		if req.ContainerId, err = s.runningContainer(r); err != nil {
			return "", err
		}
		return s.cfg.Runtime.AttachURL(ctx, req)
	})
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	req := &runtimeapi.PortForwardRequest{}
	for _, list := range r.URL.Query()["port"] {
		for _, p := range strings.Split(list, ",") {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				http.Error(w, "invalid port "+strconv.Quote(p), http.StatusBadRequest)
				return
			}
			req.Port = append(req.Port, int32(n))
		}
	}
	s.stream(w, r, func(ctx context.Context) (string, error) {
		pod, err := s.pod(r)
		if err != nil {
			return "", err
		}
		if req.PodSandboxId, err = s.sandbox(ctx, pod.Namespace, pod.Name); err != nil {
			return "", err
		}
		return s.cfg.Runtime.PortForwardURL(ctx, req)
	})
}

// sandbox finds the newest ready sandbox of a pod. It goes by name, as a static pod has one UID here and another at the
// API server.
func (s *Server) sandbox(ctx context.Context, namespace, name string) (string, error) {
	all, err := s.cfg.Runtime.Sandboxes(ctx)
	if err != nil {
		return "", err
	}
	var newest *runtimeapi.PodSandbox
	for _, b := range all {
		if b.State == runtimeapi.PodSandboxState_SANDBOX_READY &&
			b.Labels[kubelettypes.KubernetesPodNamespaceLabel] == namespace && b.Labels[kubelettypes.KubernetesPodNameLabel] == name &&
			(newest == nil || b.CreatedAt > newest.CreatedAt) {
			newest = b
		}
	}
	if newest == nil {
		return "", refuse(http.StatusNotFound, "cannot find running sandbox for pod %s/%s", namespace, name)
	}
	return newest.Id, nil
}

// stream hands the caller through to the runtime's streaming server, at the URL that find gets from the runtime.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, find func(context.Context) (string, error)) {
	at, err := find(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	u, err := url.Parse(at)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{s}).ServeHTTP(w, r)
}

type responder struct{ s *Server }

func (p responder) Error(w http.ResponseWriter, r *http.Request, err error) { p.s.fail(w, r, err) }

// fail answers with err and the code that it carries.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	if no, ok := errors.AsType[*refused](err); ok {
		code = no.code
	} else {
		s.cfg.Log.Info("cannot answer", "path", r.URL.Path, "err", err)
	}
	http.Error(w, err.Error(), code)
}

// run runs one command and answers with what it wrote.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id, err := s.runningContainer(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	command := strings.Fields(r.FormValue("cmd"))
	if len(command) == 0 {
		http.Error(w, "no command", http.StatusBadRequest)
		return
	}
	res, err := s.cfg.Runtime.ExecSync(r.Context(), id, command, 2*time.Minute)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	output := append(res.Stdout, res.Stderr...)
	if res.ExitCode != 0 {
		s.fail(w, r, refuse(http.StatusInternalServerError, "command %q exited with %d: %s", command[0], res.ExitCode, output))
		return
	}
	_, _ = w.Write(output) // a caller that has gone needs no answer
}
