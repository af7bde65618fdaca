package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// mtlsServer answers whoever shows a certificate that its trust bundle knows with the URI in it. The bundles are read
// anew for each connection, for they are renewed.
func mtlsServer(_ *stdio, args []string) error {
	flags := flag.NewFlagSet("mtlsserver", flag.ContinueOnError)
	listen := flags.String("listen", ":8443", "address")
	creds := flags.String("server-creds", "", "key and chain")
	trust := flags.String("spiffe-trust-bundle", "", "who may be a client")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server := &http.Server{Addr: *listen, ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, uris(r.TLS.PeerCertificates))
		}),
		TLSConfig: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, pool, err := identity(*creds, *trust)
			return &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}, err
		}}}
	return server.ListenAndServeTLS("", "")
}

// mtlsClient asks such a server, and prints whom it took us for.
func mtlsClient(s *stdio, args []string) error {
	flags := flag.NewFlagSet("mtlsclient", flag.ContinueOnError)
	fetch := flags.String("fetch-url", "", "what to ask")
	creds := flags.String("client-cred-bundle", "", "key and chain")
	trust := flags.String("server-trust-bundle", "", "who may be the server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cert, pool, err := identity(*creds, *trust)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}}}
	res, err := client.Get(*fetch)
	if err != nil {
		return err
	}
	_, err = io.Copy(s.out, res.Body)
	return errors.Join(err, res.Body.Close())
}

func identity(creds, trust string) (tls.Certificate, *x509.CertPool, error) {
	cert, err := tls.LoadX509KeyPair(creds, creds)
	if err != nil {
		return cert, nil, err
	}
	text, err := os.ReadFile(trust)
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(text) {
		err = fmt.Errorf("no certificate in %s", trust)
	}
	return cert, pool, err
}

func uris(chain []*x509.Certificate) string {
	if len(chain) == 0 || len(chain[0].URIs) == 0 {
		return ""
	}
	return chain[0].URIs[0].String()
}
