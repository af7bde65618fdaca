// Package proxyfield is a node for its proxy alone: the built API server and agent in a network namespace of their own, any number of endpoints
// that say who they are, and a client outside. It has no kubelet and no containers, so that it is there in seconds and carries 50,000 Services.
//
// All of it, the caller included, is in namespaces and a cgroup that go with the process: Private starts the caller again in there. It imports
// none of Orlop's code.
package proxyfield

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/bareserver"
)

// Of the field: the node's name and address, and where endpoints are that are its own and another node's. All of them answer at Port,
// and by TCP at PortStays as often as they are asked over one connection.
const (
	Node      = "a"
	Address   = "192.0.2.1"
	here      = "10.128.0.0/10"
	elsewhere = "10.192.0.0/10"
	Port      = 8080
	PortStays = 8081
)

// runtimesNetns is where runtimes have pods' network namespaces.
const runtimesNetns = "/run/netns"

// variable is set to the cgroup's folder in the process that Private starts.
const variable = "ORLOP_FIELD"

// Private runs this program again, with args, in a network namespace, a mount namespace and a cgroup of its own, waits for it, and returns its exit code; in
// there it returns at once with again false. It needs root.
func Private(args ...string) (code int, again bool, err error) {
	if os.Getenv(variable) != "" {
		if err := divideCgroup(); err != nil {
			return 1, true, err
		}
		return 0, false, nil
	}
	dir, err := makeCgroup()
	if err != nil {
		return 1, true, err
	}
	defer func() { err = errors.Join(err, removeCgroup(dir)) }()
	f, err := os.Open(dir)
	if err != nil {
		return 1, true, err
	}
	defer f.Close()
	if os.Mkdir(runtimesNetns, 0o755) == nil { // else there is one, which is somebody's
		defer func() { err = errors.Join(err, os.Remove(runtimesNetns)) }()
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), variable+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, UseCgroupFD: true, CgroupFD: int(f.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 1, true, fmt.Errorf("start in namespaces of its own: %w", err)
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1), true, nil
	}
	return 0, true, err
}

func makeCgroup() (string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		if left, right, _ := strings.Cut(line, " - "); strings.HasPrefix(right, "cgroup2 ") {
			root := strings.Fields(left)[4]
			old, _ := filepath.Glob(filepath.Join(root, "orlop-field-*"))
			for _, dir := range old { // of runs that were killed; one that is in use stays
				_ = removeParts(dir)
			}
			dir := filepath.Join(root, fmt.Sprintf("orlop-field-%d", os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", fmt.Errorf("make cgroup: %w", err)
			}
			return dir, nil
		}
	}
	return "", errors.New("no cgroup2 tree is mounted")
}

// removeCgroup ends what is left in the cgroup and removes it.
func removeCgroup(dir string) error {
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // the folder cannot be removed where that failed
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := removeParts(dir)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

func removeParts(dir string) error {
	for _, part := range []string{nodePart, outsidePart} {
		if err := os.Remove(filepath.Join(dir, part)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}

// The parts of the cgroup: of the node, which the agent's programs are for, and of clients outside, whose sockets are another machine's.
const (
	nodePart    = "node"
	outsidePart = "outside"
)

func nodeCgroup() string    { return filepath.Join(os.Getenv(variable), nodePart) }
func outsideCgroup() string { return filepath.Join(os.Getenv(variable), outsidePart) }

// divideCgroup makes both parts, which share this process, and puts all its threads into the node's; those that they start follow.
func divideCgroup() error {
	for _, part := range []string{nodeCgroup(), outsideCgroup()} {
		if err := os.Mkdir(part, 0o755); err != nil {
			return fmt.Errorf("make part of the cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(part, "cgroup.type"), []byte("threaded"), 0); err != nil {
			return fmt.Errorf("have threads divided among parts of the cgroup: %w", err)
		}
	}
	for {
		left, err := os.ReadFile(filepath.Join(os.Getenv(variable), "cgroup.threads"))
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		if len(left) == 0 {
			return nil
		}
		for _, thread := range strings.Fields(string(left)) {
			if err := os.WriteFile(filepath.Join(nodeCgroup(), "cgroup.threads"), []byte(thread), 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move a thread to the node's part of the cgroup: %w", err)
			}
		}
	}
}

// moveThread moves the calling thread.
func moveThread(cgroup string) error {
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.threads"), []byte(fmt.Sprint(unix.Gettid())), 0); err != nil {
		return fmt.Errorf("move a thread to another part of the cgroup: %w", err)
	}
	return nil
}

// Config says what to build a field from.
type Config struct {
	Bin  string   // folder of the built programs
	Dir  string   // an empty folder
	Mode string   // --proxy-mode of the agent
	Args []string // more of the agent's arguments
	// Pods are those of the node's own endpoints that are addresses of a pod's link, so that packets can go straight into the pod.
	Pods []netip.Addr
	// Agent is the program of the agent; "" is Bin's.
	Agent string
}

// Field is the node and what is around it.
type Field struct {
	API     *bareserver.Server
	Client  *kubernetes.Clientset // protobuf, without a limit on requests
	Outside netns.NsHandle        // where the client outside is
	cfg     Config
	errands chan errand
	agent   *exec.Cmd
	log     *os.File
}

// New builds the field: links, endpoints that answer, API server and Node. There is no agent yet. The process must be Private's.
func New(ctx context.Context, cfg Config) (*Field, error) {
	f := &Field{cfg: cfg}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	far, err := f.links()
	if err != nil {
		return nil, fmt.Errorf("make links: %w", err)
	}
	if err := f.settle(); err != nil {
		return nil, fmt.Errorf("make clients outside: %w", err)
	}
	if err := within(far, func() error { return serve(ctx) }); err != nil {
		return nil, fmt.Errorf("serve as endpoints: %w", err)
	}
	for _, dir := range []string{"api", "bpf", "run", "data", "netns", "proc/kernel/random"} {
		if err := os.MkdirAll(f.path(dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(f.mountBPF(), f.newBoot(), f.showPods(far)); err != nil {
		return nil, err
	}
	if f.log, err = os.Create(f.path("agent.log")); err != nil {
		return nil, err
	}
	if f.API, err = bareserver.Start(ctx, bareserver.Config{Program: filepath.Join(cfg.Bin, "orlop-server"), Dir: f.path("api")}); err != nil {
		return nil, err
	}
	config := rest.CopyConfig(f.API.Config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	if f.Client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: Node}, Spec: corev1.NodeSpec{PodCIDR: here, PodCIDRs: []string{here}}}
	node, err = f.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err == nil {
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: Address}}
		_, err = f.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the node: %w", err), f.Close())
	}
	return f, nil
}

func (f *Field) path(name string) string { return filepath.Join(f.cfg.Dir, name) }

func (f *Field) mountBPF() error {
	if err := unix.Mount("bpf", f.path("bpf"), "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a BPF file system: %w", err)
	}
	return nil
}

// showPods has the agent find the namespace of the node's own endpoints where runtimes have pods'.
func (f *Field) showPods(ns netns.NsHandle) error {
	if err := os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns)), f.path("netns/pods")); err != nil {
		return err
	}
	if err := unix.Mount(f.path("netns"), runtimesNetns, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show pods' namespaces at %s: %w", runtimesNetns, err)
	}
	return nil
}

// newBoot gives the node another boot id.
func (f *Field) newBoot() error {
	id := fmt.Sprintf("00000000-0000-4000-8000-%012x\n", time.Now().UnixNano()&0xffffffffffff)
	return os.WriteFile(f.path("proc/kernel/random/boot_id"), []byte(id), 0o644)
}

// StartAgent starts a process of the agent. There must be none.
func (f *Field) StartAgent() error {
	cmd := exec.Command(cmp.Or(f.cfg.Agent, filepath.Join(f.cfg.Bin, "orlop-agent")), append([]string{
		"--kubeconfig=" + f.API.Kubeconfig, "--node-name=" + Node, "--cni=false", "--proxy-mode=" + f.cfg.Mode, "--cgroup-root=" + nodeCgroup(),
		"--cluster-cidr=10.128.0.0/9", "--pin-dir=" + f.path("bpf/orlop"), "--run-dir=" + f.path("run"), "--data-dir=" + f.path("data"),
		"--proc-sys=" + f.path("proc"), "--cni-state-dir=" + f.path("cni"), "--healthz-bind-address=127.0.0.1:10256",
	}, f.cfg.Args...)...)
	cmd.Stdout, cmd.Stderr = f.log, f.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	f.agent = cmd
	return nil
}

// Use makes program the agent's from its next start on, with more arguments in place of Config's; "" is Bin's.
func (f *Field) Use(program string, args ...string) { f.cfg.Agent, f.cfg.Args = program, args }

// PID is the agent's.
func (f *Field) PID() int { return f.agent.Process.Pid }

// EndAgent ends the agent by a signal and waits until it is gone.
func (f *Field) EndAgent(s syscall.Signal) error {
	if f.agent == nil {
		return nil
	}
	if err := f.agent.Process.Signal(s); err != nil {
		return fmt.Errorf("end the agent: %w", err)
	}
	err := f.agent.Wait()
	f.agent = nil
	if s == syscall.SIGKILL {
		return nil
	}
	return err
}

// Reboot is all that a host's reboot takes from the agent, which must not run: the kernel's state, /run, and the boot id.
func (f *Field) Reboot() error {
	var errs []error
	errs = append(errs, unix.Unmount(f.path("bpf"), unix.MNT_DETACH), os.RemoveAll(f.path("run")), os.MkdirAll(f.path("run"), 0o755))
	for _, command := range []string{"nft flush ruleset", "iptables-legacy -t nat -F", "iptables-legacy -t nat -X", "iptables-legacy -t filter -F", "iptables-legacy -t filter -X"} {
		if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w: %s", command, err, out))
		}
	}
	return errors.Join(append(errs, f.mountBPF(), f.newBoot())...)
}

// Forget takes from the agent, which must not run, what it keeps over a reboot.
func (f *Field) Forget() error { return os.RemoveAll(f.path("data")) }

// KillAPI ends the API server at once; API.StartAPI begins it again.
func (f *Field) KillAPI() error {
	_, pid := f.API.PIDs()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the API server: %w", err)
	}
	return f.API.StopAPI()
}

// Log is the end of what the agent's processes wrote.
func (f *Field) Log() string {
	b, _ := os.ReadFile(f.log.Name())
	return string(b[max(0, len(b)-6000):])
}

// Close ends all programs.
func (f *Field) Close() error {
	return errors.Join(f.EndAgent(syscall.SIGKILL), f.API.Stop(), unix.Unmount(f.path("bpf"), unix.MNT_DETACH))
}

// Endpoint is an address that answers, of number i of 2^22; it is this node's own, or another's.
func Endpoint(i int, own bool) netip.Addr {
	base := uint32(10)<<24 | 128<<16
	if !own {
		base |= 64 << 16
	}
	n := base | uint32(i)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
