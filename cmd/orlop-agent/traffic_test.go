package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/orlop-io/orlop/proxy"
)

func TestTrafficHasBoundedSeriesThatNeverFall(t *testing.T) {
	all := map[string]proxy.Traffic{"ns/a:http": {Connections: 5, PacketsIn: 1}, "ns/b": {Connections: 9, Failures: 1}, "ns/c": {Connections: 1}}
	m := newTraffic(func() (map[string]proxy.Traffic, error) { return all, nil })
	m.most = 2
	values := func() map[string]float64 {
		t.Helper()
		r := prometheus.NewRegistry()
		r.MustRegister(m)
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, s := range f.Metric {
				var labels []string
				for _, l := range s.Label {
					labels = append(labels, l.GetValue())
				}
				out[strings.TrimPrefix(f.GetName(), "orlop_proxy_service_")+" "+strings.Join(labels, ",")] = s.Counter.GetValue()
			}
		}
		return out
	}
	want := map[string]float64{
		"connections_total ns,http,a": 5, "connections_total ns,,b": 9, "connections_total ,,": 1, "failures_total ns,http,a": 0, "failures_total ns,,b": 1, "failures_total ,,": 0,
		"packets_total in,ns,http,a": 1, "packets_total out,ns,http,a": 0, "bytes_total in,ns,http,a": 0, "bytes_total out,ns,http,a": 0,
	}
	if d := cmp.Diff(want, values()); d != "" {
		t.Error(d)
	}
	all["ns/c"] = proxy.Traffic{Connections: 100} // the busiest now: its counts stay where they are
	if got := values(); got["connections_total ,,"] != 100 || got["connections_total ns,http,a"] != 5 || len(got) != len(want) {
		t.Errorf("%v", got)
	}
	delete(all, "ns/a:http")
	if got := values(); got["connections_total ns,,c"] != 100 {
		t.Errorf("%v: want a series of its own for c", got)
	}
}

// Whoever scrapes, and however many do, a reading of many services' rules takes a tenth of a processor at most.
func TestSparingReadsSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, took := uint64(0), time.Duration(0)
		var bad error
		read := sparing(func() (map[string]proxy.Traffic, error) {
			n++
			time.Sleep(took)
			return map[string]proxy.Traffic{"ns/a": {Connections: n}}, bad
		})
		for _, step := range []struct {
			after, took time.Duration
			err         error
			want        uint64
		}{
			{0, 0, nil, 1}, {900 * time.Millisecond, 0, nil, 1}, {200 * time.Millisecond, 3 * time.Second, nil, 2}, {29 * time.Second, 0, nil, 2},
			{2 * time.Second, 0, errors.New("no"), 0}, {0, 0, nil, 4},
		} {
			time.Sleep(step.after)
			took, bad = step.took, step.err
			if all, err := read(); err != step.err || all["ns/a"].Connections != step.want {
				t.Errorf("%+v: %v, %v", step, all, err)
			}
		}
	})
}

func TestTop(t *testing.T) {
	at := time.Unix(100, 0)
	reports := []trafficReport{
		{Mode: "ebpf", At: at, Ports: map[string]proxy.Traffic{"ns/a:http": {Connections: 100}, "default/b": {Connections: 50, Failures: 1}}},
		{Mode: "ebpf", At: at.Add(2 * time.Second), Ports: map[string]proxy.Traffic{
			"ns/a:http": {Connections: 103}, "default/b": {Connections: 60, Failures: 5, PacketsIn: 30, PacketsOut: 10, BytesIn: 4000, BytesOut: 3e6}, "ns/new": {Failures: 2},
		}},
	}
	for _, tt := range []struct {
		name, service string
		change        func(*topOptions)
		want          string
	}{
		{"as it comes", "", func(*topOptions) {}, `SERVICE     CONN/s   FAIL/s   PKT/s   IN B/s   OUT B/s   CONNECTIONS   FAILURES
default/b   5.0      2.0      20      2.0k     1.5M      60            5
ns/a:http   1.5      0.0      0       0        0         103           0
ns/new      0.0      1.0      0       0        0         0             2
`},
		{"by failures, one, no headers", "", func(o *topOptions) { o.sortBy, o.limit, o.noHeaders = "failures", 1, true }, "default/b   5.0   2.0   20   2.0k   1.5M   60   5\n"},
		{"one service", "b", func(o *topOptions) { o.noHeaders = true }, "default/b   5.0   2.0   20   2.0k   1.5M   60   5\n"},
		{"another order", "", func(o *topOptions) { o.sortBy = "cpu" }, "--sort-by=cpu: want connections, failures, packets or bytes"},
		{"too often", "", func(o *topOptions) { o.interval = time.Millisecond }, "--interval=1ms: want 100ms or more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := topOptions{sortBy: "connections", interval: 100 * time.Millisecond, output: new(string)}
			tt.change(&o)
			asked := 0
			var b strings.Builder
			err := o.run(t.Context(), func(context.Context) (trafficReport, error) { asked++; return reports[asked-1], nil }, tt.service, &b)
			if err != nil {
				fmt.Fprint(&b, err)
			}
			if d := cmp.Diff(tt.want, b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

// What of the metrics cannot be read now does not take the others away.
func TestMetricsWithoutAPart(t *testing.T) {
	m := &metrics{registry: prometheus.NewRegistry()}
	there := prometheus.NewGauge(prometheus.GaugeOpts{Name: "there", Help: "It is."})
	m.registry.MustRegister(there, newTraffic(func() (map[string]proxy.Traffic, error) { return nil, errors.New("no such map") }))
	var log bytes.Buffer
	w := httptest.NewRecorder()
	m.handler(slog.New(slog.NewTextHandler(&log, nil))).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "there 0") || !strings.Contains(log.String(), "no such map") {
		t.Errorf("%d: %s; log: %s", w.Code, w.Body, log.String())
	}
}
