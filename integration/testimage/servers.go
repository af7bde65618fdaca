package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// serve runs an HTTP server until a signal asks the process to end; then it
// answers what is under way.
func serve(addr string, h http.Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server := &http.Server{Addr: addr, Handler: h}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		done <- server.Shutdown(ctx)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}

func text(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, format, args...)
}

// netexec is agnhost's network server: HTTP on --http-port, the same questions
// over UDP on --udp-port.
func netexec(_ *stdio, args []string) error {
	flags := flag.NewFlagSet("netexec", flag.ContinueOnError)
	httpPort := flags.Int("http-port", 8080, "HTTP port")
	udpPort := flags.Int("udp-port", 8081, "UDP port; -1 for none")
	delay := flags.Int("delay-shutdown", 0, "seconds to go on after SIGTERM")
	if err := flags.Parse(args); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	if *udpPort >= 0 {
		go func() {
			if err := serveUDP(*udpPort, name); err != nil {
				fmt.Fprintln(os.Stderr, "netexec: UDP:", err)
			}
		}()
	}
	if *delay > 0 {
		signal.Ignore(syscall.SIGTERM)
		terminate := make(chan os.Signal, 1)
		signal.Notify(terminate, syscall.SIGTERM)
		go func() {
			<-terminate
			time.Sleep(time.Duration(*delay) * time.Second)
			os.Exit(0)
		}()
		return http.ListenAndServe(":"+strconv.Itoa(*httpPort), netexecHandler(name))
	}
	return serve(":"+strconv.Itoa(*httpPort), netexecHandler(name))
}

func netexecHandler(name string) http.Handler {
	mux := http.NewServeMux()
	began := time.Now()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { text(w, "NOW: %s", time.Now()) })
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { text(w, "%s", name) })
	mux.HandleFunc("/hostName", func(w http.ResponseWriter, _ *http.Request) { text(w, "%s", name) })
	mux.HandleFunc("/clientip", func(w http.ResponseWriter, r *http.Request) { text(w, "%s", r.RemoteAddr) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		if code, err := strconv.Atoi(r.FormValue("code")); err == nil {
			w.WriteHeader(code)
		}
		text(w, "%s", r.FormValue("msg"))
	})
	mux.HandleFunc("/header", func(w http.ResponseWriter, r *http.Request) { text(w, "%s", r.Header.Get(r.FormValue("key"))) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { text(w, "ok") })
	mux.HandleFunc("/uptime", func(w http.ResponseWriter, _ *http.Request) { text(w, "%s", time.Since(began)) })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			code = http.StatusFound
		}
		http.Redirect(w, r, r.FormValue("location"), code)
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		if d, err := time.ParseDuration(r.FormValue("wait")); err == nil {
			time.Sleep(d)
		}
		os.Exit(code)
	})
	mux.HandleFunc("/shell", func(w http.ResponseWriter, r *http.Request) {
		out, err := exec.CommandContext(r.Context(), "/bin/sh", "-c", r.FormValue("shellCommand")).CombinedOutput()
		answer := map[string]string{"output": string(out)}
		if err != nil {
			answer["error"] = err.Error()
		}
		json.NewEncoder(w).Encode(answer)
	})
	mux.HandleFunc("/dial", dial)
	return mux
}

// dial asks another netexec and tells what it answered: request=hostname&
// protocol=http|udp&host=H&port=P&tries=N.
func dial(w http.ResponseWriter, r *http.Request) {
	tries, err := strconv.Atoi(r.FormValue("tries"))
	if err != nil {
		tries = 1
	}
	answer := map[string][]string{}
	for range tries {
		got, err := ask(r.FormValue("protocol"), net.JoinHostPort(r.FormValue("host"), r.FormValue("port")), r.FormValue("request"))
		if err != nil {
			answer["errors"] = append(answer["errors"], err.Error())
		} else {
			answer["responses"] = append(answer["responses"], got)
		}
	}
	json.NewEncoder(w).Encode(answer)
}

func ask(protocol, addr, request string) (string, error) {
	if protocol != "udp" {
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + addr + "/" + request)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(content)), err
	}
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte(request)); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

func serveUDP(port int, name string) error {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			return err
		}
		var answer string
		switch question, arg, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " "); strings.ToLower(question) {
		case "hostname":
			answer = name
		case "clientip":
			answer = from.String()
		case "echo":
			answer = arg
		default:
			answer = "unknown question " + question
		}
		if _, err := conn.WriteToUDP([]byte(answer), from); err != nil {
			return err
		}
	}
}

func serveHostname(_ *stdio, args []string) error {
	flags := flag.NewFlagSet("serve-hostname", flag.ContinueOnError)
	port := flags.Int("port", 9376, "port")
	if err := flags.Parse(args); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return serve(":"+strconv.Itoa(*port), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { text(w, "%s", name) }))
}

func testWebserver(_ *stdio, args []string) error {
	flags := flag.NewFlagSet("test-webserver", flag.ContinueOnError)
	port := flags.Int("port", 80, "port")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return serve(":"+strconv.Itoa(*port), http.FileServer(http.Dir("/")))
}

// nginx serves its folder, or its greeting where the folder is empty.
func nginx(_ *stdio, _ []string) error {
	const root = "/usr/share/nginx/html"
	files := http.FileServer(http.Dir(root))
	return serve(":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "nginx")
		if entries, err := os.ReadDir(root); r.URL.Path == "/" && (err != nil || len(entries) == 0) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n")
			return
		}
		files.ServeHTTP(w, r)
	}))
}

// porter answers on every port that a variable SERVE_PORT_n names, with its value.
func porter(_ *stdio, _ []string) error {
	failed := make(chan error)
	for _, kv := range os.Environ() {
		key, value, _ := strings.Cut(kv, "=")
		if port, ok := strings.CutPrefix(key, "SERVE_PORT_"); ok {
			go func() {
				failed <- http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { text(w, "%s", value) }))
			}()
		}
	}
	return <-failed
}

// liveness is healthy for its first ten seconds only.
func liveness(_ *stdio, _ []string) error {
	began := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if d := time.Since(began); d > 10*time.Second {
			http.Error(w, fmt.Sprintf("error: %v", d.Seconds()), http.StatusInternalServerError)
			return
		}
		text(w, "ok")
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		loc, err := url.QueryUnescape(r.FormValue("loc"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, loc, http.StatusFound)
	})
	return serve(":8080", mux)
}

func logsGenerator(s *stdio, args []string) error {
	flags := flag.NewFlagSet("logs-generator", flag.ContinueOnError)
	total := flags.Int("log-lines-total", 10, "lines in all")
	duration := flags.Duration("run-duration", time.Second, "over this long")
	flags.Int("logtostderr", 0, "ignored")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for i := range *total {
		fmt.Fprintf(s.out, "%s %d GET /api/v1/namespaces/default/pods/p%d 200\n", time.Now().UTC().Format(time.RFC3339Nano), i, i)
		time.Sleep(*duration / time.Duration(*total))
	}
	return nil
}

// load puts a Service under load and reports as JSON what failed: --rate new
// connections a second, and --long connections that each ask again and again.
func load(s *stdio, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	target := flags.String("target", "", "host:port of a netexec")
	rate := flags.Int("rate", 50, "new connections a second")
	long := flags.Int("long", 10, "connections that are kept open")
	duration := flags.Duration("for", 25*time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), *duration)
	defer cancel()
	var r loadReport
	workers := make(chan struct{}, 4096)
	for range *long {
		workers <- struct{}{}
		go func() { defer func() { <-workers }(); r.keep(ctx, *target) }()
	}
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			workers <- struct{}{}
			go func() { defer func() { <-workers }(); r.once(*target) }()
		}
	}
	for range cap(workers) {
		workers <- struct{}{} // all places free: everybody has ended
	}
	return json.NewEncoder(s.out).Encode(map[string]any{
		"tried": r.tried.Load(), "failed": r.failed.Load(), "broken": r.broken.Load(), "asked": r.asked.Load(), "error": r.why.Load(),
	})
}

type loadReport struct {
	tried, failed atomic.Int64 // new connections
	broken, asked atomic.Int64 // kept connections that broke; questions over them
	why           atomic.Value // last error's text
}

func (r *loadReport) once(target string) {
	r.tried.Add(1)
	if _, err := ask("http", target, "hostname"); err != nil {
		r.failed.Add(1)
		r.why.Store(time.Now().Format(time.StampMilli) + " " + err.Error())
	}
}

// keep asks over one connection until ctx ends, or until it breaks.
func (r *loadReport) keep(ctx context.Context, target string) {
	conn, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		r.broken.Add(1)
		r.why.Store(err.Error())
		return
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	for ctx.Err() == nil {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err := io.WriteString(conn, "GET /hostname HTTP/1.1\r\nHost: load\r\n\r\n")
		if err == nil {
			_, err = conn.Read(buf)
		}
		if err != nil {
			r.broken.Add(1)
			r.why.Store(time.Now().Format(time.StampMilli) + " kept connection: " + err.Error())
			return
		}
		r.asked.Add(1)
		time.Sleep(50 * time.Millisecond)
	}
}
