// Package manifests reads the pods of a local directory.
//
// It owns nothing and remembers nothing but what it read last. A file that cannot be read or
// understood keeps the pod that it named before, so that a half-written manifest stops nothing.
package manifests

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
)

// Config says what to read.
type Config struct {
	// Dir holds *.yaml, *.yml and *.json; other names, and those beginning with a dot, are left
	// alone. It need not exist yet.
	Dir string
	// Node is the node's name, which becomes part of the pods' names.
	Node string
	// Resync is how often the directory is read although nothing seemed to change; 0 means 20 s.
	Resync time.Duration
}

// Source reads a directory and tells its pods.
type Source struct {
	cfg  Config
	log  *slog.Logger
	set  func([]*v1.Pod)
	last map[string]read // by file
}

// read is what a file held when it was last understood, and the complaint when it was not.
type read struct {
	text      string
	pod       *v1.Pod
	complaint string
}

// New makes a source. set is called with all pods of the directory, first as soon as Run starts,
// then whenever they change; it must not block.
func New(cfg Config, set func([]*v1.Pod), log *slog.Logger) (*Source, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("static pod path %q is not absolute", cfg.Dir)
	}
	if cfg.Node == "" {
		return nil, errors.New("static pods need a node name")
	}
	if cfg.Resync == 0 {
		cfg.Resync = 20 * time.Second
	}
	return &Source{cfg: cfg, log: log, set: set, last: map[string]read{}}, nil
}

// Run reads the directory and follows it until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil { // out of inotify instances: the resync still finds changes
		s.log.Warn("cannot watch for static pods, reading the directory from time to time", "dir", s.cfg.Dir, "err", err)
	} else {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
	}
	tick := time.NewTicker(s.cfg.Resync)
	defer tick.Stop()
	watched, first := false, true
	for {
		if watcher != nil && !watched { // also after the directory was made, or replaced
			watched = watcher.Add(s.cfg.Dir) == nil
		}
		if s.readAll() || first {
			s.set(s.pods())
		}
		first = false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			watched = watched && exists(s.cfg.Dir)
		case ev := <-events:
			if ev.Name == s.cfg.Dir && (ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename)) {
				watched = false
			}
			drain(ctx, events)
		case err := <-failures:
			s.log.Warn("watch for static pods", "dir", s.cfg.Dir, "err", err)
		}
	}
}

func exists(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

// drain waits until a writer has been quiet for a moment, so that a file is read once, whole.
func drain(ctx context.Context, events <-chan fsnotify.Event) {
	quiet := time.NewTimer(10 * time.Millisecond)
	defer quiet.Stop()
	for range 100 {
		select {
		case <-events:
		case <-quiet.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// readAll brings last up to date and says whether any pod changed.
func (s *Source) readAll() bool {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("read static pods", "dir", s.cfg.Dir, "err", err)
		return false // a failed look removes nothing
	}
	changed := false
	present := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			continue
		}
		file := filepath.Join(s.cfg.Dir, name)
		present[file] = true
		changed = s.readFile(file) || changed
	}
	for file := range s.last {
		if !present[file] {
			delete(s.last, file)
			changed = true
		}
	}
	return changed
}

func (s *Source) readFile(file string) bool {
	before := s.last[file]
	text, err := os.ReadFile(file)
	if err == nil && string(text) == before.text && before.complaint == "" && before.pod != nil {
		return false
	}
	var pod *v1.Pod
	if err == nil {
		pod, err = parse(text, file, s.cfg.Node)
	}
	if err != nil {
		if before.complaint != err.Error() {
			s.log.Error("static pod manifest ignored", "file", file, "err", err)
		}
		before.complaint = err.Error()
		s.last[file] = before
		return false
	}
	s.last[file] = read{text: string(text), pod: pod}
	return before.pod == nil || before.pod.UID != pod.UID
}

// pods lists what was read; of two files that name the same pod, the first by name counts.
func (s *Source) pods() []*v1.Pod {
	files := make([]string, 0, len(s.last))
	for f := range s.last {
		files = append(files, f)
	}
	slices.Sort(files)
	names := map[string]string{}
	var out []*v1.Pod
	for _, f := range files {
		p := s.last[f].pod
		if p == nil {
			continue
		}
		key := p.Namespace + "/" + p.Name
		if other, ok := names[key]; ok {
			s.log.Error("two manifests name the same static pod", "pod", key, "used", other, "ignored", f)
			continue
		}
		names[key] = f
		out = append(out, p)
	}
	return out
}
