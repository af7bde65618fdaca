// Package bareserver runs the built etcd and API server on loopback, with no
// node, no controller and no container: the API alone, ready in seconds.
//
// It talks to the programs as a host does, through flags, files and signals,
// and imports none of Orlop's code.
package bareserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// ServiceRange is where Services get their addresses.
const ServiceRange = "10.96.0.0/12"

// Config says what to run.
type Config struct {
	Program string   // the built orlop-server
	Dir     string   // an empty folder, for keys, data and logs
	Env     []string // added to the programs' environment
	Flags   []string // added to the API server's
	Etcd    []string // added to etcd's
	Fsync   bool     // etcd waits for the disk, as in a real cluster; tests need not
}

// Server is a running etcd and API server.
type Server struct {
	Config     *rest.Config // the administrator's, without a limit on the rate of requests
	Client     *kubernetes.Clientset
	Kubeconfig string // a file with the same credentials
	cfg        Config
	port       int
	etcdURL    string
	peerURL    string
	etcd, api  *process
	more       []*process
}

// process is one program and what it wrote.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan error
}

// Start runs both programs and waits until the API server is ready.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, port: ports[0], etcdURL: "http://127.0.0.1:" + strconv.Itoa(ports[1])}
	if err := s.writeKeys(); err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	if s.Client, err = kubernetes.NewForConfig(s.Config); err != nil {
		return nil, err
	}
	s.peerURL = "http://127.0.0.1:" + strconv.Itoa(ports[2])
	if err := s.StartEtcd(); err != nil {
		return nil, err
	}
	if err := s.StartAPI(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// StartEtcd runs etcd, which must not run already, on what an earlier one stored.
func (s *Server) StartEtcd() error {
	flags := []string{"etcd", "--name=t", "--data-dir=" + s.file("etcd"), "--listen-client-urls=" + s.etcdURL, "--advertise-client-urls=" + s.etcdURL,
		"--listen-peer-urls=" + s.peerURL, "--initial-advertise-peer-urls=" + s.peerURL, "--initial-cluster=t=" + s.peerURL}
	if !s.cfg.Fsync {
		flags = append(flags, "--unsafe-no-fsync")
	}
	var err error
	s.etcd, err = s.run("etcd", append(flags, s.cfg.Etcd...)...)
	return err
}

// KillEtcd ends etcd without a word to it, and waits until it is gone. StartEtcd begins it again.
func (s *Server) KillEtcd() error {
	if err := s.etcd.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill etcd: %w", err)
	}
	<-s.etcd.done
	s.etcd = nil
	return nil
}

// StartAPI runs the API server, which must not run already, and waits until it is ready.
func (s *Server) StartAPI(ctx context.Context) error {
	if err := s.LaunchAPI(); err != nil {
		return err
	}
	return s.WaitReady(ctx)
}

// LaunchAPI runs the API server and does not wait for it.
func (s *Server) LaunchAPI() error {
	var err error
	s.api, err = s.run("kube-apiserver", append(s.apiFlags(), s.cfg.Flags...)...)
	return err
}

func (s *Server) apiFlags() []string {
	return []string{"kube-apiserver", "--advertise-address=127.0.0.1", "--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(s.port),
		"--endpoint-reconciler-type=none", "--allow-privileged=true", "--authorization-mode=Node,RBAC", "--client-ca-file=" + s.file("ca.crt"),
		"--enable-admission-plugins=NodeRestriction", "--etcd-servers=" + s.etcdURL,
		"--proxy-client-cert-file=" + s.file("proxy.crt"), "--proxy-client-key-file=" + s.file("proxy.key"),
		"--requestheader-client-ca-file=" + s.file("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + s.file("server.key"),
		"--service-account-signing-key-file=" + s.file("server.key"), "--service-cluster-ip-range=" + ServiceRange,
		"--tls-cert-file=" + s.file("server.crt"), "--tls-private-key-file=" + s.file("server.key")}
}

// WaitReady waits until the API server says that it is ready.
func (s *Server) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		_, err := s.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(2 * time.Second).DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case end := <-s.api.done:
			s.api.done <- end
			log, _ := os.ReadFile(s.api.log)
			return fmt.Errorf("kube-apiserver ended: %v\n%s", end, tail(log))
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver is not ready: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Run adds another program of the same binary, such as kube-controller-manager, with the administrator's credentials.
func (s *Server) Run(name string, flags ...string) error {
	p, err := s.run(name, append([]string{name, "--kubeconfig=" + s.Kubeconfig}, flags...)...)
	if err == nil {
		s.more = append(s.more, p)
	}
	return err
}

// PID is the process of a program that Run added.
func (s *Server) PID(name string) (int, error) {
	for _, p := range s.more {
		if p.cmd.Args[1] == name {
			return p.cmd.Process.Pid, nil
		}
	}
	return 0, fmt.Errorf("%s does not run", name)
}

// Halt ends a program that Run added, and waits for it; it may be run again.
func (s *Server) Halt(name string) error {
	for i, p := range s.more {
		if p.cmd.Args[1] == name {
			s.more = slices.Delete(s.more, i, i+1)
			return p.stop()
		}
	}
	return nil
}

// StopAPI ends the API server and waits for it.
func (s *Server) StopAPI() error {
	err := s.api.stop()
	s.api = nil
	return err
}

// Stop ends all programs, the last started first, and says which ended otherwise than by request.
func (s *Server) Stop() error {
	var errs []error
	for _, p := range s.more {
		errs = append(errs, p.stop())
	}
	for _, p := range []*process{s.api, s.etcd} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}

// Log is what a program wrote so far.
func (s *Server) Log(name string) (string, error) {
	content, err := os.ReadFile(s.file(name + ".log"))
	return string(content), err
}

// PIDs are the processes of etcd and the API server.
func (s *Server) PIDs() (etcd, api int) { return s.etcd.cmd.Process.Pid, s.api.cmd.Process.Pid }

func (s *Server) file(name string) string { return filepath.Join(s.cfg.Dir, name) }

func (s *Server) run(name string, args ...string) (*process, error) {
	p := &process{log: s.file(name + ".log"), done: make(chan error, 1)}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(s.cfg.Program, args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = append(os.Environ(), s.cfg.Env...)
	// A test that is killed takes its programs along.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-p.done:
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == -1 {
			return nil // by the signal itself
		}
		if err != nil {
			log, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s: %w\n%s", p.cmd.Args[1], err, tail(log))
		}
		return nil
	case <-time.After(70 * time.Second):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its stacks say why
		<-p.done
		log, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s does not end\n%s", p.cmd.Args[1], log[max(0, len(log)-200_000):])
	}
}

func tail(log []byte) []byte { return log[max(0, len(log)-2000):] }

// freePorts are ports of loopback that nobody listened on a moment ago.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// Etcd is the URL of the store.
func (s *Server) Etcd() string { return s.etcdURL }
