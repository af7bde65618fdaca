package registry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestMatchDataSources(t *testing.T) {
	group, elsewhere := "snapshot.storage.k8s.io", "other"
	old := &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "s"}
	now := &corev1.TypedObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "s"}
	far := &corev1.TypedObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "s", Namespace: &elsewhere}
	both := corev1.PersistentVolumeClaimSpec{DataSource: old, DataSourceRef: now}
	for _, tt := range []struct {
		name     string
		in, want corev1.PersistentVolumeClaimSpec
	}{
		{"none", corev1.PersistentVolumeClaimSpec{}, corev1.PersistentVolumeClaimSpec{}},
		{"old", corev1.PersistentVolumeClaimSpec{DataSource: old}, both},
		{"new", corev1.PersistentVolumeClaimSpec{DataSourceRef: now}, both},
		{"elsewhere", corev1.PersistentVolumeClaimSpec{DataSourceRef: far}, corev1.PersistentVolumeClaimSpec{DataSourceRef: far}},
		{"both", both, both},
	} {
		matchDataSources(&tt.in)
		if diff := cmp.Diff(tt.want, tt.in); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}
