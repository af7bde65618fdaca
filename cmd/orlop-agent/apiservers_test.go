package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/proxy"
)

func TestAPIServersInTurn(t *testing.T) {
	var servers [3]*httptest.Server
	for i := range servers {
		servers[i] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, i, r.URL.Path, string(body))
		}))
		t.Cleanup(servers[i].Close)
	}
	dir := t.TempDir()
	s, err := newAPIServers([]string{servers[0].URL, servers[1].URL}, dir)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: s.wrap(http.DefaultTransport)}
	ask := func(method, body string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, "https://10.96.0.1/api", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	if got := ask(http.MethodGet, ""); got != "0/api" {
		t.Errorf("first: %s", got)
	}
	servers[0].Close()
	if got := ask(http.MethodPatch, "x"); got != "1/apix" {
		t.Errorf("with the first away: %s", got)
	}

	third := netip.MustParseAddrPort(strings.TrimPrefix(servers[2].URL, "http://"))
	port := int32(third.Port())
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		Ports:      []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{third.Addr().String()}}},
	}
	other := slice.DeepCopy()
	other.Namespace = "evil"
	for _, sl := range []*discoveryv1.EndpointSlice{slice, other} {
		from, _ := proxy.FromSlice(sl, "a")
		if err := s.remember(from.Pack()); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.all) != 3 {
		t.Errorf("servers %v", s.all)
	}
	again, err := newAPIServers([]string{servers[0].URL}, dir) // after a reboot, with the one that is named away
	if err != nil || len(again.all) != 2 || again.all[1].String() != "https://"+third.String() {
		t.Fatalf("remembered %v, %v", again.all, err)
	}
	again.all[1].Scheme = "http"
	client.Transport = again.wrap(http.DefaultTransport)
	if got := ask(http.MethodGet, ""); got != "2/api" {
		t.Errorf("the remembered one: %s", got)
	}
	servers[2].Close()
	if got := ask(http.MethodGet, ""); !strings.Contains(got, servers[0].URL[7:]) || !strings.Contains(got, third.String()) {
		t.Errorf("the error does not name both: %s", got)
	}
	for _, wrong := range []string{"192.0.2.1:6443", "ftp://x", ""} {
		if _, err := newAPIServers([]string{wrong}, dir); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}
