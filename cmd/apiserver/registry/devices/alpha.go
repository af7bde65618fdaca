package devices

import resourcev1 "k8s.io/api/resource/v1"

// The API reference calls some fields alpha. As everywhere with features that are off, they are dropped from what clients
// send, so that nobody relies on what the scheduler does not read.

func dropListAttributes(s *resourcev1.ResourceSliceSpec) {
	for _, d := range s.Devices {
		for name, a := range d.Attributes {
			a.IntValues, a.BoolValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}

func dropDerivedAttributes(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}
