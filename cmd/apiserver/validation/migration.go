package validation

import (
	"fmt"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// migrationRules are the rules of storage version migrations.
func migrationRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *storagemigrationv1.StorageVersionMigration:
		return kind(migration, func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
			return immutable(spec(), m.Spec, old.Spec)
		}, migrationStatus), true
	}
	return rules{}, false
}

func migration(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	var errs field.ErrorList
	at := spec().Child("resource")
	if g := m.Spec.Resource.Group; g != "" {
		errs = append(errs, invalid(at.Child("group"), g, validation.IsDNS1123Subdomain(g))...)
	}
	if m.Spec.Resource.Resource == "" {
		return append(errs, field.Required(at.Child("resource"), "resource is required"))
	}
	return append(errs, invalid(at.Child("resource"), m.Spec.Resource.Resource, validation.IsDNS1035Label(m.Spec.Resource.Resource))...)
}

// migrationStatus holds that a migration ends once, and starts from one resource version.
func migrationStatus(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	at := status().Child("conditions")
	errs := metavalidation.ValidateConditions(m.Status.Conditions, at)
	is := map[storagemigrationv1.MigrationConditionType]bool{}
	was := map[storagemigrationv1.MigrationConditionType]bool{}
	for _, c := range m.Status.Conditions {
		is[storagemigrationv1.MigrationConditionType(c.Type)] = c.Status == "True"
	}
	for _, c := range old.Status.Conditions {
		was[storagemigrationv1.MigrationConditionType(c.Type)] = c.Status == "True"
	}
	succeeded, failed, running := storagemigrationv1.MigrationSucceeded, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationRunning
	if is[succeeded] && is[failed] {
		errs = append(errs, field.Invalid(at, m.Status.Conditions, "Both success and failed conditions cannot be true at the same time"))
	}
	if is[running] && (is[succeeded] || is[failed]) {
		errs = append(errs, field.Invalid(at, m.Status.Conditions, "Running condition cannot be true when success or failed conditions are true"))
	}
	for _, end := range []storagemigrationv1.MigrationConditionType{succeeded, failed} {
		if was[end] && !is[end] {
			errs = append(errs, field.Invalid(at, m.Status.Conditions, fmt.Sprintf("%s condition cannot be set to false once it is true", end)))
		}
	}
	if v := m.Status.ResourceVersion; v != "" {
		for _, r := range v {
			if r < '0' || r > '9' {
				errs = append(errs, field.Invalid(status().Child("resourceVersion"), v, "resource version must be a non-negative integer"))
				break
			}
		}
	}
	if old.Status.ResourceVersion != "" {
		errs = append(errs, immutable(status().Child("resourceVersion"), m.Status.ResourceVersion, old.Status.ResourceVersion)...)
	}
	return errs
}
