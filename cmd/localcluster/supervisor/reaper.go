package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// reaper starts children and waits for all of them, also for those that only became ours when
// their parent died (shims do). Nothing else in the process may wait for a child.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan<- syscall.WaitStatus
}

// start runs a program; its end is sent once on the channel.
func (r *reaper) start(argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	ended := make(chan syscall.WaitStatus, 1)
	// Held over the fork, so that Run cannot look for the child before it is in the map.
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	r.waiting[pid] = ended
	return pid, ended, nil
}

func (r *reaper) run(ctx context.Context) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	defer signal.Stop(died)
	for {
		for {
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if pid <= 0 {
				break
			}
			r.mu.Lock()
			ended := r.waiting[pid]
			delete(r.waiting, pid)
			r.mu.Unlock()
			if ended != nil {
				ended <- ws
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-died:
		}
	}
}

func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
