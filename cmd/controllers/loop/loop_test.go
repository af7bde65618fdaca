package loop

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// late is a context that ends, and has not yet called those who asked to be called then.
type late struct {
	context.Context
	done chan struct{}
}

func (l late) Done() <-chan struct{} { return l.done }

func (late) AfterFunc(func()) (stop func() bool) { return func() bool { return true } }

// A Loop that sees its end first leaves no goroutine of its queue behind: the bubble would not end.
func TestNothingIsLeftOfARunThatEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("never", func(context.Context, string) error { return nil }, slog.New(slog.DiscardHandler))
		ctx, ended := late{t.Context(), make(chan struct{})}, make(chan error)
		go func() { ended <- l.Run(ctx, 1, func() bool { return false }) }()
		synctest.Wait()
		close(ctx.done)
		<-ended
	})
}

// Under a pace, each sync waits for its turn, and has the context that the turn gave it.
func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var synced []any
		l := New("paced", func(ctx context.Context, k string) error {
			synced = append(synced, k, ctx.Value(key{}))
			return nil
		}, slog.New(slog.DiscardHandler))
		turns := make(chan int)
		ctx, stop := context.WithCancel(Paced(t.Context(), func(ctx context.Context, name string, waiting func() int) context.Context {
			if name != "paced" {
				t.Errorf("turn of %q", name)
			}
			return context.WithValue(ctx, key{}, <-turns)
		}))
		defer func() { stop(); close(turns) }()
		go l.Run(ctx, 1)
		l.Add("a")
		synctest.Wait()
		if len(synced) > 0 {
			t.Error("a sync began before its turn")
		}
		turns <- 7
		synctest.Wait()
		if len(synced) != 2 || synced[0] != "a" || synced[1] != 7 {
			t.Errorf("synced %v", synced)
		}
	})
}

// An object that cannot be synced, or that breaks its sync, is tried less and less often, says why each time, and keeps no
// other waiting. Once it is well it is forgotten that it was not.
func TestABadObjectBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		var mu sync.Mutex // of what both sides read and write
		tried, well := map[string][]time.Duration{}, false
		began := time.Now()
		l := New("careful", func(_ context.Context, key string) error {
			mu.Lock()
			defer mu.Unlock()
			tried[key] = append(tried[key], time.Since(began))
			switch {
			case key == "refused" && !well:
				return errors.New("no such flavour")
			case key == "poison" && !well:
				panic("cannot swallow")
			}
			return nil
		}, slog.New(slog.NewTextHandler(&told, nil)))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx, 1) }()
		l.Add("refused")
		l.Add("poison")
		l.Add("good")
		time.Sleep(time.Hour)
		synctest.Wait()
		mu.Lock()
		for _, key := range []string{"refused", "poison"} {
			times := tried[key]
			if n := len(times); n < 60 || n > 80 { // doubling up to a minute, and one a minute from then on
				t.Errorf("%s was tried %d times in an hour", key, n)
			}
			for i := 2; i < len(times); i++ {
				if last, next := times[i-1]-times[i-2], times[i]-times[i-1]; next < last || next > time.Minute {
					t.Errorf("%s: %s after %s", key, next, last)
				}
			}
		}
		if len(tried["good"]) != 1 || tried["good"][0] != 0 {
			t.Errorf("another object was synced at %v", tried["good"])
		}
		for _, want := range []string{`key=refused err="no such flavour"`, `key=poison panic="cannot swallow"`} {
			if n := strings.Count(told.String(), want); n < 60 {
				t.Errorf("%q was said %d times", want, n)
			}
		}
		well = true
		mu.Unlock()
		time.Sleep(time.Minute)
		mu.Lock()
		well = false
		before := len(tried["refused"])
		mu.Unlock()
		l.Add("refused")
		time.Sleep(time.Second)
		mu.Lock()
		if n := len(tried["refused"]) - before; n < 5 {
			t.Errorf("an object that was well between was tried %d times in a second", n)
		}
		mu.Unlock()
		stop()
		<-ended
	})
}
