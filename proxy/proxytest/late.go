package proxytest

import (
	"net"
	"net/netip"
	"time"

	"github.com/orlop-io/orlop/proxy"
)

// An endpoint that goes between a question and its answer still answers: a socket that does not connect has that from the address that it asked, or, where the
// mode lacks that, from the endpoint's own, or, by userspace, not at all.
func (r *run) answersLate() {
	const own = "10.10.0.1:9090"
	model := func(end string) proxy.Model {
		at := netip.MustParseAddrPort(end)
		return proxy.Model{"late": &proxy.Group{
			Port: "default/late:dns", Backends: []netip.AddrPort{at}, Here: []netip.Addr{at.Addr()},
			Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr(VIP), Port: 90, Protocol: proxy.UDP, Scope: proxy.Inside}},
		}}
	}
	var server net.PacketConn
	r.Must(r.Pods[0].Do(func() (err error) {
		server, err = net.ListenPacket("udp", own)
		return err
	}))
	defer server.Close()
	r.set(model(own))
	finish := r.start(r.Pods[1], order{Network: "udp4", Addr: VIP + ":90", Times: 1, Unconnected: true, Wait: 2 * time.Second})
	_ = server.SetDeadline(time.Now().Add(5 * time.Second))
	_, client, err := server.ReadFrom(make([]byte, 10))
	if err != nil {
		r.T.Fatalf("the question does not come: %v", err)
	}
	r.set(model("10.10.0.2:9090"))
	_, err = server.WriteTo([]byte("late<"), client)
	r.Must(err)
	want := VIP + ":90"
	switch {
	case r.mode.Name == proxy.ModeUserspace && r.lacks(proxy.LateAnswers):
		want = ""
	case r.lacks(proxy.LateAnswers):
		want = own
	}
	if out := finish(); out.Saw[want] != 1 && (want != "" || len(out.Saw) > 0) {
		r.T.Errorf("the answer comes from %v, failed %v; want %q", out.Saw, out.Failed, want)
	}
}
