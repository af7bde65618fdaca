package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/nft"
)

// socketName is where, in the run folder, a running agent says what it does with services. Whoever may open it is root on the node.
const socketName = "agent.sock"

// report is what a running agent says of services.
type report struct {
	Mode     string    `json:"mode"`
	Services []service `json:"services"`
}

// service is one as it should be, and what the kernel has of it.
type service struct {
	proxy.Explained
	// Kernel is what clients inside and outside get at each address, read from the maps that programs and nftables read. Nil in other modes.
	Kernel []inKernel `json:"kernel,omitempty"`
}

type inKernel struct {
	known    bool
	At       netip.AddrPort   `json:"at"`
	Protocol string           `json:"protocol"`
	From     string           `json:"from"`
	There    bool             `json:"there"`
	Stays    bool             `json:"stays,omitempty"` // by a chain whose backends are not read
	Backends []netip.AddrPort `json:"backends"`
}

// answerServices serves report at the socket until ctx ends.
func (a *agent) answerServices(ctx context.Context) error {
	path := filepath.Join(a.o.runDir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that was killed; the lock says that there is no other
		return fmt.Errorf("remove old socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("answer questions about services: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("close socket to others: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /services", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("name")
		rep, err := a.report(func(key string) bool { return name == "" || name == key })
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(rep) // whoever asked has gone
	})
	mux.HandleFunc("GET /traffic", func(w http.ResponseWriter, _ *http.Request) {
		rep, err := a.traffic()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(rep) // whoever asked has gone
	})
	return serveOn(ctx, l, mux)
}

func (a *agent) traffic() (trafficReport, error) {
	read := a.svc.traffic()
	if read == nil {
		return trafficReport{}, fmt.Errorf("mode %s does not count what becomes of Services' clients (orlop-agent limits)", a.svc.mode)
	}
	ports, err := read()
	return trafficReport{Mode: a.svc.mode, At: time.Now(), Ports: ports}, err
}

func (a *agent) report(wanted func(string) bool) (report, error) {
	rep := report{Mode: a.svc.mode, Services: []service{}}
	for _, e := range a.proxy.Explain(wanted) {
		rep.Services = append(rep.Services, service{Explained: e})
	}
	look, err := a.svc.held()
	if err != nil {
		return report{}, err
	}
	for i := range rep.Services {
		rep.Services[i].Kernel = kernelOf(rep.Services[i].Explained, look)
	}
	return rep, nil
}

// held reads what the kernel has, and returns how to look something of it up; nothing is known in modes that have no maps.
func (s *services) held() (func(proxy.Frontend) inKernel, error) {
	var sockets map[socklb.Frontend]socklb.Entry
	var tables map[proxy.Frontend]nft.Held
	var err error
	of := proxy.Scope(0) // what the tables are for
	table, _ := s.packets.(*nft.Backend)
	if s.lb != nil {
		sockets, err = s.lb.Frontends()
	}
	if err == nil && table != nil {
		tables, err = table.Held()
		if of = proxy.Outside; s.mode == modeNftables {
			of = proxy.Everywhere
		}
	}
	return func(f proxy.Frontend) (k inKernel) {
		switch {
		case f.Scope&of != 0:
			if f.Addr.IsUnspecified() { // all of the node's addresses have the same
				i := slices.IndexFunc(table.NodePorts(), func(a netip.Addr) bool { return a.Is4() == f.Addr.Is4() })
				if i < 0 {
					return k
				}
				f.Addr = table.NodePorts()[i]
			}
			h, there := tables[f]
			return inKernel{known: true, There: there, Backends: h.Backends, Stays: h.Stays}
		case s.lb != nil:
			e, there := sockets[socklb.Frontend{Addr: f.Addr, Port: f.Port, Protocol: uint8(f.Protocol), Outside: f.Scope == proxy.Outside}]
			list, _ := s.lb.Backends(e.Generation, e.Count) // a generation that has gone meanwhile shows as none
			k = inKernel{known: true, There: there}
			for _, b := range list {
				k.Backends = append(k.Backends, b.AddrPort)
			}
		}
		return k
	}, err
}

// kernelOf looks up the addresses that clients ask for, inside and outside.
func kernelOf(e proxy.Explained, look func(proxy.Frontend) inKernel) (out []inKernel) {
	for _, d := range e.Groups {
		for _, a := range d.Addresses {
			for _, scope := range []proxy.Scope{proxy.Inside, proxy.Outside} {
				if a.From != scope.String() && a.From != proxy.Everywhere.String() {
					continue
				}
				k := look(proxy.Frontend{Addr: a.At.Addr(), Port: a.At.Port(), Protocol: proxy.Protocol(protocolNumber(a.Protocol)), Scope: scope})
				if k.At, k.Protocol, k.From = a.At, a.Protocol, scope.String(); k.known {
					out = append(out, k)
				}
			}
		}
	}
	return out
}

func protocolNumber(name string) uint8 {
	if name == proxy.UDP.String() {
		return uint8(proxy.UDP)
	}
	return uint8(proxy.TCP)
}

// wrong says of a service where the kernel differs from what it should have; empty is as it should be.
func (s service) wrong() string {
	for _, k := range s.Kernel {
		for _, d := range s.Groups {
			if !slices.ContainsFunc(d.Addresses, func(a proxy.Address) bool {
				return a.At == k.At && a.Protocol == k.Protocol && (a.From == k.From || a.From == proxy.Everywhere.String())
			}) {
				continue
			}
			if !k.There {
				return fmt.Sprintf("%s from %s is not in the kernel", k.At, k.From)
			}
			if got := slices.SortedFunc(slices.Values(k.Backends), netip.AddrPort.Compare); !k.Stays && !slices.Equal(got, d.Used()) {
				return fmt.Sprintf("the kernel sends %s from %s to %s", k.At, k.From, join(got))
			}
		}
	}
	return ""
}

func join(list []netip.AddrPort) string {
	if len(list) == 0 {
		return "none"
	}
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

// askAgent gets the report of the agent that runs on this node; name narrows it to one service.
func askAgent(ctx context.Context, runDir, name string) (rep report, err error) {
	err = askAgentFor(ctx, runDir, "services?name="+name, &rep)
	return rep, err
}

// askAgentFor reads one of the agent's answers into one.
func askAgentFor(ctx context.Context, runDir, what string, answer any) error {
	path := filepath.Join(runDir, socketName)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no agent answers at %s: it does not run on this node, or is not root's to ask", path)
	}
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("ask the agent: %s", strings.TrimSpace(string(b)))
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}
