package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// connect opens one TCP connection and says in one word what came of it, as
// agnhost does: nothing, TIMEOUT, REFUSED, DNS or OTHER.
func connect(s *stdio, args []string) error {
	timeout := time.Second
	var target string
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "--timeout="); ok {
			d, err := time.ParseDuration(v)
			if err != nil {
				return err
			}
			timeout = d
		} else if !strings.HasPrefix(a, "--") {
			target = a
		}
	}
	conn, err := net.DialTimeout("tcp", target, timeout)
	if err == nil {
		return conn.Close()
	}
	var dns *net.DNSError
	var word string
	switch {
	case errors.As(err, &dns):
		word = "DNS"
	case errors.Is(err, os.ErrDeadlineExceeded) || os.IsTimeout(err):
		word = "TIMEOUT"
	case errors.Is(err, syscall.ECONNREFUSED):
		word = "REFUSED"
	default:
		word = "OTHER"
	}
	fmt.Fprintln(s.out, word)
	return exitCode(1)
}

// wget knows: wget [-q] [-O FILE|-] [-T SECONDS] [--timeout=SECONDS] URL.
func wget(s *stdio, args []string) error {
	timeout, output, target := 10*time.Second, "", ""
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-q" || strings.HasPrefix(a, "--no-") || a == "-S":
		case a == "-qO-" || a == "-O-":
			output = "-"
		case (a == "-O" || a == "-qO") && i+1 < len(args):
			i++
			output = args[i]
		case a == "-T" && i+1 < len(args):
			i++
			d, err := time.ParseDuration(args[i] + "s")
			if err != nil {
				return err
			}
			timeout = d
		case strings.HasPrefix(a, "--timeout="):
			d, err := time.ParseDuration(strings.TrimPrefix(a, "--timeout=") + "s")
			if err != nil {
				return err
			}
			timeout = d
		case strings.HasPrefix(a, "-"):
			return fmt.Errorf("unknown flag %s", a)
		default:
			target = a
		}
	}
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	resp, err := (&http.Client{Timeout: timeout}).Get(target)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("server returned error: HTTP/1.1 %s", resp.Status)
	}
	w := s.out
	if output != "" && output != "-" {
		f, err := os.Create(output)
		if err != nil {
			return err
		}
		defer f.Close()
		w = f
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

// nc knows: nc [-z] [-u] [-w SECONDS] HOST PORT, and nc -l -p PORT.
func nc(s *stdio, args []string) error {
	flags := flag.NewFlagSet("nc", flag.ContinueOnError)
	zero := flags.Bool("z", false, "only connect")
	udp := flags.Bool("u", false, "UDP")
	listen := flags.Bool("l", false, "listen for one connection")
	flags.Bool("v", false, "ignored")
	port := flags.String("p", "", "port to listen on")
	wait := flags.Int("w", 5, "seconds to wait")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var conn net.Conn
	var err error
	if *listen {
		l, lerr := net.Listen("tcp", ":"+*port)
		if lerr != nil {
			return lerr
		}
		defer l.Close()
		conn, err = l.Accept()
	} else if flags.NArg() != 2 {
		return errors.New("usage: nc [-z] [-u] [-w SECONDS] HOST PORT")
	} else {
		network := "tcp"
		if *udp {
			network = "udp"
		}
		conn, err = net.DialTimeout(network, net.JoinHostPort(flags.Arg(0), flags.Arg(1)), time.Duration(*wait)*time.Second)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if *zero {
		return nil
	}
	if *udp {
		conn.SetReadDeadline(time.Now().Add(time.Duration(*wait) * time.Second))
	}
	go func() {
		io.Copy(conn, s.in)
		if c, ok := conn.(*net.TCPConn); ok {
			c.CloseWrite()
		}
	}()
	_, err = io.Copy(s.out, conn)
	return err
}

// nslookup asks the resolver of /etc/resolv.conf, or the server named.
func nslookup(s *stdio, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: nslookup NAME [SERVER]")
	}
	resolver := net.DefaultResolver
	if len(args) > 1 {
		resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(args[1], "53"))
		}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addrs, err := resolver.LookupHost(ctx, args[0])
	if err != nil {
		return err
	}
	for _, a := range addrs {
		fmt.Fprintf(s.out, "Name:\t%s\nAddress: %s\n", args[0], a)
	}
	return nil
}

func resolvConf(key string) ([]string, error) {
	content, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			out = append(out, f[1:]...)
		}
	}
	return out, nil
}

func dnsSuffix(s *stdio, _ []string) error {
	list, err := resolvConf("search")
	fmt.Fprintln(s.out, strings.Join(list, ","))
	return err
}

func dnsServers(s *stdio, _ []string) error {
	list, err := resolvConf("nameserver")
	fmt.Fprintln(s.out, strings.Join(list, ","))
	return err
}

func etcHosts(s *stdio, _ []string) error { return cat(s, []string{"/etc/hosts"}) }

// entrypointTester prints how it was called.
func entrypointTester(s *stdio, args []string) error {
	fmt.Fprintln(s.out, append([]string{os.Args[0], "entrypoint-tester"}, args...))
	return nil
}

// inClusterClient asks the API server's health with the pod's own token, again
// and again, as a program in the cluster does.
func inClusterClient(s *stdio, _ []string) error {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	ca, err := os.ReadFile(dir + "ca.crt")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("no certificate in " + dir + "ca.crt")
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	server := "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	for {
		token, err := os.ReadFile(dir + "token")
		if err != nil {
			return err
		}
		req, err := http.NewRequest(http.MethodGet, server+"/healthz", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		fmt.Fprintln(s.out, "calling /healthz")
		if resp, err := client.Do(req); err != nil {
			fmt.Fprintf(s.out, "status=failed\nerr=%v\n", err)
		} else {
			fmt.Fprintf(s.out, "authz_header=%.8s...\nstatus=%s\n", string(token), resp.Status)
			resp.Body.Close()
		}
		time.Sleep(2 * time.Second)
	}
}

// mountTest prints what its flags ask of files, as agnhost mounttest does.
func mountTest(s *stdio, args []string) error {
	flags := flag.NewFlagSet("mounttest", flag.ContinueOnError)
	kind := flags.String("fs_type", "", "print the file system of this path")
	mode := flags.String("file_mode", "", "print the mode of this path")
	perm := flags.String("file_perm", "", "print the permissions of this path")
	owner := flags.String("file_owner", "", "print the owner of this path")
	content := flags.String("file_content", "", "print the content of this path")
	loop := flags.String("file_content_in_loop", "", "print the content of this path every second")
	create := flags.String("new_file_0644", "", "create this file with mode 0644")
	flags.Int("break_on_expected_content", 0, "ignored")
	flags.Int("retry_time", 180, "seconds to go on with file_content_in_loop")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *create != "" {
		if err := os.WriteFile(*create, []byte("mount-tester new file\n"), 0o644); err != nil {
			return err
		}
	}
	if *kind != "" {
		var st syscall.Statfs_t
		if err := syscall.Statfs(*kind, &st); err != nil {
			return err
		}
		name := fmt.Sprintf("%x", st.Type)
		if st.Type == 0x01021994 {
			name = "tmpfs"
		}
		fmt.Fprintf(s.out, "mount type of %q: %s\n", *kind, name)
	}
	for _, path := range []string{*mode, *perm, *owner} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		switch path {
		case *mode:
			fmt.Fprintf(s.out, "mode of file %q: %v\n", path, info.Mode())
		case *perm:
			fmt.Fprintf(s.out, "perms of file %q: %v\n", path, info.Mode().Perm())
		case *owner:
			fmt.Fprintf(s.out, "owner UID of %q: %d\nowner GID of %q: %d\n", path, st.Uid, path, st.Gid)
		}
	}
	for path := *content; path != ""; path = "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "content of file %q: %s\n", path, b)
	}
	for end := time.Now().Add(3 * time.Minute); *loop != "" && time.Now().Before(end); time.Sleep(time.Second) {
		if b, err := os.ReadFile(*loop); err != nil {
			fmt.Fprintf(s.out, "error reading file content of %q: %v\n", *loop, err)
		} else {
			fmt.Fprintf(s.out, "content of file %q: %s\n", *loop, b)
		}
	}
	return nil
}
