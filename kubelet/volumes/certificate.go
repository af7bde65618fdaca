package volumes

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// How long a signer is waited for: by a pod that cannot start without its certificate, and where an older one still does.
const (
	issueWait = 30 * time.Second
	renewWait = time.Second
)

// certificateKey names one podCertificate source of a pod's volume.
type certificateKey struct {
	Pod    types.UID
	Volume string
	Source int
}

// issuing is the state of one source. Its key lives in memory and in the pod's volume only, so a kubelet that starts anew
// asks for a new certificate.
type issuing struct {
	mu      sync.Mutex
	have    *credential
	asked   string // the request that is not answered yet
	key     crypto.Signer
	refused error // the signer's word is final
}

// credential is a key and the certificate that was issued to it.
type credential struct {
	key, chain       []byte // PEM
	renew, expiresAt time.Time
}

// certificateFiles projects a pod certificate (KEP-4317).
func (v *Volumes) certificateFiles(ctx context.Context, pod *v1.Pod, key certificateKey, src *v1.PodCertificateProjection, mode *int32) (tree, error) {
	v.mu.Lock()
	one := v.certificates[key]
	if one == nil {
		one = &issuing{}
		v.certificates[key] = one
	}
	v.mu.Unlock()
	one.mu.Lock()
	defer one.mu.Unlock()
	c, err := v.credential(ctx, one, pod, src)
	if err != nil {
		return nil, fmt.Errorf("pod certificate of signer %s: %w", src.SignerName, err)
	}
	out := tree{}
	for path, data := range map[string][]byte{src.CredentialBundlePath: bytes.Join([][]byte{c.key, c.chain}, nil), src.KeyPath: c.key, src.CertificateChainPath: c.chain} {
		if path != "" {
			out[path] = private(pod, data, mode)
		}
	}
	return out, nil
}

// credential gives the certificate that is in force, and sees to it that there will be a next one in time.
func (v *Volumes) credential(ctx context.Context, one *issuing, pod *v1.Pod, src *v1.PodCertificateProjection) (*credential, error) {
	now := v.cfg.Now()
	if one.have != nil && now.Before(one.have.renew) {
		return one.have, nil
	}
	wait := issueWait
	if one.have != nil && now.Before(one.have.expiresAt) {
		wait = renewWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := v.renew(ctx, one, pod, src)
	if err == nil || one.have != nil && now.Before(one.have.expiresAt) {
		if err != nil {
			v.cfg.Log.Info("renew pod certificate", "pod", pod.Namespace+"/"+pod.Name, "signer", src.SignerName, "err", err)
		}
		return one.have, nil
	}
	return nil, err
}

func (v *Volumes) renew(ctx context.Context, one *issuing, pod *v1.Pod, src *v1.PodCertificateProjection) error {
	if one.refused != nil {
		return one.refused
	}
	if one.asked == "" {
		if err := v.ask(ctx, one, pod, src); err != nil {
			return err
		}
	}
	req, err := v.cfg.Source.CertificateRequest(ctx, pod.Namespace, one.asked)
	switch {
	case apierrors.IsNotFound(err):
		gone := one.asked
		one.asked = "" // the next try asks again
		return fmt.Errorf("request %s is gone unanswered", gone)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("request %s is not answered yet", one.asked)
	case err != nil:
		return err
	}
	for _, c := range req.Status.Conditions {
		if c.Status == metav1.ConditionTrue && (c.Type == certificatesv1.PodCertificateRequestConditionTypeDenied || c.Type == certificatesv1.PodCertificateRequestConditionTypeFailed) {
			one.refused = fmt.Errorf("request %s: %s: %s: %s", req.Name, c.Type, c.Reason, c.Message)
			return one.refused
		}
	}
	c, err := issued(one.key, &req.Status)
	one.asked = ""
	if err != nil {
		return fmt.Errorf("request %s: %w", req.Name, err)
	}
	one.have, one.key = c, nil
	return nil
}

// ask makes a key and a request for its certificate.
func (v *Volumes) ask(ctx context.Context, one *issuing, pod *v1.Pod, src *v1.PodCertificateProjection) error {
	key, err := newKey(src.KeyType)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("sign certificate request: %w", err)
	}
	req, err := v.cfg.Source.RequestCertificate(ctx, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: "req-" + string(pod.UID) + "-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: src.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account(pod),
			MaxExpirationSeconds: src.MaxExpirationSeconds, StubPKCS10Request: der, UnverifiedUserAnnotations: src.UserAnnotations,
		},
	})
	if err != nil {
		return fmt.Errorf("request certificate: %w", err)
	}
	one.asked, one.key = req.Name, key
	return nil
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}

// issued takes the certificate of an answered request, if it is one for the key. Only the certificates of the chain are
// taken: no headers, and nothing between them.
func issued(key crypto.Signer, st *certificatesv1.PodCertificateRequestStatus) (*credential, error) {
	var chain bytes.Buffer
	var leaf *x509.Certificate
	for rest := []byte(st.CertificateChain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if leaf == nil {
			var err error
			if leaf, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, fmt.Errorf("issued certificate: %w", err)
			}
		}
		chain.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))
	}
	if leaf == nil {
		return nil, errors.New("it was issued without a certificate")
	}
	type comparable interface{ Equal(crypto.PublicKey) bool }
	if own, ok := key.Public().(comparable); !ok || !own.Equal(leaf.PublicKey) {
		return nil, errors.New("the issued certificate is for another key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	c := &credential{key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), chain: chain.Bytes(), expiresAt: leaf.NotAfter}
	c.renew = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 8 / 10)
	if st.BeginRefreshAt != nil {
		c.renew = st.BeginRefreshAt.Time
	}
	return c, nil
}

func (v *Volumes) forgetCertificates(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range v.certificates {
		if key.Pod == uid {
			delete(v.certificates, key)
		}
	}
}
