package identity

import (
	"crypto/tls"
	"crypto/x509"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestTimeLeft(t *testing.T) {
	now := time.Unix(1000, 0)
	certificate := func(c *tls.Certificate) *func() *tls.Certificate {
		f := func() *tls.Certificate { return c }
		return &f
	}
	for _, tt := range []struct {
		name string
		of   *func() *tls.Certificate
		want float64
	}{
		{"none is kept", nil, math.Inf(1)},
		{"not signed yet", certificate(nil), math.Inf(1)},
		{"good for an hour", certificate(&tls.Certificate{Leaf: &x509.Certificate{NotAfter: now.Add(time.Hour)}}), 3600},
		{"over", certificate(&tls.Certificate{Leaf: &x509.Certificate{NotAfter: now.Add(-time.Minute)}}), -60},
	} {
		if got := left(tt.of, now); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestMetricsAreOfOneRegistry(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(NewMetrics())
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 5 {
		t.Errorf("%d metrics, want 5", len(all))
	}
}
