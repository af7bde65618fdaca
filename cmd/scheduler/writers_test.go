package scheduler

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// All is written, by no more than so many at once, who end when there is nothing more, or when the scheduler does.
func TestWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := &Scheduler{slots: make(chan struct{}, writers), writes: make(chan func())}
		var mu sync.Mutex
		var done, now, most int
		write := func() {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			now--
			done++
			mu.Unlock()
		}
		const rounds = 20
		for range rounds * writers {
			s.async(ctx, write)
		}
		began := time.Now()
		s.writing.Wait()
		if took := time.Since(began); done != rounds*writers || most != writers || len(s.slots) > 0 || took < writerIdle || took > 2*writerIdle {
			t.Errorf("%d of %d written, %d at once, %d slots taken, writers left after %v", done, rounds*writers, most, len(s.slots), took)
		}
		s.async(ctx, write)
		began = time.Now()
		cancel()
		s.writing.Wait()
		if took := time.Since(began); done != rounds*writers+1 || took >= writerIdle {
			t.Errorf("when the scheduler ended, %d were written, and writers left after %v", done, took)
		}
		for range 2 * writers {
			s.async(ctx, func() {}) // returns, though nobody may take it any more
		}
		s.writing.Wait()
	})
}
