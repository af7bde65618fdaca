package registry

import (
	corev1 "k8s.io/api/core/v1"
)

// matchDataSources gives a claim that says by one of its two fields what its volume is filled from the other one too. Only the
// newer of them can name another namespace; then the older stays empty.
func matchDataSources(s *corev1.PersistentVolumeClaimSpec) {
	old, now := s.DataSource, s.DataSourceRef
	switch {
	case old != nil && now == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: old.APIGroup, Kind: old.Kind, Name: old.Name}
	case old == nil && now != nil && (now.Namespace == nil || *now.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: now.APIGroup, Kind: now.Kind, Name: now.Name}
	}
}
