package admission

import (
	"context"
	"fmt"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	adm "k8s.io/apiserver/pkg/admission"
)

// podCertificate allows a kubelet to ask for certificates of the pods that run on it, under the account that they have:
// the signer believes what the request says of pod, account and node.
func (p *nodeRestriction) podCertificate(ctx context.Context, node string, a adm.Attributes) error {
	if a.GetOperation() != adm.Create || a.GetSubresource() != "" {
		return fmt.Errorf("unexpected operation %q, node %q can only create podcertificaterequests", a.GetOperation(), node)
	}
	req, ok := a.GetObject().(*certv1.PodCertificateRequest)
	if !ok {
		return errUnexpected(a.GetObject())
	}
	if string(req.Spec.NodeName) != node {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", req.Spec.NodeName, node)
	}
	pod, err := p.podOn(ctx, node, a.GetNamespace(), req.Spec.PodName, req.Spec.PodUID)
	if err != nil {
		return fmt.Errorf("while retrieving pod %q named in the PodCertificateRequest: %w", req.Spec.PodName, err)
	}
	if err := certificateOfPod(req, pod, node); err != nil {
		return err
	}
	account, err := p.client.CoreV1().ServiceAccounts(a.GetNamespace()).Get(ctx, req.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("while retrieving service account %q named in the PodCertificateRequest: %w", req.Spec.ServiceAccountName, err)
	}
	if account.UID != req.Spec.ServiceAccountUID {
		return fmt.Errorf("PodCertificateRequest for pod %q contains ServiceAccountUID (%q) which differs from UID of running service account %q",
			pod.Name, req.Spec.ServiceAccountUID, account.UID)
	}
	found, err := p.nodes.Get(node)
	if apierrors.IsNotFound(err) || err == nil && found.UID != req.Spec.NodeUID {
		found, err = p.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	}
	if err != nil {
		return fmt.Errorf("while retrieving node %q named in the PodCertificateRequest: %w", node, err)
	}
	if found.UID != req.Spec.NodeUID {
		return fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node's UID %q", pod.Name, req.Spec.NodeUID, found.UID)
	}
	return nil
}

// certificateOfPod compares a request with the pod it is for.
func certificateOfPod(req *certv1.PodCertificateRequest, pod *corev1.Pod, node string) error {
	switch {
	case pod.UID != req.Spec.PodUID:
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", pod.Name, req.Spec.PodUID, pod.UID)
	case pod.Spec.NodeName != node:
		return fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", pod.Name, node)
	case isMirror(pod):
		return fmt.Errorf("pod %q is a mirror pod", pod.Name)
	case pod.Spec.ServiceAccountName != req.Spec.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)",
			pod.Name, req.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	return nil
}
