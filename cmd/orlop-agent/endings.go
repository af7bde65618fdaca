package main

import (
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/bpf/sockend"
	"github.com/orlop-io/orlop/bpf/socklb"
)

// netnsDir is where runtimes have a file for the network namespace of each pod.
const netnsDir = "/run/netns"

// endings ends sockets that are connected to endpoints which are gone. A nil one cannot.
type endings struct {
	finder *socklb.Finder
	ender  *sockend.Ender
	ended  atomic.Uint64
	missed []uint32 // network namespaces that were told of
	log    *slog.Logger
}

func openEndings(lb *socklb.LB, log *slog.Logger) (*endings, error) {
	ender, err := sockend.Open(podnet.Config{Folders: []string{netnsDir}, Proc: "/proc"})
	if err != nil {
		return nil, err
	}
	finder, err := lb.Finder()
	if err != nil {
		return nil, err
	}
	return &endings{finder: finder, ender: ender, log: log}, nil
}

// run looks for such sockets once.
func (e *endings) run() error {
	list, err := e.finder.Find()
	if err != nil {
		return err
	}
	n, missed, err := e.ender.End(list)
	e.ended.Add(uint64(n))
	if n > 0 {
		e.log.Info("ended sockets that were connected to endpoints which are gone", "sockets", n)
	}
	if len(missed) > 0 && !slices.Equal(missed, e.missed) {
		e.log.Warn("sockets stay connected to endpoints that are gone: their network namespaces have no file", "folder", netnsDir, "netns", missed)
		e.missed = missed
	}
	if err != nil {
		return fmt.Errorf("end sockets: %w", err)
	}
	return nil
}

func (e *endings) close() {
	if e != nil {
		e.finder.Close()
	}
}
