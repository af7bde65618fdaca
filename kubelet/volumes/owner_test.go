package volumes

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// A volume whose top has the group already is gone through only where the pod does not ask to be spared that.
func TestGroupChangePolicy(t *testing.T) {
	group := int64(os.Getgid())
	mismatch, always := v1.FSGroupChangeOnRootMismatch, v1.FSGroupChangeAlways
	for _, tt := range []struct {
		name   string
		policy *v1.PodFSGroupChangePolicy
		done   bool // the top is as it is to be
		want   os.FileMode
	}{
		{"always is the default", nil, true, 0o660},
		{"always", &always, true, 0o660},
		{"its top is right", &mismatch, true, 0o600},
		{"its top is not", &mismatch, false, 0o660},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "f")
			if tt.done {
				if err := setGroup(dir, group, true); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: tt.policy}}}
			if err := groupLocal(pod, dir, group); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(file); err != nil || st.Mode().Perm() != tt.want {
				t.Errorf("the file has mode %v, %v; want %v", st.Mode(), err, tt.want)
			}
			if set, err := groupSet(dir, group, true); err != nil || !set {
				t.Errorf("the top has the group: %t, %v", set, err)
			}
		})
	}
}
