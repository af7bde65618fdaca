package bootstrap

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	leafValidity = 365 * 24 * time.Hour
	caValidity   = 10 * leafValidity
	// clockSkew is how far back certificates begin, for hosts whose clocks differ.
	clockSkew = 5 * time.Minute
)

// identity is a certificate and its key.
type identity struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (i identity) certPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
}

func (i identity) keyPEM() ([]byte, error) { return keyPEM(i.key) }

func keyPEM(key crypto.Signer) ([]byte, error) {
	if k, ok := key.(*rsa.PrivateKey); ok {
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}), nil
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
	}
	return nil, fmt.Errorf("key of type %T cannot be written", key)
}

// pinOf is a CA's pin as kubeadm prints it: the SHA-256 of its public key (RFC
// 7469, section 2.4).
func pinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// leaf is one certificate of the PKI.
type leaf struct {
	name   string // path below the PKI folder, without extension
	ca     string
	cn     string
	org    []string
	usages []x509.ExtKeyUsage
	dns    []string
	ips    []netip.Addr
}

// leaves lists the certificates of a control plane node, as kubeadm lays them out.
func leaves(c Config) []leaf {
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	loopbacks := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	apiNames := []string{c.NodeName, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.Domain}
	apiIPs := []netip.Addr{c.ServiceCIDR.Masked().Addr().Next(), c.Address}
	for _, san := range append([]string{c.EndpointHost()}, c.ExtraSANs...) {
		if ip, err := netip.ParseAddr(san); err == nil {
			apiIPs = append(apiIPs, ip)
		} else if san != "" {
			apiNames = append(apiNames, san)
		}
	}
	etcdNames := []string{c.NodeName, "localhost"}
	etcdIPs := append([]netip.Addr{c.Address}, loopbacks...)
	return []leaf{
		{name: "apiserver", ca: "ca", cn: "kube-apiserver", usages: []x509.ExtKeyUsage{server}, dns: apiNames, ips: apiIPs},
		{name: "apiserver-kubelet-client", ca: "ca", cn: "kube-apiserver-kubelet-client", usages: []x509.ExtKeyUsage{client}},
		{name: "front-proxy-client", ca: "front-proxy-ca", cn: "front-proxy-client", usages: []x509.ExtKeyUsage{client}},
		{name: "etcd/server", ca: "etcd/ca", cn: c.NodeName, usages: []x509.ExtKeyUsage{server, client}, dns: etcdNames, ips: etcdIPs},
		{name: "etcd/peer", ca: "etcd/ca", cn: c.NodeName, usages: []x509.ExtKeyUsage{server, client}, dns: etcdNames, ips: etcdIPs},
		{name: "etcd/healthcheck-client", ca: "etcd/ca", cn: "kube-etcd-healthcheck-client", usages: []x509.ExtKeyUsage{client}},
		{name: "apiserver-etcd-client", ca: "etcd/ca", cn: "kube-apiserver-etcd-client", usages: []x509.ExtKeyUsage{client}},
	}
}

// authorities are the certificate authorities by file name, with their common names.
func authorities() map[string]string {
	return map[string]string{"ca": "kubernetes", "front-proxy-ca": "front-proxy-ca", "etcd/ca": "etcd-ca"}
}

// ensurePKI makes what is missing of the PKI and checks what is there. It
// returns the authorities by file name.
func ensurePKI(p Paths, c Config, now time.Time) (map[string]identity, error) {
	cas := map[string]identity{}
	for name, cn := range authorities() {
		ca, err := ensureCA(p, name, cn, now)
		if err != nil {
			return nil, err
		}
		cas[name] = ca
	}
	var group errgroup.Group
	for _, l := range leaves(c) {
		group.Go(func() error { return ensureLeaf(p, l, cas[l.ca], now) })
	}
	group.Go(func() error { return ensureTokenKey(p) })
	return cas, group.Wait()
}

func ensureCA(p Paths, name, cn string, now time.Time) (identity, error) {
	id, err := readIdentity(p.pki(name+".crt"), p.pki(name+".key"))
	switch {
	case err == nil:
		if !id.cert.IsCA {
			return identity{}, fmt.Errorf("%s is not a certificate authority: move it away, or put the right one there", p.pki(name+".crt"))
		}
		return id, nil
	case !errors.Is(err, fs.ErrNotExist):
		return identity{}, err
	}
	key, err := newKey()
	if err != nil {
		return identity{}, err
	}
	tmpl := template(cn, nil, now, caValidity)
	tmpl.IsCA = true
	tmpl.KeyUsage |= x509.KeyUsageCertSign
	tmpl.DNSNames = []string{cn}
	cert, err := sign(tmpl, tmpl, key.Public(), key)
	if err != nil {
		return identity{}, fmt.Errorf("make authority %s: %w", name, err)
	}
	id = identity{cert, key}
	return id, writeIdentity(p.pki(name+".crt"), p.pki(name+".key"), id)
}

func ensureLeaf(p Paths, l leaf, ca identity, now time.Time) error {
	crt, key := p.pki(l.name+".crt"), p.pki(l.name+".key")
	id, err := readIdentity(crt, key)
	switch {
	case err == nil:
		return checkLeaf(crt, l, id.cert, ca.cert, now)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if id, err = issue(l, ca, now); err != nil {
		return fmt.Errorf("make certificate %s: %w", l.name, err)
	}
	return writeIdentity(crt, key, id)
}

// checkLeaf says why an existing certificate does not serve.
func checkLeaf(file string, l leaf, cert, ca *x509.Certificate, now time.Time) error {
	const mend = "; move the file and its key away to have them made anew"
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("%s is not signed by %s: %w%s", file, ca.Subject.CommonName, err, mend)
	}
	if now.After(cert.NotAfter) {
		return fmt.Errorf("%s expired on %s%s", file, cert.NotAfter.Format(time.RFC3339), mend)
	}
	for _, name := range l.dns {
		if err := cert.VerifyHostname(name); err != nil {
			return fmt.Errorf("%s lacks the name %s%s", file, name, mend)
		}
	}
	for _, ip := range l.ips {
		if err := cert.VerifyHostname(ip.String()); err != nil {
			return fmt.Errorf("%s lacks the address %s%s", file, ip, mend)
		}
	}
	return nil
}

// ensureTokenKey makes the pair that signs service account tokens. It is RSA
// because clients outside the cluster that check such tokens expect RS256.
func ensureTokenKey(p Paths) error {
	private, public := p.pki("sa.key"), p.pki("sa.pub")
	_, errKey := os.Stat(private)
	_, errPub := os.Stat(public)
	if errKey == nil && errPub == nil {
		return nil
	}
	if errKey == nil || errPub == nil {
		return fmt.Errorf("of %s and %s only one exists: put the other one back, or remove both (all service account tokens end with them)", private, public)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	content, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := writeFile(private, content, 0o600); err != nil {
		return err
	}
	return writeFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func template(cn string, org []string, now time.Time, validity time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: cn, Organization: org},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
	}
}

// issue makes a key and a certificate for l, signed by ca and ending no later.
func issue(l leaf, ca identity, now time.Time) (identity, error) {
	key, err := newKey()
	if err != nil {
		return identity{}, err
	}
	tmpl := template(l.cn, l.org, now, leafValidity)
	tmpl.ExtKeyUsage = l.usages
	tmpl.DNSNames = l.dns
	for _, ip := range l.ips {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(ip.AsSlice()))
	}
	if tmpl.NotAfter.After(ca.cert.NotAfter) {
		tmpl.NotAfter = ca.cert.NotAfter
	}
	cert, err := sign(tmpl, ca.cert, key.Public(), ca.key)
	return identity{cert, key}, err
}

func sign(tmpl, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial.Add(serial, big.NewInt(1)) // RFC 5280, 4.1.2.2: positive
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// writeIdentity writes the key first: a certificate without its key would be
// taken for an authority whose key is kept elsewhere.
func writeIdentity(crt, key string, id identity) error {
	content, err := id.keyPEM()
	if err != nil {
		return err
	}
	if err := writeFile(key, content, 0o600); err != nil {
		return err
	}
	return writeFile(crt, id.certPEM(), 0o644)
}

// readIdentity reads a certificate and its key; fs.ErrNotExist when the
// certificate is missing.
func readIdentity(crt, key string) (identity, error) {
	cert, err := readCert(crt)
	if err != nil {
		return identity{}, err
	}
	content, err := os.ReadFile(key)
	if err != nil {
		// Not %w: a certificate without a key must not count as missing.
		return identity{}, fmt.Errorf("%s has no key: %v", crt, err)
	}
	signer, err := parseKey(content)
	if err != nil {
		return identity{}, fmt.Errorf("read %s: %w", key, err)
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return identity{}, fmt.Errorf("%s does not belong to %s", key, crt)
	}
	return identity{cert, signer}, nil
}

func readCert(file string) (*x509.Certificate, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(content)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return cert, nil
}

func parseCert(content []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate in it")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(content []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, errors.New("no PEM key in it")
	}
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of type %T cannot sign", key)
	}
	return signer, nil
}
