// Package validation refuses API objects that break the documented rules of their kind.
//
// It owns the rules that need the object alone (and, on update, the object it replaces), with the field paths and messages that
// kubectl's users know. Metadata is not judged here: the store does that for all kinds alike. Rules that need the cluster (is
// the address free? does the class exist?) belong to strategies and admission. Objects must have been defaulted; none is changed.
// The rules that the API's types carry as tags are in package declarative. Rules that came after their field hold for pods, and not
// for templates of pods, where somebody may have stored what breaks them.
package validation

import (
	"slices"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/orlop-io/orlop/cmd/apiserver/validation/declarative"
)

// Create validates an object that is about to be stored for the first time.
func Create(obj runtime.Object) field.ErrorList {
	return declarative.Merge(rulesFor(obj).create(obj), declarative.Create(obj))
}

// Update validates a change of an object's metadata and spec.
func Update(obj, old runtime.Object) field.ErrorList {
	return declarative.Merge(rulesFor(obj).update(obj, old), declarative.Update(obj, old))
}

// UpdateStatus validates a change of an object's status.
func UpdateStatus(obj, old runtime.Object) field.ErrorList {
	return declarative.Merge(rulesFor(obj).status(obj, old), declarative.Update(obj, old))
}

// rules are the rules of one kind.
type rules struct {
	create         func(obj runtime.Object) field.ErrorList
	update, status func(obj, old runtime.Object) field.ErrorList
}

// kind makes rules of functions over one type. A nil update means create's rules over the new object, a nil status none.
func kind[T any](create func(*T) field.ErrorList, update, status func(obj, old *T) field.ErrorList) rules {
	r := rules{
		create: func(obj runtime.Object) field.ErrorList { return create(any(obj).(*T)) },
		update: func(obj, _ runtime.Object) field.ErrorList { return create(any(obj).(*T)) },
		status: func(runtime.Object, runtime.Object) field.ErrorList { return nil },
	}
	if update != nil {
		r.update = func(obj, old runtime.Object) field.ErrorList { return update(any(obj).(*T), any(old).(*T)) }
	}
	if status != nil {
		r.status = func(obj, old runtime.Object) field.ErrorList { return status(any(obj).(*T), any(old).(*T)) }
	}
	return r
}

// rulesFor finds a kind's rules; a kind without any has none beyond its metadata's.
func rulesFor(obj runtime.Object) rules {
	for _, find := range []func(runtime.Object) (rules, bool){coreRules, volumeRules, workloadRules, networkRules, clusterRules, deviceRules, trustRules, migrationRules} {
		if r, ok := find(obj); ok {
			return r
		}
	}
	return rules{
		create: func(runtime.Object) field.ErrorList { return nil },
		update: func(runtime.Object, runtime.Object) field.ErrorList { return nil },
		status: func(runtime.Object, runtime.Object) field.ErrorList { return nil },
	}
}

func spec() *field.Path   { return field.NewPath("spec") }
func status() *field.Path { return field.NewPath("status") }

// invalid reports value once for each message.
func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// oneOf demands one of the allowed values, required or not supported otherwise.
func oneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	switch {
	case slices.Contains(allowed, value):
		return nil
	case value == "":
		return field.ErrorList{field.Required(path, "")}
	default:
		return field.ErrorList{field.NotSupported(path, value, allowed)}
	}
}

// supported demands one of the allowed values, and says so of an empty value too.
func supported[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

// required demands a value that is not empty.
func required(path *field.Path, value string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

// requiredName demands a name of the given shape.
func requiredName(path *field.Path, value string, shape func(string) []string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return invalid(path, value, shape(value))
}

func immutable(path *field.Path, value, old any) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, path)
}

func nonNegative(path *field.Path, value int64) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(value, path)
}

func nonNegativePtr[T int32 | int64](path *field.Path, value *T) field.ErrorList {
	if value == nil {
		return nil
	}
	return nonNegative(path, int64(*value))
}

func labelSelector(path *field.Path, s *metav1.LabelSelector) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)
}

func portNumber(path *field.Path, port int32) field.ErrorList {
	return invalid(path, port, validation.IsValidPortNum(int(port)))
}
