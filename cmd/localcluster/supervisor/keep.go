package supervisor

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// Program is one that Keep keeps running.
type Program struct {
	Name   string // of its log, without .log
	LogDir string
	Argv   []string
	Files  []*os.File // the program has them from descriptor 3 on
}

// Keep runs a program as our child until ctx ends, and starts it again, with back-off, whenever
// it ends. It waits for every child of this process, so nothing else here may.
func Keep(ctx context.Context, p Program, log *slog.Logger) error {
	r := &reaper{waiting: map[int]chan<- syscall.WaitStatus{}}
	s := &service{
		name: p.Name, log: log, dir: p.LogDir, files: p.Files,
		command: func() ([]string, []string, error) { return p.Argv, os.Environ(), nil },
		ready:   func() bool { return true },
	}
	reaping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var reaper sync.WaitGroup
	reaper.Go(func() { r.run(reaping) })
	s.run(ctx, r)
	stop()
	reaper.Wait()
	return nil
}
