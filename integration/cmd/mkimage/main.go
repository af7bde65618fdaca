// Command mkimage packs the built programs, and the one that plays the parts of
// other people's images in tests, into OCI image archives.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/orlop-io/orlop/cmd/bootstrap/image"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "folder of the built programs")
	out := flags.String("o", "bin/images", "folder to write the archives to")
	version := flags.String("version", "", "tag of the images")
	arch := flags.String("arch", "amd64", "architecture the programs were built for")
	registry := flags.String("registry", "localhost", "first part of the images' names")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version == "" {
		return fmt.Errorf("-version is required")
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for _, spec := range append(image.Cluster(), testImage(), sampleImage()) {
		file := filepath.Join(*out, spec.Names[0]+".tar")
		if err := spec.Write(file, *bin, *registry, *version, *arch); err != nil {
			return fmt.Errorf("pack image %s: %w", spec.Names[0], err)
		}
	}
	return nil
}

// testImage is one static program under the names that tests know.
func testImage() image.Spec {
	tools := map[string]string{}
	for _, n := range []string{
		"sh", "cat", "chmod", "echo", "env", "false", "grep", "head", "hostname", "id", "ln", "ls", "mkdir", "mount", "nc", "nslookup",
		"ping", "printenv", "ps", "rm", "seq", "sleep", "stat", "tail", "tar", "test", "touch", "true", "wget",
	} {
		tools["/bin/"+n] = "/testimage"
	}
	return image.Spec{
		Names:      []string{"orlop-testimage", "agnhost", "busybox", "nginx"},
		Files:      map[string]string{"/testimage": "testimage", "/etc/existing-file": "pause"}, // any file to mount over
		Links:      tools,
		Dirs:       []string{"/tmp", "/etc", "/usr/share/nginx/html"},
		Entrypoint: []string{"/testimage"},
		Cmd:        []string{"pause"},
	}
}

// sampleImage is somebody else's aggregated API server.
func sampleImage() image.Spec {
	return image.Spec{
		Names:      []string{"sample-apiserver"},
		Files:      map[string]string{"/sample-apiserver": "sample-apiserver"},
		Dirs:       []string{"/tmp", "/etc"},
		Entrypoint: []string{"/sample-apiserver"},
	}
}
