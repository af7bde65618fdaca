package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cri"
)

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	opts, previous, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	pod, err := s.pod(r)
	if err != nil {
		s.fail(w, r, refuse(http.StatusNotFound, "pod %q does not exist\n", r.PathValue("pod")))
		return
	}
	id, err := loggedContainer(pod, r.PathValue("container"), previous)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	status, err := s.cfg.Runtime.Container(r.Context(), id)
	if errors.Is(err, cri.ErrNotFound) {
		err = refuse(http.StatusNotFound, "failed to find container %q: it was removed", r.PathValue("container"))
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	opts.ended = func(ctx context.Context) bool { return s.ended(ctx, id) }
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Transfer-Encoding", "chunked")
	out := &flushed{w: w, flush: http.NewResponseController(w)}
	if err := readLog(r.Context(), status.LogPath, opts, out); err != nil && r.Context().Err() == nil {
		if !out.began {
			s.fail(w, r, fmt.Errorf("read log of container %s: %w", r.PathValue("container"), err))
			return
		}
		s.cfg.Log.Info("log broken off", "path", status.LogPath, "err", err)
	}
}

// ended tells whether a container writes no more. While the runtime does not answer, it may still run.
func (s *Server) ended(ctx context.Context, id string) bool {
	status, err := s.cfg.Runtime.Container(ctx, id)
	if err != nil {
		return errors.Is(err, cri.ErrNotFound)
	}
	return status.State == runtimeapi.ContainerState_CONTAINER_EXITED
}

// flushed sends on what is written when it is asked to.
type flushed struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	began bool
}

func (f *flushed) Write(p []byte) (int, error) {
	f.began = true
	return f.w.Write(p)
}

func (f *flushed) Flush() error {
	f.began = true
	return f.flush.Flush()
}

// loggedContainer finds the ID of the container whose log is meant: the one that runs, or ran last, or the one before.
func loggedContainer(pod *v1.Pod, name string, previous bool) (string, error) {
	if !hasContainer(pod, name) {
		return "", refuse(http.StatusNotFound, "container %q not found in pod %q\n", name, pod.Name)
	}
	status := containerStatus(pod, name)
	if status == nil {
		return "", refuse(http.StatusBadRequest, "container %q in pod %q is not available", name, pod.Name)
	}
	last := status.LastTerminationState.Terminated
	if previous {
		if last == nil || last.ContainerID == "" {
			return "", refuse(http.StatusBadRequest, "previous terminated container %q in pod %q not found", name, pod.Name)
		}
		return bareID(last.ContainerID), nil
	}
	switch {
	case status.State.Running != nil:
		return bareID(status.ContainerID), nil
	case status.State.Terminated != nil && status.State.Terminated.ContainerID != "":
		return bareID(status.State.Terminated.ContainerID), nil
	case last != nil && last.ContainerID != "":
		return bareID(last.ContainerID), nil // it waits to be started again
	case status.State.Waiting != nil:
		why := status.State.Waiting.Reason
		if why == "ErrImagePull" || why == "ImagePullBackOff" {
			return "", refuse(http.StatusBadRequest, "container %q in pod %q is waiting to start: %s", name, pod.Name, map[string]string{
				"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}[why])
		}
		return "", refuse(http.StatusBadRequest, "container %q in pod %q is waiting to start: %v", name, pod.Name, why)
	}
	return "", refuse(http.StatusBadRequest, "container %q in pod %q is waiting to start - no logs yet", name, pod.Name)
}

// logOptions reads v1.PodLogOptions from a query.
func logOptions(q url.Values, now time.Time) (o logOpts, previous bool, err error) {
	o.tail, o.limit = -1, -1
	flag := func(name string) bool {
		v := q.Get(name)
		if v == "" {
			return false
		}
		b, parseErr := strconv.ParseBool(v)
		if parseErr != nil {
			err = refuse(http.StatusBadRequest, "invalid %s %q", name, v)
		}
		return b
	}
	number := func(name string, least int64) int64 {
		v := q.Get(name)
		if v == "" {
			return -1
		}
		n, parseErr := strconv.ParseInt(v, 10, 64)
		if parseErr != nil || n < least {
			err = refuse(http.StatusUnprocessableEntity, "invalid %s %q: want a number of at least %d", name, v, least)
		}
		return n
	}
	o.follow, o.timestamps, previous = flag("follow"), flag("timestamps"), flag("previous")
	o.tail, o.limit = number("tailLines", 0), number("limitBytes", 1)
	if n := number("sinceSeconds", 1); n > 0 {
		o.since = now.Add(-time.Duration(n) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		t, parseErr := time.Parse(time.RFC3339, v)
		if parseErr != nil || !o.since.IsZero() {
			err = refuse(http.StatusUnprocessableEntity, "invalid sinceTime %q: want one RFC 3339 time, and not with sinceSeconds", v)
		}
		o.since = t
	}
	switch v := q.Get("stream"); v {
	case "", v1.LogStreamAll:
	case v1.LogStreamStdout:
		o.stream = "stdout"
	case v1.LogStreamStderr:
		o.stream = "stderr"
	default:
		err = refuse(http.StatusUnprocessableEntity, "invalid stream %q", v)
	}
	return o, previous, err
}
