package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"

	"k8s.io/apiserver/pkg/server/healthz"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// registered is ready once the APIServices of all names have been available: before that, a client would not find all
// that this server has. What becomes of them later is no matter of this server's health.
func registered(names []string, get func(name string) (*apiregistrationv1.APIService, error)) healthz.HealthChecker {
	var done atomic.Bool
	return healthz.NamedCheck("autoregister-completion", func(*http.Request) error {
		if done.Load() {
			return nil
		}
		var missing []string
		for _, name := range names {
			if s, err := get(name); err != nil || !available(s) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("missing APIService: %v", missing)
		}
		done.Store(true)
		return nil
	})
}

func available(s *apiregistrationv1.APIService) bool {
	return slices.ContainsFunc(s.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool {
		return c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionTrue
	})
}
