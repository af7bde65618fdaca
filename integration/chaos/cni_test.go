package chaos

import (
	"os"
	"os/exec"
	"testing"
)

// Ten thousand containers come and go while every other call of the CNI plugin is killed; cni/plugin has the test, and runs it with sixty.
func TestCNILeaksNothing(t *testing.T) {
	cmd := exec.Command("go", "test", "-count=1", "-timeout", "40m", "-run", "^TestKernelNothingLeaks$", "../../cni/plugin")
	cmd.Env = append(os.Environ(), "ORLOP_LEAKS=10000", "ORLOP_REQUIRE=kernel")
	if out, err := cmd.CombinedOutput(); err != nil {
		if len(out) > 10_000 {
			out = out[len(out)-10_000:]
		}
		t.Fatalf("%v\n%s", err, out)
	}
}
