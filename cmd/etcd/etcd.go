// Package etcd is etcd itself, as its own program runs it: the store of all cluster state.
package etcd

import (
	"context"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/orlop-io/orlop/cmd/memory"
)

// Main runs etcd with args, the command line without the program's name. It does not return: etcd ends the process
// itself, on SIGTERM after it has given leadership away.
func Main(args []string) {
	if os.Getenv("GOGC") == "" {
		// It ends with the process, as etcd does.
		go memory.Pace(context.Background(), collection())
	}
	etcdmain.Main(append([]string{"etcd"}, args...))
}

// collection is Go's own while etcd is calm: what it holds is an index, which hardly changes.
func collection() memory.Config {
	return memory.Config{Calm: 100, Busy: 100, Room: 96 << 20, Rate: 8 << 20, After: 12 * time.Second}
}
