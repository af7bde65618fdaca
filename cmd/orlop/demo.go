package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	staticmanifests "github.com/orlop-io/orlop/static-manifests"
)

// demoURL is the Service of static-manifests/demo, by name.
const demoURL = "http://web/hostname"

var devImage = regexp.MustCompile(`(image: localhost/[a-z-]+):dev\b`)

// demoManifest is the demo with the images of this version.
func demoManifest(version string) ([]byte, error) {
	files, err := fs.Glob(staticmanifests.Files, "demo/*.yaml")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find the demo's manifests: %v", err)
	}
	var all []byte
	for _, f := range files {
		b, err := staticmanifests.Files.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read the demo's manifest: %w", err)
		}
		all = append(append(all, "\n---\n"...), b...)
	}
	return devImage.ReplaceAll(all, []byte("${1}:"+version)), nil
}

func demoCommand(e *env) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Deploy three web replicas and ask their Service by name",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := e.cluster(name)
			if err != nil {
				return err
			}
			return e.demo(cmd.Context(), name)
		},
	}
	return nameFlag(cmd, &name)
}

func (e *env) demo(ctx context.Context, name string) error {
	manifest, err := demoManifest(e.version)
	if err != nil {
		return err
	}
	run := func(stdin []byte, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, e.exe, append([]string{"kubectl", "--name", name}, args...)...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("kubectl %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
		}
		return strings.TrimSpace(string(out)), nil
	}
	p := e.progress(e.stdout)
	err = p.Step("deploy", "Deploying three web replicas and a Service", func() error {
		_, err := run(manifest, "apply", "-f", "-")
		return err
	})
	if err != nil {
		return err
	}
	err = p.Step("ready", "Waiting for the pods", func() error {
		if _, err := run(nil, "rollout", "status", "deployment/web", "--timeout=60s"); err != nil {
			return err
		}
		_, err := run(nil, "wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
		return err
	})
	if err != nil {
		return err
	}
	for range 5 {
		began := time.Now()
		answer, err := run(nil, "exec", "client", "--", "wget", "-q", "-O", "-", demoURL)
		if err != nil {
			return err
		}
		p.Say("ask", fmt.Sprintf("%s answered: %s (%.2fs)", demoURL, answer, time.Since(began).Seconds()))
	}
	return nil
}
