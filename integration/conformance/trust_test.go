package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func trustTests() map[string]test {
	all := under("[sig-auth] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] ", map[string]test{
		"should be able to mount a single ClusterTrustBundle by name [MinimumKubeletVersion:1.37]":                                                                                                     quickly(bundleByName),
		"should be able to specify multiple CTB volumes [MinimumKubeletVersion:1.37]":                                                                                                                  quickly(bundlesInTwoVolumes),
		"should be able to mount a big number (>100) of CTBs [MinimumKubeletVersion:1.37]":                                                                                                             slowly(bundlesByTheHundred),
		"should be capable to mount multiple trust bundles by signer+labels can combine all signer CTBs with an empty label selector [MinimumKubeletVersion:1.37]":                                     quickly(bundlesBySigner(&metav1.LabelSelector{}, "0", "1", "2")),
		"should be capable to mount multiple trust bundles by signer+labels can combine multiple CTBs with signer name and label selector [MinimumKubeletVersion:1.37]":                                quickly(bundlesBySigner(&metav1.LabelSelector{MatchLabels: map[string]string{"alive": "live"}}, "0", "2")),
		"should be capable to mount multiple trust bundles by signer+labels should start if only signer name and explicit label selector matches nothing + optional=true [MinimumKubeletVersion:1.37]": quickly(bundlesBySigner(&metav1.LabelSelector{MatchLabels: map[string]string{"alive": "never"}})),
		"should be capable to mount multiple trust bundles by signer+labels should start if only signer name and nil label selector + optional=true [MinimumKubeletVersion:1.37]":                      quickly(bundlesBySigner(nil)),
		"should prevent a pod from starting if: sets optional=false and no trust bundle matches query [MinimumKubeletVersion:1.37]": slowly(bundleMissing(func(p *corev1.ClusterTrustBundleProjection) {
			p.SignerName, p.LabelSelector = ptr("conf.test/nobody"), &metav1.LabelSelector{}
		})),
		"should prevent a pod from starting if: sets optional=false and the configured CTB does not exist [MinimumKubeletVersion:1.37]": slowly(bundleMissing(func(p *corev1.ClusterTrustBundleProjection) { p.Name = ptr("does-not-exist") })),
	})
	maps.Copy(all, under("[sig-auth] Projected PodCertificate [FeatureGate:PodCertificateRequest] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] ", map[string]test{
		"MaxExpirationSeconds validations should issue certificate with default life time (24h) when MaxExpirationSeconds is not set [MinimumKubeletVersion:1.37]": quickly(certificateFor(nil, 24*time.Hour)),
		"MaxExpirationSeconds validations should issue certificate with specified duration (1h) when MaxExpirationSeconds is set [MinimumKubeletVersion:1.37]":     quickly(certificateFor(ptr[int32](3600), time.Hour)),
		"MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds exceeds maximum (91d) [MinimumKubeletVersion:1.37]":                 quickly(certificateRefused(91*24*3600 + 1)),
		"MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds is less than minimum (1h) [MinimumKubeletVersion:1.37]":             quickly(certificateRefused(3599)),
		"should allow server and client pods to establish an mTLS connection [MinimumKubeletVersion:1.37]":                                                         slowly(mutualTLS),
		"should honor UserAnnotations for SPIFFE URI path [MinimumKubeletVersion:1.37]":                                                                            quickly(spiffePath),
	}))
	return all
}

// authority is a certificate authority of one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return authority{must(x509.ParseCertificate(der))(t), key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// newBundle publishes certificates, for the time of the test.
func newBundle(t *testing.T, c *clustertest.Cluster, name, signer string, labels map[string]string, certs ...string) {
	t.Helper()
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	b.Spec.SignerName, b.Spec.TrustBundle = signer, strings.Join(certs, "")
	_, err := c.Client.CertificatesV1().ClusterTrustBundles().Create(t.Context(), b, metav1.CreateOptions{})
	ok(t, err)
	t.Cleanup(func() {
		err := c.Client.CertificatesV1().ClusterTrustBundles().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// trusting is a pod whose volumes each project some trust bundles, and which prints /trust0/file and so on.
func trusting(c *clustertest.Cluster, volumes ...[]corev1.ClusterTrustBundleProjection) *corev1.Pod {
	return c.Pod("trusting", nil, sh("cat /trust*/*"), func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		var files []string
		for i, sources := range volumes {
			name := fmt.Sprintf("trust%d", i)
			src := &corev1.ProjectedVolumeSource{}
			for j := range sources {
				sources[j].Path = fmt.Sprintf("file%d", j)
				files = append(files, "/"+name+"/"+sources[j].Path)
				src.Sources = append(src.Sources, corev1.VolumeProjection{ClusterTrustBundle: &sources[j]})
			}
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: src}})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
		}
		p.Spec.Containers[0].Command = append([]string{"cat"}, files...)
	})
}

// printed runs a pod to its end and gives the certificates that it printed, sorted by name.
func printed(t *testing.T, c *clustertest.Cluster, pod *corev1.Pod) []string {
	t.Helper()
	ns := c.Namespace(t)
	createPod(t, c, ns, pod)
	done := c.WaitPod(t, ns, pod.Name, "to end", clustertest.Ended)
	if done.Status.Phase != corev1.PodSucceeded {
		t.Fatalf("it ended %s: %s", done.Status.Phase, logs(t, c, ns, pod.Name))
	}
	var names []string
	for rest := []byte(logs(t, c, ns, pod.Name)); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		names = append(names, must(x509.ParseCertificate(block.Bytes))(t).Subject.CommonName)
	}
	slices.Sort(names)
	return names
}

func bundleByName(t *testing.T, c *clustertest.Cluster) {
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	newBundle(t, c, "conf-by-name", "", nil, a.pem, b.pem)
	got := printed(t, c, trusting(c, []corev1.ClusterTrustBundleProjection{{Name: ptr("conf-by-name")}}))
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("certificates %v", got)
	}
}

func bundlesInTwoVolumes(t *testing.T, c *clustertest.Cluster) {
	newBundle(t, c, "conf-two-a", "", nil, newAuthority(t, "a").pem)
	newBundle(t, c, "conf.test:two:b", "conf.test/two", map[string]string{"x": "y"}, newAuthority(t, "b").pem)
	got := printed(t, c, trusting(c, []corev1.ClusterTrustBundleProjection{{Name: ptr("conf-two-a")}},
		[]corev1.ClusterTrustBundleProjection{{SignerName: ptr("conf.test/two"), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}}}}))
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("certificates %v", got)
	}
}

func bundlesByTheHundred(t *testing.T, c *clustertest.Cluster) {
	const many = 120
	var sources []corev1.ClusterTrustBundleProjection
	var want []string
	for i := range many {
		name := fmt.Sprintf("conf-many-%03d", i)
		newBundle(t, c, name, "", nil, newAuthority(t, name).pem)
		sources, want = append(sources, corev1.ClusterTrustBundleProjection{Name: &name}), append(want, name)
	}
	if got := printed(t, c, trusting(c, sources)); !slices.Equal(got, want) {
		t.Errorf("%d certificates, want %d: %v", len(got), len(want), got)
	}
}

// bundlesBySigner has three bundles of a signer, and wants those that the selector chooses; none is fine, as it is optional.
func bundlesBySigner(selector *metav1.LabelSelector, want ...string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		id := strings.ToLower(rand.Text()[:8])
		signer := "conf.test/" + id
		shared := newAuthority(t, "0")
		newBundle(t, c, "conf.test:"+id+":zero", signer, map[string]string{"alive": "live"}, shared.pem)
		newBundle(t, c, "conf.test:"+id+":one", signer, map[string]string{"alive": "unalive"}, newAuthority(t, "1").pem, shared.pem)
		newBundle(t, c, "conf.test:"+id+":two", signer, map[string]string{"alive": "live"}, newAuthority(t, "2").pem)
		newBundle(t, c, "conf.test:"+id+"x:other", signer+"x", map[string]string{"alive": "live"}, newAuthority(t, "other").pem)
		got := printed(t, c, trusting(c, []corev1.ClusterTrustBundleProjection{{SignerName: &signer, LabelSelector: selector, Optional: ptr(len(want) == 0)}}))
		if !slices.Equal(got, want) {
			t.Errorf("certificates %v, want %v", got, want)
		}
	}
}

// bundleMissing wants a pod not to start, with the reason told, until the bundle is there.
func bundleMissing(choose func(*corev1.ClusterTrustBundleProjection)) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		p := corev1.ClusterTrustBundleProjection{Optional: ptr(false)}
		choose(&p)
		pod := createPod(t, c, ns, trusting(c, []corev1.ClusterTrustBundleProjection{p}))
		c.Eventually(t, 30*time.Second, "an event that says why", func(ctx context.Context) error {
			events, err := c.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(pod.UID) + ",reason=FailedMount"})
			if err == nil && len(events.Items) == 0 {
				err = errors.New("there is none")
			}
			return err
		})
		time.Sleep(3 * time.Second)
		pod = must(c.Client.CoreV1().Pods(ns).Get(t.Context(), pod.Name, metav1.GetOptions{}))(t)
		if pod.Status.Phase != corev1.PodPending || pod.Status.ContainerStatuses[0].State.Waiting == nil {
			t.Errorf("it is %s: %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
		}
	}
}

// signs answers requests to the signer until the test ends: the certificate lives as long as it may, and has a SPIFFE
// name, whose path is the account's or what the annotation says.
func signs(t *testing.T, c *clustertest.Cluster, ns, signer string, ca authority) {
	t.Helper()
	ctx := t.Context()
	w := must(c.Client.CertificatesV1().PodCertificateRequests(ns).Watch(ctx, metav1.ListOptions{}))(t)
	go func() {
		for ev := range w.ResultChan() {
			req, ok := ev.Object.(*certificatesv1.PodCertificateRequest)
			if !ok || ev.Type != watch.Added || req.Spec.SignerName != signer {
				continue
			}
			if err := answer(ctx, c, req, ca); err != nil && ctx.Err() == nil {
				t.Errorf("sign: %v", err)
			}
		}
	}()
	t.Cleanup(w.Stop)
}

func answer(ctx context.Context, c *clustertest.Cluster, req *certificatesv1.PodCertificateRequest, ca authority) error {
	csr, err := x509.ParseCertificateRequest(req.Spec.StubPKCS10Request)
	if err != nil {
		return err
	}
	path := "/ns/" + req.Namespace + "/sa/" + req.Spec.ServiceAccountName
	if p, ok := req.Spec.UnverifiedUserAnnotations["conf.test/path"]; ok {
		path = p
	}
	from := time.Now().Truncate(time.Second)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: from.Add(time.Duration(*req.Spec.MaxExpirationSeconds) * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: path}}, DNSNames: []string{req.Spec.PodName}}
	if pod, err := c.Client.CoreV1().Pods(req.Namespace).Get(ctx, req.Spec.PodName, metav1.GetOptions{}); err == nil {
		for _, ip := range pod.Status.PodIPs {
			template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip.IP))
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, csr.PublicKey, ca.key)
	if err != nil {
		return err
	}
	req = req.DeepCopy()
	renew := from.Add(template.NotAfter.Sub(from) / 2)
	req.Status = certificatesv1.PodCertificateRequestStatus{
		CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		NotBefore:        &metav1.Time{Time: template.NotBefore}, NotAfter: &metav1.Time{Time: template.NotAfter}, BeginRefreshAt: &metav1.Time{Time: renew},
		Conditions: []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Issued", LastTransitionTime: metav1.Now()}},
	}
	_, err = c.Client.CertificatesV1().PodCertificateRequests(req.Namespace).UpdateStatus(ctx, req, metav1.UpdateOptions{})
	return err
}

// certified mounts a pod certificate at /creds/bundle.
func certified(signer string, change func(*corev1.PodCertificateProjection), more ...corev1.VolumeProjection) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		src := &corev1.PodCertificateProjection{SignerName: signer, KeyType: "ED25519", CredentialBundlePath: "bundle"}
		if change != nil {
			change(src)
		}
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "creds", VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: append([]corev1.VolumeProjection{{PodCertificate: src}}, more...)}}})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "creds", MountPath: "/creds"})
	}
}

// leaf runs a pod that prints its credentials, and gives the certificate in them.
func leaf(t *testing.T, c *clustertest.Cluster, change func(*corev1.PodCertificateProjection)) *x509.Certificate {
	t.Helper()
	ns := c.Namespace(t)
	signer := "conf.test/" + ns
	signs(t, c, ns, signer, newAuthority(t, "ca"))
	createPod(t, c, ns, c.Pod("certified", nil, container([]string{"cat", "/creds/bundle"}, nil), certified(signer, change),
		func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
	c.WaitPod(t, ns, "certified", "to end", clustertest.Ended)
	text := []byte(logs(t, c, ns, "certified"))
	key, rest := pem.Decode(text)
	if key == nil || key.Type != "PRIVATE KEY" {
		t.Fatalf("no key comes first: %s", text)
	}
	cert, _ := pem.Decode(rest)
	if cert == nil {
		t.Fatalf("no certificate: %s", text)
	}
	return must(x509.ParseCertificate(cert.Bytes))(t)
}

func certificateFor(life *int32, want time.Duration) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		cert := leaf(t, c, func(p *corev1.PodCertificateProjection) { p.MaxExpirationSeconds = life })
		if got := cert.NotAfter.Sub(cert.NotBefore); got != want {
			t.Errorf("it lives %v, want %v", got, want)
		}
	}
}

func certificateRefused(seconds int32) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		_, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), c.Pod("certified", nil,
			certified("conf.test/"+ns, func(p *corev1.PodCertificateProjection) { p.MaxExpirationSeconds = &seconds })), metav1.CreateOptions{})
		refused(t, err, "maxExpirationSeconds")
		if !apierrors.IsInvalid(err) {
			t.Errorf("want it invalid: %v", err)
		}
	}
}

func spiffePath(t *testing.T, c *clustertest.Cluster) {
	cert := leaf(t, c, func(p *corev1.PodCertificateProjection) {
		p.UserAnnotations = map[string]string{"conf.test/path": "/a/path/of/its/own"}
	})
	if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://cluster.local/a/path/of/its/own" {
		t.Errorf("its names are %v", cert.URIs)
	}
}

func mutualTLS(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	signer, ca := "conf.test/"+ns, newAuthority(t, "ca")
	newBundle(t, c, "conf.test:"+ns+":ca", signer, nil, ca.pem)
	signs(t, c, ns, signer, ca)
	trust := corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: &metav1.LabelSelector{}, Path: "trust"}}
	c.RunPod(t, ns, c.Pod("server", []string{"mtlsserver", "--listen=:8443", "--server-creds=/creds/bundle", "--spiffe-trust-bundle=/creds/trust"}, certified(signer, nil, trust)))
	_, err := c.Kubectl("expose", "-n", ns, "pod", "server", "--port=443", "--target-port=8443")
	ok(t, err)
	c.RunPod(t, ns, c.Pod("client", []string{"pause"}, certified(signer, nil, trust)))
	c.Eventually(t, 30*time.Second, "an answer over mutual TLS", func(context.Context) error {
		out, err := c.InPod(ns, "client", "/testimage", "mtlsclient", "--fetch-url=https://server", "--client-cred-bundle=/creds/bundle", "--server-trust-bundle=/creds/trust")
		if want := "spiffe://cluster.local/ns/" + ns + "/sa/default"; err == nil && strings.TrimSpace(out) != want {
			err = fmt.Errorf("the server took us for %q, want %q", out, want)
		}
		return err
	})
}
