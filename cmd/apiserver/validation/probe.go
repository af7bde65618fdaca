package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func probes(c *corev1.Container, p *field.Path) field.ErrorList {
	errs := probe(c.LivenessProbe, p.Child("livenessProbe"))
	errs = append(errs, probe(c.ReadinessProbe, p.Child("readinessProbe"))...)
	errs = append(errs, probe(c.StartupProbe, p.Child("startupProbe"))...)
	if r := c.ReadinessProbe; r != nil && r.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(p.Child("readinessProbe", "terminationGracePeriodSeconds"), *r.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	if l := c.LivenessProbe; l != nil && l.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(p.Child("livenessProbe", "successThreshold"), l.SuccessThreshold, "must be 1"))
	}
	if s := c.StartupProbe; s != nil && s.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(p.Child("startupProbe", "successThreshold"), s.SuccessThreshold, "must be 1"))
	}
	return errs
}

func probe(pr *corev1.Probe, p *field.Path) field.ErrorList {
	if pr == nil {
		return nil
	}
	errs := handler(action{pr.Exec, pr.HTTPGet, pr.TCPSocket, pr.GRPC, nil}, p)
	errs = append(errs, nonNegative(p.Child("initialDelaySeconds"), int64(pr.InitialDelaySeconds))...)
	errs = append(errs, nonNegative(p.Child("timeoutSeconds"), int64(pr.TimeoutSeconds))...)
	errs = append(errs, nonNegative(p.Child("periodSeconds"), int64(pr.PeriodSeconds))...)
	errs = append(errs, nonNegative(p.Child("successThreshold"), int64(pr.SuccessThreshold))...)
	errs = append(errs, nonNegative(p.Child("failureThreshold"), int64(pr.FailureThreshold))...)
	if t := pr.TerminationGracePeriodSeconds; t != nil && *t <= 0 {
		errs = append(errs, field.Invalid(p.Child("terminationGracePeriodSeconds"), *t, "must be greater than 0"))
	}
	return errs
}

func lifecycle(l *corev1.Lifecycle, p *field.Path) field.ErrorList {
	if l == nil {
		return nil
	}
	var errs field.ErrorList
	if h := l.PostStart; h != nil {
		errs = append(errs, handler(action{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, p.Child("postStart"))...)
	}
	if h := l.PreStop; h != nil {
		errs = append(errs, handler(action{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, p.Child("preStop"))...)
	}
	return errs
}

// action is what a probe or a hook does: exactly one of these.
type action struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func handler(a action, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	count := 0
	one := func(name string, set bool, check func(*field.Path) field.ErrorList) {
		if !set {
			return
		}
		if count > 0 {
			errs = append(errs, field.Forbidden(p.Child(name), "may not specify more than 1 handler type"))
			return
		}
		count++
		errs = append(errs, check(p.Child(name))...)
	}
	one("exec", a.exec != nil, func(at *field.Path) field.ErrorList {
		if len(a.exec.Command) == 0 {
			return field.ErrorList{field.Required(at.Child("command"), "")}
		}
		return nil
	})
	one("httpGet", a.http != nil, func(at *field.Path) field.ErrorList { return httpGet(a.http, at) })
	one("tcpSocket", a.tcp != nil, func(at *field.Path) field.ErrorList { return portOrName(a.tcp.Port, at.Child("port")) })
	one("grpc", a.grpc != nil, func(at *field.Path) field.ErrorList { return portNumber(at.Child("port"), a.grpc.Port) })
	one("sleep", a.sleep != nil, func(at *field.Path) field.ErrorList {
		if a.sleep.Seconds < 0 {
			return field.ErrorList{field.Invalid(at, a.sleep.Seconds, "must be non-negative")}
		}
		return nil
	})
	if count == 0 {
		errs = append(errs, field.Required(p, "must specify a handler type"))
	}
	return errs
}

func httpGet(h *corev1.HTTPGetAction, p *field.Path) field.ErrorList {
	errs := required(p.Child("path"), h.Path)
	errs = append(errs, portOrName(h.Port, p.Child("port"))...)
	errs = append(errs, oneOf(p.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range h.HTTPHeaders {
		errs = append(errs, invalid(p.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
	}
	return errs
}

// graceOfHooks refuses hooks that sleep longer than the pod may take to end.
func graceOfHooks(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	if s.TerminationGracePeriodSeconds == nil {
		return nil
	}
	var errs field.ErrorList
	for i, c := range s.Containers {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil {
			continue
		}
		if n := c.Lifecycle.PreStop.Sleep.Seconds; n > *s.TerminationGracePeriodSeconds {
			errs = append(errs, field.Invalid(p.Child("containers").Index(i).Child("lifecycle", "preStop", "sleep"), n,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *s.TerminationGracePeriodSeconds)))
		}
	}
	return errs
}
