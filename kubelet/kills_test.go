package kubelet

import (
	"testing"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// An end is for want of memory if the kernel has killed something meanwhile, whatever the runtime had seen of it by then.
func TestKillsForWantOfMemory(t *testing.T) {
	killed := lifecycle.Facts{ID: "a", Exited: true, ExitCode: 137, Reason: "Error"}
	other := func(id string, code int32, reason string) lifecycle.Facts {
		return lifecycle.Facts{ID: id, Exited: true, ExitCode: code, Reason: reason}
	}
	type end struct {
		facts lifecycle.Facts
		count int64
		want  string
		ours  bool // the kubelet was about to kill it
	}
	for name, tt := range map[string]struct {
		begins int64 // -1: an earlier kubelet began the pod
		ends   []end
	}{
		"killed by the kernel":                                   {0, []end{{killed, 1, "OOMKilled", false}}},
		"the runtime knows":                                      {0, []end{{other("a", 137, "OOMKilled"), 1, "OOMKilled", false}}},
		"killed by somebody":                                     {0, []end{{killed, 0, "Error", false}}},
		"ended by itself beside a killed child":                  {0, []end{{other("a", 1, "Error"), 1, "Error", false}, {other("b", 0, "Completed"), 2, "Completed", false}}},
		"killed by the kubelet beside a killed child of another": {0, []end{{killed, 1, "Error", true}, {other("b", 137, "Error"), 1, "Error", false}}},
		"looked at twice":                                        {0, []end{{killed, 3, "OOMKilled", false}, {killed, 3, "OOMKilled", false}}},
		"the next one is killed by somebody":                     {0, []end{{killed, 1, "OOMKilled", false}, {other("b", 137, "Error"), 1, "Error", false}}},
		"the next one by the kernel, too":                        {0, []end{{killed, 1, "OOMKilled", false}, {other("b", 137, "Error"), 2, "OOMKilled", false}}},
		"some were killed before":                                {4, []end{{killed, 4, "Error", false}, {other("b", 137, "Error"), 5, "OOMKilled", false}}},
		"what was before is not known: no guess":                 {-1, []end{{killed, 4, "Error", false}, {other("b", 137, "Error"), 5, "OOMKilled", false}}},
	} {
		t.Run(name, func(t *testing.T) {
			var k kills
			if tt.begins >= 0 {
				k.begin(tt.begins)
				k.begin(tt.begins + 10) // the pod's sandbox is made anew
			}
			for i, e := range tt.ends {
				if got := k.reason(e.facts, e.count, e.ours); got != e.want {
					t.Errorf("end %d: %s, want %s", i, got, e.want)
				}
			}
		})
	}
}
