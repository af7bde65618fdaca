package main

import (
	"io"
	"os"
	"testing"
	"time"
)

func TestJudgeIdle(t *testing.T) {
	at := func(cpu time.Duration, mb int64) []process {
		return []process{{name: "kube-controller", pid: 1, pss: mb * 1e6, cpu: cpu}, {name: "kube-scheduler", pid: 2, pss: 10e6}, {name: "etcd", pid: 3, pss: 900e6, cpu: 9 * cpu}}
	}
	for name, tc := range map[string]struct {
		cpu  time.Duration
		mb   int64
		good bool
	}{"little": {2 * time.Second, 40, true}, "too busy": {4 * time.Second, 40, false}, "too large": {time.Second, 51, false}} {
		if err := judgeIdle(at(0, 40), at(tc.cpu, tc.mb), 5*time.Minute, io.Discard); (err == nil) != tc.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	if judgeIdle(nil, at(0, 40), time.Minute, io.Discard) == nil || judgeIdle(nil, nil, time.Minute, io.Discard) == nil {
		t.Error("a program that was not there, or is not, counts as idle")
	}
}

func TestTimeOf(t *testing.T) {
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		if took, err := timeOf(os.Getpid()); err != nil {
			t.Fatal(err)
		} else if took > 0 {
			return
		}
	}
	t.Error("ten seconds of work took no time")
}
