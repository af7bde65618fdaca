package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kubeletapis "k8s.io/kubelet/pkg/apis"
)

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// audiences allows what the pod's volumes or their CSI drivers ask for. Others need a grant: verb
// request-serviceaccounts-token-audience on a resource called like the audience.
func (p *nodeRestriction) audiences(ctx context.Context, a adm.Attributes, pod *corev1.Pod, audiences []string) error {
	if len(audiences) > 1 {
		return errors.New("node may only request 0 or 1 audiences")
	}
	wanted := "" // the server's own, which a volume asks for by naming none
	if len(audiences) == 1 {
		wanted = audiences[0]
	}
	asked, err := p.podAudiences(ctx, pod)
	if err != nil {
		return err
	}
	if slices.Contains(asked, wanted) {
		return nil
	}
	decision, _, err := p.authz.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "request-serviceaccounts-token-audience", Resource: wanted,
		Name: a.GetName(), Namespace: a.GetNamespace(), ResourceRequest: true,
	})
	if err == nil && decision == authorizer.DecisionAllow {
		return nil
	}
	return fmt.Errorf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", wanted, a.GetUserInfo().GetName())
}

func (p *nodeRestriction) podAudiences(ctx context.Context, pod *corev1.Pod) ([]string, error) {
	var asked []string
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					asked = append(asked, s.ServiceAccountToken.Audience)
				}
			}
		}
		driver, err := p.driverOf(ctx, pod, v)
		if err != nil {
			return nil, err
		}
		if driver == "" {
			continue
		}
		d, err := p.drivers.Get(driver)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, r := range d.Spec.TokenRequests {
			asked = append(asked, r.Audience)
		}
	}
	return asked, nil
}

// driverOf names the CSI driver behind a volume, directly or through its claim; "" means none.
func (p *nodeRestriction) driverOf(ctx context.Context, pod *corev1.Pod, v corev1.Volume) (string, error) {
	if v.CSI != nil {
		return v.CSI.Driver, nil
	}
	claim := ""
	if v.PersistentVolumeClaim != nil {
		claim = v.PersistentVolumeClaim.ClaimName
	} else if v.Ephemeral != nil {
		claim = pod.Name + "-" + v.Name
	}
	if claim == "" {
		return "", nil
	}
	pvc, err := p.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, claim, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && pvc.Spec.VolumeName == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	pv, err := p.client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil || pv.Spec.CSI == nil {
		return "", err
	}
	return pv.Spec.CSI.Driver, nil
}

func restrictNode(name string, a adm.Attributes) error {
	if a.GetOperation() == adm.Create {
		node, ok := a.GetObject().(*corev1.Node)
		if !ok {
			return errUnexpected(a.GetObject())
		}
		if node.Name != name {
			return fmt.Errorf("node %q is not allowed to modify node %q", name, node.Name)
		}
		if node.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", name)
		}
		if bad := forbiddenLabels(changedLabels(node.Labels, nil)); len(bad) > 0 {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", name, strings.Join(bad, ", "))
		}
		if len(node.OwnerReferences) > 0 {
			return fmt.Errorf("node %q is not allowed to modify ownerReferences", name)
		}
		return nil
	}
	if a.GetName() != name {
		return fmt.Errorf("node %q is not allowed to modify node %q", name, a.GetName())
	}
	if a.GetOperation() != adm.Update {
		return nil // the Node authorizer allows no deletion; who grants it by a role means it
	}
	node, ok1 := a.GetObject().(*corev1.Node)
	old, ok2 := a.GetOldObject().(*corev1.Node)
	if !ok1 || !ok2 {
		return errUnexpected(a.GetObject())
	}
	if node.Spec.ConfigSource != nil && !equal(node.Spec.ConfigSource, old.Spec.ConfigSource) {
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", name)
	}
	if !equal(node.Spec.Taints, old.Spec.Taints) {
		return fmt.Errorf("node %q is not allowed to modify taints", name)
	}
	if !equal(node.OwnerReferences, old.OwnerReferences) {
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", name)
	}
	if bad := forbiddenLabels(changedLabels(node.Labels, old.Labels)); len(bad) > 0 {
		return fmt.Errorf("node %q is not allowed to modify labels: %s", name, strings.Join(bad, ", "))
	}
	return nil
}

// changedLabels lists the keys that were added, changed or removed.
func changedLabels(now, old map[string]string) []string {
	var keys []string
	for k, v := range now {
		if was, ok := old[k]; !ok || was != v {
			keys = append(keys, k)
		}
	}
	for k := range old {
		if _, ok := now[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// forbiddenLabels picks the keys that a kubelet must not touch: those of node-restriction.kubernetes.io, which exist to
// keep pods off nodes, and those of Kubernetes that no kubelet needs.
func forbiddenLabels(keys []string) []string {
	var bad []string
	for _, key := range keys {
		ns, _, ok := strings.Cut(key, "/")
		if !ok {
			continue
		}
		in := func(domain string) bool { return ns == domain || strings.HasSuffix(ns, "."+domain) }
		if in("node-restriction.kubernetes.io") || (in("kubernetes.io") || in("k8s.io")) && !kubeletapis.IsKubeletLabel(key) {
			bad = append(bad, key)
		}
	}
	return bad
}

// restrictClaim allows a kubelet to say how far the resize of a claim's file system has come, and nothing else.
func restrictClaim(name string, a adm.Attributes) error {
	if a.GetSubresource() != "status" || a.GetOperation() != adm.Update {
		return fmt.Errorf("unexpected operation %q on persistentvolumeclaims, node %q can only update their status", a.GetOperation(), name)
	}
	old, ok1 := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	now, ok2 := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok1 || !ok2 {
		return errUnexpected(a.GetObject())
	}
	old, now = old.DeepCopy(), now.DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{old, now} {
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		c.ResourceVersion, c.ManagedFields = "", nil
	}
	if !equal(old, now) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", name)
	}
	return nil
}

func restrictLease(name string, a adm.Attributes) error {
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	if a.GetOperation() == adm.Create {
		lease, ok := a.GetObject().(*coordinationv1.Lease)
		if !ok {
			return errUnexpected(a.GetObject())
		}
		if lease.Name != name {
			return errors.New("can only access node lease with the same name as the requesting node")
		}
		return nil
	}
	if a.GetName() != name {
		return errors.New("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func restrictCSINode(name string, a adm.Attributes) error {
	got := a.GetName()
	if a.GetOperation() == adm.Create {
		o, ok := a.GetObject().(metav1.Object)
		if !ok {
			return errUnexpected(a.GetObject())
		}
		got = o.GetName()
	}
	if got != name {
		return errors.New("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

func restrictSlice(name string, a adm.Attributes) error {
	obj := a.GetObject()
	if a.GetOperation() == adm.Delete {
		if a.GetName() == "" {
			return nil // a collection: the authorizer demands the node's own selector
		}
		obj = a.GetOldObject()
	}
	slice, ok := obj.(*resourcev1.ResourceSlice)
	if !ok {
		return errUnexpected(obj)
	}
	if slice.Spec.NodeName == nil || *slice.Spec.NodeName != name {
		return errors.New("can only create, update or delete ResourceSlices with the same NodeName as the requesting node")
	}
	if a.GetOperation() == adm.Update {
		if old, ok := a.GetOldObject().(*resourcev1.ResourceSlice); !ok || old.Spec.NodeName == nil || *old.Spec.NodeName != name {
			return errors.New("can only update ResourceSlices with the same NodeName as the requesting node")
		}
	}
	return nil
}

// restrictCSR refuses a kubelet's request for another node's certificate.
func restrictCSR(name string, a adm.Attributes) error {
	if a.GetOperation() != adm.Create || a.GetSubresource() != "" {
		return nil // authorization decides
	}
	csr, ok := a.GetObject().(*certv1.CertificateSigningRequest)
	if !ok {
		return errUnexpected(a.GetObject())
	}
	if s := csr.Spec.SignerName; s != certv1.KubeletServingSignerName && s != certv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	req, err := parseCSR(csr.Spec.Request)
	if err != nil {
		return err
	}
	if want := "system:node:" + name; req.Subject.CommonName != want {
		return fmt.Errorf("can only create a node CSR with CN=%s", want)
	}
	return nil
}

func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("unable to parse csr: PEM block type must be CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("unable to parse csr: %w", err)
	}
	return req, nil
}
