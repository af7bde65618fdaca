package devices

import (
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// What a driver said of a device must not outlive the claim's hold on it: the next holder would read it.
func TestReportsGoWithTheirDevices(t *testing.T) {
	share := "s"
	status := &resourcev1.ResourceClaimStatus{
		Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Driver: "d", Pool: "p", Device: "0"}}}},
		Devices:    []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "0"}, {Driver: "d", Pool: "p", Device: "1"}, {Driver: "d", Pool: "p", Device: "0", ShareID: &share}},
	}
	dropGone(status)
	if len(status.Devices) != 1 || status.Devices[0].Device != "0" || status.Devices[0].ShareID != nil {
		t.Errorf("devices = %+v", status.Devices)
	}
}
