package registry

import (
	"testing"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/devices"
	"github.com/orlop-io/orlop/cmd/apiserver/registry/services"
)

// A resource that stands twice would be served by whichever comes last, over a watch cache of its own.
func TestResourcesAreDescribedOnce(t *testing.T) {
	seen := map[string]bool{}
	all := append(append(coreResources(Config{}), groupResources(Config{})...), services.AddressResource())
	for _, r := range append(all, devices.Resources(nil, nil)...) {
		name := r.GroupResource().String()
		if seen[name] || r.Kind == "" || r.Singular == "" || r.Index != "" && r.Fields == nil {
			t.Errorf("%s is described twice or not whole", name)
		}
		seen[name] = true
	}
}
