// Command testimage is the one program of the images that tests run: it plays
// the parts of agnhost, busybox and nginx that they need, under the names of
// the tools (argv[0]) or as a subcommand. One static program keeps the image
// small and the same on every architecture.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// tool runs with its arguments (without its own name) and returns an exit code
// other than 0 through exitCode.
type tool func(io *stdio, args []string) error

type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// exitCode ends the program with a code and no message.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// tools are the subcommands; those of busybox also run under their own name.
func tools() map[string]tool {
	return map[string]tool{
		// agnhost
		"connect": connect, "consume": consume, "dns-server-list": dnsServers, "dns-suffix": dnsSuffix, "entrypoint-tester": entrypointTester,
		"etc-hosts": etcHosts, "grpc-health-checking": grpcHealthChecking, "guestbook": guestbook, "inclusterclient": inClusterClient, "liveness": liveness, "load": load, "logs-generator": logsGenerator,
		"mounttest": mountTest, "mtlsclient": mtlsClient, "mtlsserver": mtlsServer, "netexec": netexec, "nginx": nginx, "pause": pause, "porter": porter,
		"serve-hostname": serveHostname, "test-service-account-issuer-discovery": issuerDiscovery, "test-webserver": testWebserver, "webhook": webhook,
		// busybox
		"cat": cat, "chmod": chmod, "echo": echo, "env": env, "false": falseTool, "grep": grep, "head": head, "hostname": hostname, "id": id,
		"ln": ln, "ls": ls, "mkdir": mkdir, "mount": mounts, "nc": nc, "nslookup": nslookup, "printenv": printenv, "ps": ps,
		"rm": rm, "seq": seq, "sh": shell, "sleep": sleep, "stat": stat, "tail": tail, "tar": tarTool, "test": test, "touch": touch,
		"true": trueTool, "wget": wget,
	}
}

func main() {
	code := run(&stdio{os.Stdin, os.Stdout, os.Stderr}, os.Args)
	if os.Getpid() == 1 {
		// containerd 1.6 on a busy machine loses what a container printed
		// that ends before its output is followed.
		time.Sleep(100 * time.Millisecond)
	}
	os.Exit(code)
}

func run(s *stdio, argv []string) int {
	all := tools()
	name, args := filepath.Base(argv[0]), argv[1:]
	t, ok := all[name]
	if !ok && len(args) > 0 {
		name, args = args[0], args[1:]
		t, ok = all[filepath.Base(name)]
	}
	if !ok {
		var names []string
		for n := range all {
			names = append(names, n)
		}
		sort.Strings(names)
		fmt.Fprintf(s.err, "unknown tool %q; there are: %s\n", name, strings.Join(names, " "))
		return 127
	}
	err := t(s, args)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintf(s.err, "%s: %v\n", name, err)
		return 1
	}
}

// pause waits for a signal, and reaps children that the kernel hands to process 1.
func pause(_ *stdio, _ []string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for sig := range signals {
		if sig != syscall.SIGCHLD {
			return nil
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}
