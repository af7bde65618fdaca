package metricsapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// fresh is how old an answer may be: kubelets are asked at most as often.
	fresh = 10 * time.Second
	// stale is how old the earlier of two looks may be to say something about now.
	stale = 90 * time.Second
	// pause is how long a first look waits for its second.
	pause = time.Second
	// patience is how long a kubelet may take to answer.
	patience = 5 * time.Second
	// mostBytes bounds what a kubelet may answer: 500 pods of ten containers are a tenth of it.
	mostBytes = 16 << 20
)

// scrape reads a node's kubelet.
type scrape func(ctx context.Context, node string) (*sample, error)

// collector asks kubelets when somebody wants to know, and not otherwise: CPU use is a difference, so whoever is the
// first to ask for a node waits for a second look; who comes often is answered from the look before.
type collector struct {
	scrape scrape
	now    func() time.Time
	pause  time.Duration

	mu    sync.Mutex
	nodes map[string]*watched
}

// watched are the last two looks at a node. Its mutex is held while it is looked at: others wait for the same answer.
type watched struct {
	mu           sync.Mutex
	before, last *sample
}

func newCollector(s scrape) *collector {
	return &collector{scrape: s, now: time.Now, pause: pause, nodes: map[string]*watched{}}
}

// look gives two looks at a node, the newer one fresh.
func (c *collector) look(ctx context.Context, node string) (before, last *sample, err error) {
	w := c.node(node)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := c.now()
	if w.before != nil && now.Sub(w.last.at) < fresh {
		return w.before, w.last, nil
	}
	if w.last == nil || now.Sub(w.last.at) > stale {
		if w.last, err = c.scrape(ctx, node); err != nil {
			w.before, w.last = nil, nil
			return nil, nil, err
		}
	}
	if wait := c.pause - c.now().Sub(w.last.at); wait > 0 {
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(wait):
		}
	}
	newest, err := c.scrape(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	w.before, w.last = w.last, newest
	return w.before, w.last, nil
}

func (c *collector) node(name string) *watched {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.nodes[name]
	if w == nil {
		w = &watched{}
		c.nodes[name] = w
	}
	return w
}

// keep forgets all nodes that are not there any more.
func (c *collector) keep(there map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.nodes {
		if !there[name] {
			delete(c.nodes, name)
		}
	}
}

// overHTTP scrapes the kubelets that find knows.
func overHTTP(find Kubelets, now func() time.Time) scrape {
	return func(ctx context.Context, node string) (*sample, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		kubelet, err := find(ctx, node)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, kubelet.URL("/metrics/resource", nil).String(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := kubelet.Transport.RoundTrip(req)
		if err != nil {
			return nil, fmt.Errorf("ask the kubelet of node %s for its metrics: %w", node, err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("ask the kubelet of node %s for its metrics: %s", node, resp.Status)
		}
		return parse(io.LimitReader(resp.Body, mostBytes), now())
	}
}
