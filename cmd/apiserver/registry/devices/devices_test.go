package devices

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Pods that tolerate a taint for a while count from its time: it must not move when something else changes, and must
// when the taint becomes another.
func TestTaintsKeepTheirTime(t *testing.T) {
	old := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	was := resourcev1.DeviceTaint{Key: "a", Effect: resourcev1.DeviceTaintEffectNoSchedule, TimeAdded: &old}
	for _, tt := range []struct {
		name  string
		taint resourcev1.DeviceTaint
		kept  bool
	}{
		{"the same", was, true},
		{"the same, its time left out", resourcev1.DeviceTaint{Key: "a", Effect: resourcev1.DeviceTaintEffectNoSchedule}, true},
		{"another key", resourcev1.DeviceTaint{Key: "b", Effect: resourcev1.DeviceTaintEffectNoSchedule, TimeAdded: &old}, true},
		{"another effect", resourcev1.DeviceTaint{Key: "a", Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: &old}, false},
	} {
		taint := tt.taint
		restampTaint(&taint, &was)
		if taint.TimeAdded == nil || taint.TimeAdded.Equal(&old) != tt.kept {
			t.Errorf("%s: %v", tt.name, taint.TimeAdded)
		}
	}
	spec := &resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{Name: "d", Taints: []resourcev1.DeviceTaint{{Key: "a", Effect: was.Effect}, {Key: "new", Effect: was.Effect}}}}}
	restampSlice(spec, &resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{Name: "d", Taints: []resourcev1.DeviceTaint{was}}}})
	if taints := spec.Devices[0].Taints; !taints[0].TimeAdded.Equal(&old) || taints[1].TimeAdded == nil {
		t.Errorf("taints of a slice: %v", taints)
	}
}

// What a driver said of a device must not outlive the claim's hold on it: the next holder would read it. A report on what
// was never held is a mistake, and stays to be refused.
func TestReportsGoWithTheirDevices(t *testing.T) {
	share := "s"
	holds := func(devices ...string) *resourcev1.AllocationResult {
		a := &resourcev1.AllocationResult{}
		for _, d := range devices {
			a.Devices.Results = append(a.Devices.Results, resourcev1.DeviceRequestAllocationResult{Driver: "d", Pool: "p", Device: d})
		}
		return a
	}
	for _, tt := range []struct {
		name     string
		now, old *resourcev1.AllocationResult
		want     string
	}{
		{"held", holds("0", "1"), holds("0", "1"), "0 1 0/s"},
		{"one given back", holds("0"), holds("0", "1"), "0 0/s"},
		{"all given back", nil, holds("0", "1"), "0/s"},
		{"never held", nil, nil, "0 1 0/s"},
	} {
		status := &resourcev1.ResourceClaimStatus{Allocation: tt.now, Devices: []resourcev1.AllocatedDeviceStatus{
			{Driver: "d", Pool: "p", Device: "0"}, {Driver: "d", Pool: "p", Device: "1"}, {Driver: "d", Pool: "p", Device: "0", ShareID: &share}}}
		dropGone(status, &resourcev1.ResourceClaimStatus{Allocation: tt.old})
		var left []string
		for _, d := range status.Devices {
			name := d.Device
			if d.ShareID != nil {
				name += "/" + *d.ShareID
			}
			left = append(left, name)
		}
		if got := strings.Join(left, " "); got != tt.want {
			t.Errorf("%s: reports on %q are left, want %q", tt.name, got, tt.want)
		}
	}
}

// A driver may report on its own devices, from the claim's node; what the scheduler decided is not a driver's.
func TestStatusHasRightsOfItsParts(t *testing.T) {
	driver := &user.DefaultInfo{Name: "driver", Extra: map[string][]string{serviceaccount.NodeNameKey: {"node-a"}}}
	authz := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		scheduler := a.GetUser().GetName() == "scheduler" && a.GetSubresource() == "binding" && a.GetVerb() == "update"
		reporter := a.GetUser().GetName() == "driver" && a.GetSubresource() == "driver" && a.GetName() == "gpu" && a.GetVerb() == "associated-node:update"
		if scheduler || reporter {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	on := func(node string) *resourcev1.AllocationResult {
		return &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{node}}}}}}}
	}
	claim := func(a *resourcev1.AllocationResult, drivers ...string) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{Status: resourcev1.ResourceClaimStatus{Allocation: a}}
		for _, d := range drivers {
			c.Status.Devices = append(c.Status.Devices, resourcev1.AllocatedDeviceStatus{Driver: d})
		}
		return c
	}
	for _, tt := range []struct {
		name     string
		who      user.Info
		now, old *resourcev1.ResourceClaim
		refused  int
	}{
		{"the scheduler allocates", &user.DefaultInfo{Name: "scheduler"}, claim(on("node-a")), claim(nil), 0},
		{"a driver allocates", driver, claim(on("node-a")), claim(nil), 1},
		{"a driver reports", driver, claim(on("node-a"), "gpu"), claim(on("node-a")), 0},
		{"a driver reports for another", driver, claim(on("node-a"), "gpu", "nic"), claim(on("node-a")), 1},
		{"a driver of another node", driver, claim(on("node-b"), "gpu"), claim(on("node-b")), 1},
		{"a driver removes another's report", driver, claim(on("node-a")), claim(on("node-a"), "nic"), 1},
		{"nothing changes", driver, claim(on("node-b"), "nic"), claim(on("node-b"), "nic"), 0},
	} {
		ctx := request.WithRequestInfo(request.WithUser(t.Context(), tt.who), &request.RequestInfo{Verb: "update"})
		if errs := statusRights(ctx, authz, tt.now, tt.old); len(errs) != tt.refused {
			t.Errorf("%s: %v", tt.name, errs)
		}
	}
}

func TestAlphaFieldsAreDropped(t *testing.T) {
	slice := &resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
		"a": {IntValue: new(int64(1)), StringValues: []string{"x"}}}}}}
	dropListAttributes(slice)
	if a := slice.Devices[0].Attributes["a"]; a.StringValues != nil || *a.IntValue != 1 {
		t.Errorf("attribute = %+v", a)
	}
	derived := []resourcev1.DeviceDerivedAttribute{{Name: "a/b", Expression: "1"}}
	claim := &resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Exactly: &resourcev1.ExactDeviceRequest{DerivedAttributes: derived}}, {FirstAvailable: []resourcev1.DeviceSubRequest{{DerivedAttributes: derived}}}}}}
	dropDerivedAttributes(claim)
	if r := claim.Devices.Requests; r[0].Exactly.DerivedAttributes != nil || r[1].FirstAvailable[0].DerivedAttributes != nil {
		t.Errorf("requests = %+v", r)
	}
}
