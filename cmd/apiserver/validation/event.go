package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Limits of what an event says.
const (
	maxEventName    = 128
	maxEventMessage = 1024
)

// event validates an event of the core group. One without eventTime is of the old shape, of which little was ever demanded.
func event(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	mismatch := field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace")
	about := e.InvolvedObject.Namespace
	if e.EventTime.IsZero() {
		if about == "" && e.Namespace != metav1.NamespaceDefault || about != "" && about != e.Namespace {
			errs = append(errs, mismatch)
		}
	} else {
		if about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem || about != "" && about != e.Namespace {
			errs = append(errs, mismatch)
		}
		errs = append(errs, requiredName(field.NewPath("reportingController"), e.ReportingController, validation.IsQualifiedName)...)
		errs = append(errs, eventName("reportingInstance", e.ReportingInstance)...)
		errs = append(errs, eventName("action", e.Action)...)
		errs = append(errs, eventName("reason", e.Reason)...)
		if len(e.Message) > maxEventMessage {
			errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %d characters", maxEventMessage)))
		}
	}
	return append(errs, invalid(field.NewPath("namespace"), e.Namespace, validation.IsDNS1123Subdomain(e.Namespace))...)
}

func eventName(name, value string) field.ErrorList {
	errs := required(field.NewPath(name), value)
	if len(value) > maxEventName {
		errs = append(errs, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %d characters", maxEventName)))
	}
	return errs
}
