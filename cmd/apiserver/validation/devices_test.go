package validation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// told is what errors say, one a line.
func told(errs field.ErrorList) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return strings.Join(out, "\n")
}

func aClaim() *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
		Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu.example.com", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
	}}}}}
}

func TestClaims(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*resourcev1.DeviceClaim)
		want   string
	}{
		{"whole", func(*resourcev1.DeviceClaim) {}, ""},
		{"no alternative", func(c *resourcev1.DeviceClaim) { c.Requests[0].Exactly = nil },
			"spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"},
		{"no class", func(c *resourcev1.DeviceClaim) { c.Requests[0].Exactly.DeviceClassName = "" },
			"spec.devices.requests[0].exactly.deviceClassName: Required value"},
		{"all, and a count", func(c *resourcev1.DeviceClaim) { c.Requests[0].Exactly.AllocationMode = "All" },
			"spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'"},
		{"no devices", func(c *resourcev1.DeviceClaim) { c.Requests[0].Exactly.Count = -1 },
			"spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero"},
		{"two of a name", func(c *resourcev1.DeviceClaim) { c.Requests = append(c.Requests, c.Requests[0]) },
			"spec.devices.requests[1]: Duplicate value: \"gpu\""},
		{"constraint on nothing", func(c *resourcev1.DeviceClaim) {
			c.Constraints = []resourcev1.DeviceConstraint{{Requests: []string{"nic"}}}
		}, "spec.devices.constraints[0].requests[0]: Invalid value: \"nic\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'\n" +
			"spec.devices.constraints[0].matchAttribute: Required value"},
		{"selector of another type", func(c *resourcev1.DeviceClaim) {
			c.Requests[0].Exactly.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: "1"}}}
		}, "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: \"1\": must evaluate to bool or the unknown type, not int"},
		{"capacity without a name", func(c *resourcev1.DeviceClaim) {
			c.Requests[0].Exactly.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"a.b/": resource.MustParse("1")}}
		}, "spec.devices.requests[0].exactly.capacity.requests[a.b/]: Required value: the name must not be empty"},
		{"selector", func(c *resourcev1.DeviceClaim) {
			c.Requests[0].Exactly.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "gpu.example.com"`}}}
		}, ""},
		{"parameters that are no object", func(c *resourcev1.DeviceClaim) {
			c.Config = []resourcev1.DeviceClaimConfiguration{{DeviceConfiguration: resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{
				Driver: "gpu.example.com", Parameters: runtime.RawExtension{Raw: []byte("[]")}}}}}
		}, "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			claim := aClaim()
			tt.change(&claim.Spec.Devices)
			if diff := cmp.Diff(tt.want, told(Create(claim))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClaimStatus(t *testing.T) {
	allocated := func(c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "gpu", Driver: "gpu.example.com", Pool: "node-a", Device: "gpu-0"}}}}
		return c
	}
	free := aClaim()
	if errs := UpdateStatus(allocated(aClaim()), free); len(errs) > 0 {
		t.Errorf("first allocation: %v", errs)
	}
	other := allocated(aClaim())
	other.Status.Allocation.Devices.Results[0].Device = "gpu-1"
	if got := told(UpdateStatus(other, allocated(aClaim()))); !strings.HasPrefix(got, "status.allocation: Invalid value") {
		t.Errorf("an allocation that moves: %q", got)
	}
	reserved := aClaim()
	reserved.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "1"}}
	if got, want := told(UpdateStatus(reserved, free)), "status.reservedFor: Forbidden: may not be specified when `allocated` is not set"; got != want {
		t.Errorf("reserved without an allocation: %q", got)
	}
	foreign := allocated(aClaim())
	foreign.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "gpu.example.com", Pool: "node-a", Device: "gpu-7"}}
	if got := told(UpdateStatus(foreign, allocated(aClaim()))); !strings.Contains(got, "must be an allocated device in the claim") {
		t.Errorf("status of a device that is not allocated: %q", got)
	}
	changed := aClaim()
	changed.Spec.Devices.Requests[0].Name = "other"
	if got := told(Update(changed, aClaim())); !strings.Contains(got, "spec: Invalid value") || !strings.Contains(got, "field is immutable") {
		t.Errorf("a claim that asks for something else: %q", got)
	}
}

func TestSlices(t *testing.T) {
	node, text := "node-a", "x"
	whole := func() *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Driver: "gpu.example.com", NodeName: &node,
			Pool:    resourcev1.ResourcePool{Name: "node-a", ResourceSliceCount: 1},
			Devices: []resourcev1.Device{{Name: "gpu-0", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: &text}}}}}}
	}
	for _, tt := range []struct {
		name   string
		change func(*resourcev1.ResourceSliceSpec)
		want   string
	}{
		{"whole", func(*resourcev1.ResourceSliceSpec) {}, ""},
		{"nowhere", func(s *resourcev1.ResourceSliceSpec) { s.NodeName = nil },
			"spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"},
		{"empty pool", func(s *resourcev1.ResourceSliceSpec) { s.Pool.ResourceSliceCount = 0 },
			"spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"},
		{"twice", func(s *resourcev1.ResourceSliceSpec) { s.Devices = append(s.Devices, s.Devices[0]) },
			"spec.devices[1].name: Duplicate value: \"gpu-0\""},
		{"parts of what is not shared", func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: resource.MustParse("8Gi"), RequestPolicy: &resourcev1.CapacityRequestPolicy{
				Default: new(resource.MustParse("3Gi"))}}}
		}, "spec.devices[0].capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true"},
		{"more than there is", func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].AllowMultipleAllocations = new(true)
			s.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: resource.MustParse("8Gi"), RequestPolicy: &resourcev1.CapacityRequestPolicy{
				Default: new(resource.MustParse("3Gi")), ValidValues: []resource.Quantity{resource.MustParse("3Gi"), resource.MustParse("9Gi")}}}}
		}, "spec.devices[0].capacity[memory].requestPolicy.validValues[1]: Invalid value: \"9Gi\": must be less than or equal to the capacity value: 8Gi"},
		{"counters used twice", func(s *resourcev1.ResourceSliceSpec) {
			use := resourcev1.DeviceCounterConsumption{CounterSet: "c", Counters: map[string]resourcev1.Counter{"memory": {Value: resource.MustParse("1Gi")}}}
			s.Devices[0].ConsumesCounters = []resourcev1.DeviceCounterConsumption{use, use}
		}, "spec.devices[0].consumesCounters[1]: Duplicate value: \"c\""},
		{"a default out of step", func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].AllowMultipleAllocations = new(true)
			s.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: resource.MustParse("8Gi"), RequestPolicy: &resourcev1.CapacityRequestPolicy{
				Default: new(resource.MustParse("3Gi")), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: new(resource.MustParse("2Gi")), Step: new(resource.MustParse("2Gi"))}}}}
		}, "spec.devices[0].capacity[memory].requestPolicy.default: Invalid value: \"3Gi\": must be a multiple of step: 2Gi"},
		{"version", func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].Attributes["model"] = resourcev1.DeviceAttribute{VersionValue: &text}
		}, "spec.devices[0].attributes[model].version: Invalid value: \"x\": must be a string compatible with semver.org spec 2.0.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := whole()
			tt.change(&s.Spec)
			if diff := cmp.Diff(tt.want, told(Create(s))); diff != "" {
				t.Error(diff)
			}
		})
	}
	moved, elsewhere := whole(), "node-b"
	moved.Spec.NodeName = &elsewhere
	if got := told(Update(moved, whole())); !strings.Contains(got, "spec.nodeName: Invalid value") {
		t.Errorf("a slice that moves: %q", got)
	}
}

// certificate makes a certificate of key for an hour from now, signed by itself.
func certificate(t *testing.T, key *ecdsa.PrivateKey, authority bool) string {
	t.Helper()
	from := time.Now().Truncate(time.Second)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: from, NotAfter: from.Add(2 * time.Hour),
		IsCA: authority, BasicConstraintsValid: authority}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTrustBundles(t *testing.T) {
	key := newKey(t)
	ca := certificate(t, key, true)
	for _, tt := range []struct{ name, bundle, want string }{
		{"one", ca, ""},
		{"none", "text", "at least one trust anchor must be provided"},
		{"a leaf", ca + certificate(t, key, false), "entry 1 does not have the CA bit set"},
		{"a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "entry 0 has bad block type: PRIVATE KEY"},
		{"twice", ca + ca, "duplicate trust anchor (indices [0 1])"},
	} {
		want := tt.want
		if want != "" {
			want = `spec.trustBundle: Invalid value: "<value omitted>": ` + want
		}
		bundle := &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: tt.bundle}}
		if diff := cmp.Diff(want, told(Create(bundle))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	bundle := &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: ca, SignerName: "example.com/a"}}
	other := bundle.DeepCopy()
	other.Spec.SignerName = "example.com/b"
	if got := told(Update(other, bundle)); !strings.Contains(got, "spec.signerName: Invalid value") {
		t.Errorf("a bundle that changes its signer: %q", got)
	}
}

func aPodCertificate(t *testing.T, key *ecdsa.PrivateKey) *certificatesv1.PodCertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	day := int32(86400)
	return &certificatesv1.PodCertificateRequest{Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "example.com/a", PodName: "p", PodUID: "1",
		ServiceAccountName: "s", ServiceAccountUID: "2", NodeName: "n", NodeUID: "3", MaxExpirationSeconds: &day, StubPKCS10Request: der}}
}

func TestPodCertificates(t *testing.T) {
	key := newKey(t)
	asked := aPodCertificate(t, key)
	if errs := Create(asked); len(errs) > 0 {
		t.Fatal(errs)
	}
	short := asked.DeepCopy()
	*short.Spec.MaxExpirationSeconds = 60
	if got, want := told(Create(short)), "spec.maxExpirationSeconds: Invalid value: 60: must be in the range [3600, 7862400]"; got != want {
		t.Errorf("a minute: %q", got)
	}
	forged := asked.DeepCopy()
	forged.Spec.StubPKCS10Request[len(forged.Spec.StubPKCS10Request)-1] ^= 1
	if got := told(Create(forged)); !strings.HasPrefix(got, "spec.stubPKCS10Request: Invalid value") {
		t.Errorf("a signature of another key: %q", got)
	}
	issue := func(chain string) *certificatesv1.PodCertificateRequest {
		p := asked.DeepCopy()
		block, _ := pem.Decode([]byte(chain))
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		at := func(x time.Time) *metav1.Time { m := metav1.NewTime(x); return &m }
		p.Status = certificatesv1.PodCertificateRequestStatus{CertificateChain: chain, NotBefore: at(leaf.NotBefore), NotAfter: at(leaf.NotAfter), BeginRefreshAt: at(leaf.NotBefore.Add(time.Hour)),
			Conditions: []metav1.Condition{{Type: "Issued", Status: "True", Reason: "Issued", LastTransitionTime: metav1.Now()}}}
		return p
	}
	done := issue(certificate(t, key, false))
	if errs := UpdateStatus(done, asked); len(errs) > 0 {
		t.Errorf("issue: %v", errs)
	}
	if got := told(UpdateStatus(issue(certificate(t, newKey(t), false)), asked)); !strings.Contains(got, "leaf certificate was not issued to the requested public key") {
		t.Errorf("a certificate of another key: %q", got)
	}
	if got := told(UpdateStatus(asked, done)); !strings.Contains(got, "immutable after PodCertificateRequest is issued, denied, or failed") {
		t.Errorf("taken back: %q", got)
	}
	unsaid := done.DeepCopy()
	unsaid.Status.Conditions = nil
	if got := told(UpdateStatus(unsaid, asked)); !strings.Contains(got, "status.certificateChain: Forbidden") {
		t.Errorf("a certificate without its condition: %q", got)
	}
}

func TestMigrations(t *testing.T) {
	m := &storagemigrationv1.StorageVersionMigration{}
	if got, want := told(Create(m)), "spec.resource.resource: Required value: resource is required"; got != want {
		t.Errorf("of nothing: %q", got)
	}
	m.Spec.Resource.Resource = "secrets"
	if errs := Create(m); len(errs) > 0 {
		t.Error(errs)
	}
	done, again := m.DeepCopy(), m.DeepCopy()
	done.Status.Conditions = []metav1.Condition{{Type: "Succeeded", Status: "True", Reason: "Done", LastTransitionTime: metav1.Now()}}
	if got := told(UpdateStatus(again, done)); !strings.Contains(got, "Succeeded condition cannot be set to false once it is true") {
		t.Errorf("undone: %q", got)
	}
}
