package bootstrap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/cmd/bootstrap/image"
)

// An import takes as long as the whole command may take, and one that is cut off says by what.
func TestImportSaysWhyItWasCutOff(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ctr"), []byte("#!/bin/sh\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if err := os.MkdirAll(filepath.Join(dir, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "images", "x.tar"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("not within --timeout 4m"))
	defer cancel()
	err := importImage(ctx, image.Spec{Names: []string{"x"}}, Config{CRISocket: "unix:///none"}, dir)
	if err == nil || !strings.Contains(err.Error(), "not within --timeout 4m") {
		t.Errorf("the error is %v", err)
	}
}
