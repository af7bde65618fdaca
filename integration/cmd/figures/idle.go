package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// bounds of the controllers and the scheduler together, in a cluster of three nodes that nobody uses.
const (
	idleNodes = 3
	wantCPU   = 1.0 // percent of a core
	// watched is for how long their time is taken: a minute is too short for what happens once in five.
	watched = 5 * time.Minute
	// tick is the unit of times in /proc: USER_HZ, which is 100 on every architecture that this is built for.
	tick = 10 * time.Millisecond
)

// runIdle measures what the controllers and the scheduler cost where nothing happens.
func runIdle(ctx context.Context, bin string, idle time.Duration, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "figures-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	abs, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	const name = "idle"
	orlop := filepath.Join(abs, "orlop")
	defer func() {
		said, derr := exec.Command(orlop, "down", "--name", name).CombinedOutput()
		if derr != nil {
			err = errors.Join(err, fmt.Errorf("orlop down: %w: %s", derr, said))
		}
	}()
	up := exec.CommandContext(ctx, orlop, "up", "--name", name, "--nodes", strconv.Itoa(idleNodes), "--kubeconfig", filepath.Join(dir, "kubeconfig"), "--wait", "5m")
	if said, err := up.CombinedOutput(); err != nil {
		return fmt.Errorf("orlop up: %w: %s", err, said)
	}
	if err := wait(ctx, max(idle, time.Minute)); err != nil {
		return err
	}
	before, err := hostProcesses(name)
	if err != nil {
		return err
	}
	if err := wait(ctx, watched); err != nil {
		return err
	}
	after, err := hostProcesses(name)
	if err != nil {
		return err
	}
	return judgeIdle(before, after, watched, out)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// judgeIdle tells what the two programs cost between two looks that far apart.
func judgeIdle(before, after []process, apart time.Duration, out io.Writer) error {
	var mb, cpu float64
	for _, p := range after {
		if p.name != "kube-controller" && p.name != "kube-scheduler" {
			continue
		}
		found := false
		for _, was := range before {
			if was.pid == p.pid {
				found = true
				cpu += 100 * float64(p.cpu-was.cpu) / float64(apart)
			}
		}
		if !found {
			return fmt.Errorf("%s was started anew while the cluster was idle", p.name)
		}
		mb += float64(p.pss) / 1e6
	}
	if mb == 0 {
		return errors.New("neither controllers nor scheduler were found")
	}
	fmt.Fprintf(out, "Controllers and scheduler together, on %d idle nodes: %.0f MB PSS, wanted <= %d; %.2f %% of a core over %v, wanted <= %.0f.\n\n", idleNodes, mb, wantIdle, cpu, apart, wantCPU)
	if mb > wantIdle || cpu > wantCPU {
		return fmt.Errorf("too much: idle controllers and scheduler take %.0f MB and %.2f %% of a core, wanted are %d and %.0f", mb, cpu, wantIdle, wantCPU)
	}
	return nil
}

// timeOf is the processor's time that a process has had.
func timeOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may have anything in it; the 14th and 15th fields are the times of user and system.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read times of %d: only %d fields", pid, len(fields))
	}
	user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}
