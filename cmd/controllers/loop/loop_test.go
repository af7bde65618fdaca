package loop

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
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
