package api

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/bareserver"
)

// Plugins that would hide the others' effects have a server of their own each, on the same data.
var lonePlugins = []string{"NamespaceAutoProvision", "AlwaysDeny"}

// Every admission plugin that is off by default can be switched on, and then does what it is for.
func TestPluginsThatAreOffByDefault(t *testing.T) {
	t.Parallel() // it has servers of its own
	off := pluginsOff(t)
	together := slices.DeleteFunc(slices.Clone(off), func(name string) bool { return slices.Contains(lonePlugins, name) })
	// NamespaceLifecycle refuses for the same reason as NamespaceExists, and before it.
	flags := []string{"--enable-admission-plugins=" + strings.Join(together, ","), "--disable-admission-plugins=NamespaceLifecycle"}
	s, err := bareserver.Start(t.Context(), bareserver.Config{Program: filepath.Join(bin, "orlop-server"), Dir: t.TempDir(), Flags: flags})
	ok(t, err)
	t.Cleanup(func() { ok(t, s.Stop()) })
	seen := map[string]bool{}
	for name, effect := range pluginEffects() {
		seen[name] = true
		if slices.Contains(together, name) {
			if err := effect(t.Context(), s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, name := range off {
		if !seen[name] {
			t.Errorf("%s is off by default, and nothing here tests it", name)
		}
	}
	_, pid := s.PIDs()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	ok(t, err)
	command := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	command = slices.DeleteFunc(command, func(arg string) bool { return slices.Contains(flags, arg) })
	ok(t, s.StopAPI())
	for _, name := range lonePlugins {
		again(t, s, append(command, "--enable-admission-plugins="+name), func() {
			if err := pluginEffects()[name](t.Context(), s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	command = append(command, "--enable-admission-plugins=NoSuchPlugin")
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "orlop-server"), command[1:]...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), `enable-admission-plugins plugin "NoSuchPlugin" is unknown`) {
		t.Errorf("an unknown plugin: %v\n%s", err, out)
	}
}

// pluginsOff reads from the program's help which plugins it knows and has not on by default.
func pluginsOff(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "orlop-server"), "kube-apiserver", "--help").CombinedOutput()
	ok(t, err)
	m := regexp.MustCompile(`--enable-admission-plugins .*enabled ones \(([^)]*)\)\. Comma-delimited list of admission plugins: ([^.]*)\.`).FindSubmatch(out)
	if m == nil {
		t.Fatal("help names no admission plugins")
	}
	on, all := strings.Split(string(m[1]), ", "), strings.Split(string(m[2]), ", ")
	return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(on, name) })
}

// again runs another API server in the place of the one that was stopped, until do has returned.
func again(t *testing.T, s *bareserver.Server, command []string, do func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "orlop-server"), command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	ok(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	host := strings.TrimPrefix(s.Config.Host, "https://")
	eventually(t, time.Minute, "an API server at "+host, func() error {
		c, err := net.Dial("tcp", host)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	eventually(t, time.Minute, "caches of "+host, func() error {
		for _, hook := range []string{"start-apiserver-admission-initializer", "generic-apiserver-start-informers"} {
			if _, err := s.Client.Discovery().RESTClient().Get().AbsPath("/readyz/poststarthook/" + hook).DoRaw(t.Context()); err != nil {
				return err
			}
		}
		return nil
	})
	do()
}

// refused wants an error that says why.
func refused(err error, why string) error {
	if err == nil || !strings.Contains(err.Error(), why) {
		return fmt.Errorf("got error %v, want one with %q", err, why)
	}
	return nil
}

func plainPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "c", Image: "i:1"}}}}
}

// tried is the pod as the server would store it.
func tried(ctx context.Context, s *bareserver.Server, ns string, change func(*corev1.Pod)) (*corev1.Pod, error) {
	accounts := s.Client.CoreV1().ServiceAccounts(ns)
	_, _ = accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}) // there is no controller
	pod := plainPod()
	change(pod)
	return s.Client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

func as(s *bareserver.Server, user string, groups ...string) (*kubernetes.Clientset, error) {
	config := rest.CopyConfig(s.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return kubernetes.NewForConfig(config)
}

// pluginEffects are, of each plugin, one thing that happens only where it is on.
func pluginEffects() map[string]func(context.Context, *bareserver.Server) error {
	none := metav1.CreateOptions{}
	configMap := func(owners ...metav1.OwnerReference) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "m-", OwnerReferences: owners}}
	}
	return map[string]func(context.Context, *bareserver.Server) error{
		"AlwaysAdmit": func(ctx context.Context, s *bareserver.Server) error { // does nothing, but is asked
			if _, err := s.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap(), none); err != nil {
				return err
			}
			metrics, err := s.Client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
			if err == nil && !strings.Contains(string(metrics), `apiserver_admission_controller_admission_duration_seconds_count{name="AlwaysAdmit"`) {
				err = fmt.Errorf("no metric says that it was asked")
			}
			return err
		},
		"AlwaysDeny": func(ctx context.Context, s *bareserver.Server) error {
			_, err := s.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap(), none)
			return refused(err, "admission control is denying all modifications")
		},
		"AlwaysPullImages": func(ctx context.Context, s *bareserver.Server) error {
			pod, err := tried(ctx, s, "default", func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever })
			if err == nil && pod.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways {
				err = fmt.Errorf("the pull policy is %s", pod.Spec.Containers[0].ImagePullPolicy)
			}
			return err
		},
		"DenyServiceExternalIPs": func(ctx context.Context, s *bareserver.Server) error {
			_, err := s.Client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"},
				Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}, ExternalIPs: []string{"192.0.2.1"}}}, none)
			return refused(err, "Use of external IPs is denied by admission control")
		},
		"ExtendedResourceToleration": func(ctx context.Context, s *bareserver.Server) error {
			pod, err := tried(ctx, s, "default", func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/device": quantity.MustParse("1")}
			})
			if err == nil && !slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == "example.com/device" }) {
				err = fmt.Errorf("tolerations are %v", pod.Spec.Tolerations)
			}
			return err
		},
		"LimitPodHardAntiAffinityTopology": func(ctx context.Context, s *bareserver.Server) error {
			_, err := tried(ctx, s, "default", func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
					{TopologyKey: corev1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{}}}}}
			})
			return refused(err, "only key kubernetes.io/hostname is allowed")
		},
		"NamespaceAutoProvision": func(ctx context.Context, s *bareserver.Server) error {
			if _, err := s.Client.CoreV1().ConfigMaps("provided").Create(ctx, configMap(), none); err != nil {
				return err
			}
			_, err := s.Client.CoreV1().Namespaces().Get(ctx, "provided", metav1.GetOptions{})
			return err
		},
		"NamespaceExists": func(ctx context.Context, s *bareserver.Server) error {
			_, err := s.Client.CoreV1().ConfigMaps("nowhere").Create(ctx, configMap(), none)
			return refused(err, `namespaces "nowhere" not found`)
		},
		"NodeRestriction": func(ctx context.Context, s *bareserver.Server) error {
			node, err := as(s, "system:node:a", "system:nodes", "system:authenticated")
			if err != nil {
				return err
			}
			_, err = node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, none)
			return refused(err, `node "a" is not allowed to modify node "b"`)
		},
		"OwnerReferencesPermissionEnforcement": func(ctx context.Context, s *bareserver.Server) error {
			rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create"}}}
			meta := metav1.ObjectMeta{Name: "writer", Namespace: "default"}
			if _, err := s.Client.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, none); err != nil {
				return err
			}
			if _, err := s.Client.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "writer", APIGroup: rbacv1.GroupName},
				Subjects: []rbacv1.Subject{{Kind: "User", Name: "writer", APIGroup: rbacv1.GroupName}}}, none); err != nil {
				return err
			}
			writer, err := as(s, "writer", "system:authenticated")
			if err != nil {
				return err
			}
			owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Secret", Name: "s", UID: types.UID("u"), BlockOwnerDeletion: new(true)}
			const why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // until the role is known
				_, err = writer.CoreV1().ConfigMaps("default").Create(ctx, configMap(owner), none)
				if err = refused(err, why); err == nil || time.Now().After(deadline) {
					return err
				}
			}
		},
		"PodNodeSelector": func(ctx context.Context, s *bareserver.Server) error {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "selected", Annotations: map[string]string{"scheduler.alpha.kubernetes.io/node-selector": "disk=fast"}}}
			if _, err := s.Client.CoreV1().Namespaces().Create(ctx, ns, none); err != nil {
				return err
			}
			pod, err := tried(ctx, s, "selected", func(*corev1.Pod) {})
			if err == nil && pod.Spec.NodeSelector["disk"] != "fast" {
				err = fmt.Errorf("the node selector is %v", pod.Spec.NodeSelector)
			}
			return err
		},
	}
}
