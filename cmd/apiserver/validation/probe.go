package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func probes(c *corev1.Container, in scope, p *field.Path) field.ErrorList {
	errs := probe(c.LivenessProbe, in, p.Child("livenessProbe"))
	if l := c.LivenessProbe; l != nil && l.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(p.Child("livenessProbe", "successThreshold"), l.SuccessThreshold, "must be 1"))
	}
	errs = append(errs, probe(c.ReadinessProbe, in, p.Child("readinessProbe"))...)
	if r := c.ReadinessProbe; r != nil && r.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(p.Child("readinessProbe", "terminationGracePeriodSeconds"), *r.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	errs = append(errs, probe(c.StartupProbe, in, p.Child("startupProbe"))...)
	if s := c.StartupProbe; s != nil && s.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(p.Child("startupProbe", "successThreshold"), s.SuccessThreshold, "must be 1"))
	}
	return errs
}

func probe(pr *corev1.Probe, in scope, p *field.Path) field.ErrorList {
	if pr == nil {
		return nil
	}
	errs := handler(action{pr.Exec, pr.HTTPGet, pr.TCPSocket, pr.GRPC, nil}, in, p)
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

func lifecycle(l *corev1.Lifecycle, in scope, p *field.Path) field.ErrorList {
	if l == nil {
		return nil
	}
	var errs field.ErrorList
	if h := l.PostStart; h != nil {
		errs = append(errs, handler(action{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, in, p.Child("postStart"))...)
	}
	if h := l.PreStop; h != nil {
		errs = append(errs, handler(action{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, in, p.Child("preStop"))...)
	}
	if l.StopSignal != nil {
		errs = append(errs, stopSignal(*l.StopSignal, in.spec.OS, p.Child("stopSignal"))...)
	}
	return errs
}

// stopSignal demands a signal that the pod's system knows; the pod must say which system that is.
func stopSignal(s corev1.Signal, os *corev1.PodOS, p *field.Path) field.ErrorList {
	switch {
	case os == nil:
		return field.ErrorList{field.Forbidden(p, "may not be set for containers with empty `spec.os.name`")}
	case os.Name == corev1.Windows:
		return supported(p, s, corev1.SIGKILL, corev1.SIGTERM)
	default:
		return supported(p, s, linuxSignals()...)
	}
}

func linuxSignals() []corev1.Signal {
	list := []corev1.Signal{corev1.SIGABRT, corev1.SIGALRM, corev1.SIGBUS, corev1.SIGCHLD, corev1.SIGCLD, corev1.SIGCONT, corev1.SIGFPE, corev1.SIGHUP,
		corev1.SIGILL, corev1.SIGINT, corev1.SIGIO, corev1.SIGIOT, corev1.SIGKILL, corev1.SIGPIPE, corev1.SIGPOLL, corev1.SIGPROF, corev1.SIGPWR,
		corev1.SIGQUIT, corev1.SIGRTMAX}
	// The real-time signals are counted up from the first and down from the last of them.
	for i := 1; i <= 14; i++ {
		list = append(list, corev1.Signal(fmt.Sprintf("%s-%d", corev1.SIGRTMAX, i)))
	}
	list = append(list, corev1.SIGRTMIN)
	for i := 1; i <= 15; i++ {
		list = append(list, corev1.Signal(fmt.Sprintf("%s+%d", corev1.SIGRTMIN, i)))
	}
	return append(list, corev1.SIGSEGV, corev1.SIGSTKFLT, corev1.SIGSTOP, corev1.SIGSYS, corev1.SIGTERM, corev1.SIGTRAP, corev1.SIGTSTP, corev1.SIGTTIN,
		corev1.SIGTTOU, corev1.SIGURG, corev1.SIGUSR1, corev1.SIGUSR2, corev1.SIGVTALRM, corev1.SIGWINCH, corev1.SIGXCPU, corev1.SIGXFSZ)
}

// action is what a probe or a hook does: exactly one of these.
type action struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func handler(a action, in scope, p *field.Path) field.ErrorList {
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
	one("grpc", a.grpc != nil, func(at *field.Path) field.ErrorList {
		errs := portNumber(at.Child("port"), a.grpc.Port)
		if m := a.grpc.Mode; m != nil {
			errs = append(errs, supported(at.Child("mode"), *m, corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)...)
		}
		return errs
	})
	one("sleep", a.sleep != nil, func(at *field.Path) field.ErrorList {
		return sleep(a.sleep.Seconds, in.spec.TerminationGracePeriodSeconds, at)
	})
	if count == 0 {
		errs = append(errs, field.Required(p, "must specify a handler type"))
	}
	return errs
}

// sleep refuses hooks that sleep longer than the pod may take to end.
func sleep(seconds int64, grace *int64, p *field.Path) field.ErrorList {
	var most int64
	if grace != nil {
		most = *grace
	}
	if seconds < 0 || seconds > most {
		return field.ErrorList{field.Invalid(p, seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", most))}
	}
	return nil
}

func httpGet(h *corev1.HTTPGetAction, p *field.Path) field.ErrorList {
	errs := required(p.Child("path"), h.Path)
	errs = append(errs, portOrName(h.Port, p.Child("port"))...)
	errs = append(errs, supported(p.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range h.HTTPHeaders {
		errs = append(errs, invalid(p.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
	}
	if h.Protocol != nil {
		errs = append(errs, supported(p.Child("protocol"), *h.Protocol, corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)...)
	}
	return errs
}
