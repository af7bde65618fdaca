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
	}
	for name, tt := range map[string]struct {
		begins int64 // -1: an earlier kubelet began the pod
		ends   []end
	}{
		"killed by the kernel":                   {0, []end{{killed, 1, "OOMKilled"}}},
		"the runtime knows":                      {0, []end{{other("a", 137, "OOMKilled"), 1, "OOMKilled"}}},
		"killed by somebody":                     {0, []end{{killed, 0, "Error"}}},
		"ended by itself beside a killed child":  {0, []end{{other("a", 1, "Error"), 1, "Error"}, {other("b", 0, "Completed"), 2, "Completed"}}},
		"looked at twice":                        {0, []end{{killed, 3, "OOMKilled"}, {killed, 3, "OOMKilled"}}},
		"the next one is killed by somebody":     {0, []end{{killed, 1, "OOMKilled"}, {other("b", 137, "Error"), 1, "Error"}}},
		"the next one by the kernel, too":        {0, []end{{killed, 1, "OOMKilled"}, {other("b", 137, "Error"), 2, "OOMKilled"}}},
		"some were killed before":                {4, []end{{killed, 4, "Error"}, {other("b", 137, "Error"), 5, "OOMKilled"}}},
		"what was before is not known: no guess": {-1, []end{{killed, 4, "Error"}, {other("b", 137, "Error"), 5, "OOMKilled"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var k kills
			if tt.begins >= 0 {
				k.begin(tt.begins)
				k.begin(tt.begins + 10) // the pod's sandbox is made anew
			}
			for i, e := range tt.ends {
				if got := k.reason(e.facts, e.count); got != e.want {
					t.Errorf("end %d: %s, want %s", i, got, e.want)
				}
			}
		})
	}
}
