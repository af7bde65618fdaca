package packetlb

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestFlowsAreOverWhenProgramsSaySo(t *testing.T) {
	src, err := os.ReadFile("packetlb.bpf.c")
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]int{"IDLE_TCP": idleTCP, "IDLE_UDP": idleUDP, "IDLE_CLOSED": idleClosed} {
		if !strings.Contains(string(src), fmt.Sprintf("#define %s %d\n", name, v)) {
			t.Errorf("%s is not %d in the programs", name, v)
		}
	}
}
