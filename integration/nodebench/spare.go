package nodebench

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"
)

// spare is a connection to the API server that has been made, has shown who is asking, and has had an answer already. A
// stream takes its connection over, and clients make one for each: this shows what a stream costs one that kept another.
// It is lent at an address of its own, for clients can be told of no connection.
type spare struct {
	tls    *tls.Config
	server string // host and port
	lent   net.Listener
	conns  chan net.Conn // at most one, ready
}

func newSpare(config *rest.Config) (*spare, error) {
	u, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	s := &spare{server: u.Host, conns: make(chan net.Conn, 1)}
	if s.tls, err = rest.TLSConfigFor(config); err != nil {
		return nil, err
	}
	s.tls = s.tls.Clone()
	s.tls.ServerName, s.tls.NextProtos = u.Hostname(), []string{"http/1.1"}
	if s.lent, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go s.lend()
	return s, nil
}

// config is for clients that are to take the connection.
func (s *spare) config() *rest.Config {
	return &rest.Config{Host: "http://" + s.lent.Addr().String(), Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
}

func (s *spare) close() {
	s.lent.Close()
	select {
	case conn := <-s.conns:
		conn.Close()
	default:
	}
}

// ready makes the connection, if the last was taken.
func (s *spare) ready(ctx context.Context) error {
	if len(s.conns) > 0 {
		return nil
	}
	conn, err := (&tls.Dialer{Config: s.tls}).DialContext(ctx, "tcp", s.server)
	if err != nil {
		return err
	}
	if err := ask(ctx, conn, s.server); err != nil {
		return errors.Join(err, conn.Close())
	}
	s.conns <- conn
	return nil
}

// ask makes one request on a connection, and leaves it open.
func ask(ctx context.Context, conn net.Conn, server string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+"/version", nil)
	if err != nil {
		return err
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the API server answers %s", answer.Status)
	}
	return nil
}

// lend gives the connection to who asks for it, until close.
func (s *spare) lend() {
	for {
		client, err := s.lent.Accept()
		if err != nil {
			return
		}
		server := <-s.conns
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			go func() {
				_, _ = io.Copy(way[0], way[1]) // ends with either
				way[0].Close()
			}()
		}
	}
}
