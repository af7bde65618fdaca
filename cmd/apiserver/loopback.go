package apiserver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/google/uuid"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// loopbackLife is how long the server can go without a restart before it stops trusting itself.
const loopbackLife = 10 * 365 * 24 * time.Hour

// setLoopback lets the server be its own client. The library does the same with two RSA keys, which take longer to make
// than all the rest of the start.
func setLoopback(gc *genericapiserver.Config) error {
	name := genericapiserver.LoopbackClientServerNameOverride
	cert, key, err := selfSigned(name, time.Now())
	if err != nil {
		return fmt.Errorf("make loopback certificate: %w", err)
	}
	content, err := dynamiccertificates.NewStaticSNICertKeyContent("self-signed loopback", cert, key, name)
	if err != nil {
		return fmt.Errorf("make loopback certificate: %w", err)
	}
	// In front: it must win over any other certificate of that name.
	gc.SecureServing.SNICerts = append([]dynamiccertificates.SNICertKeyContentProvider{content}, gc.SecureServing.SNICerts...)
	gc.LoopbackClientConfig, err = gc.SecureServing.NewLoopbackClientConfig(uuid.NewString(), cert)
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	return nil
}

// selfSigned returns a certificate that is its own authority, and its key, as PEM.
func selfSigned(name string, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(loopbackLife), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	var c, k bytes.Buffer
	if err := pem.Encode(&c, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return nil, nil, err
	}
	if err := pem.Encode(&k, &pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}); err != nil {
		return nil, nil, err
	}
	return c.Bytes(), k.Bytes(), nil
}
