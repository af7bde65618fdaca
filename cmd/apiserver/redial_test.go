package apiserver

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestRedial(t *testing.T) {
	refused := errors.New("refused")
	for name, tt := range map[string]struct {
		back time.Duration // when somebody listens again
		want error
		took time.Duration
	}{
		"there":                    {0, nil, 0},
		"back after a while":       {1100 * time.Millisecond, nil, 1250 * time.Millisecond},
		"not back in all the time": {time.Hour, refused, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, err := redial(func(context.Context, string, string) (net.Conn, error) {
					if time.Since(began) < tt.back {
						return nil, refused
					}
					return nil, nil
				})(ctx, "tcp", "etcd:2379")
				if !errors.Is(err, tt.want) || time.Since(began) != tt.took {
					t.Errorf("%v after %v, want %v after %v", err, time.Since(began), tt.want, tt.took)
				}
			})
		})
	}
}
