package volumes

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// trust projects ClusterTrustBundles (KEP-3257).
func (v *Volumes) trust(ctx context.Context, src *v1.ClusterTrustBundleProjection, mode *int32) (tree, error) {
	all, err := v.cfg.Source.TrustBundles(ctx)
	if err != nil {
		return nil, err
	}
	data, err := anchors(src, all)
	if err != nil {
		return nil, err
	}
	return tree{src.Path: {Data: data, Mode: modeOr(mode, nil)}}, nil
}

// anchors joins the certificates of the bundles that src selects, each once, in an order that depends on them alone. There
// may be none only if src says that it is optional.
func anchors(src *v1.ClusterTrustBundleProjection, all []*certificatesv1.ClusterTrustBundle) ([]byte, error) {
	chosen, err := selected(src, all)
	if err != nil {
		return nil, err
	}
	if len(chosen) == 0 && !isTrue(src.Optional) {
		if src.Name != nil {
			return nil, fmt.Errorf("clusterTrustBundle %q not found", *src.Name)
		}
		return nil, fmt.Errorf("combination of signerName %q and labelSelector %s matched zero ClusterTrustBundles", *src.SignerName, metav1.FormatLabelSelector(src.LabelSelector))
	}
	certs := map[string]bool{}
	for _, b := range chosen {
		for rest := []byte(b.Spec.TrustBundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" {
				certs[string(block.Bytes)] = true
			}
		}
	}
	var out bytes.Buffer
	for _, der := range slices.Sorted(maps.Keys(certs)) {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)}))
	}
	return out.Bytes(), nil
}

func selected(src *v1.ClusterTrustBundleProjection, all []*certificatesv1.ClusterTrustBundle) ([]*certificatesv1.ClusterTrustBundle, error) {
	var out []*certificatesv1.ClusterTrustBundle
	switch {
	case src.Name != nil:
		for _, b := range all {
			if b.Name == *src.Name {
				out = append(out, b)
			}
		}
	case src.SignerName != nil:
		matches, err := metav1.LabelSelectorAsSelector(src.LabelSelector) // nil matches nothing, an empty one everything
		if err != nil {
			return nil, fmt.Errorf("clusterTrustBundle labelSelector: %w", err)
		}
		for _, b := range all {
			if b.Spec.SignerName == *src.SignerName && matches.Matches(labels.Set(b.Labels)) {
				out = append(out, b)
			}
		}
	default:
		return nil, fmt.Errorf("clusterTrustBundle projection names neither a bundle nor a signer")
	}
	return out, nil
}
