package conformance

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// said is a row about one pod that runs to its end: what its first container
// prints must hold every entry of want ("!x": must not hold x). $-names in want
// stand for facts of the pod and its node.
type said struct {
	make func(*testing.T, *clustertest.Cluster, string) // objects the pod needs
	pod  func(*corev1.Pod)
	want []string
	fail bool // the pod must fail
}

func (s said) run(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	if s.make != nil {
		s.make(t, c, ns)
	}
	createPod(t, c, ns, c.Pod("one", nil, func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, s.pod))
	ended := c.WaitPod(t, ns, "one", "ended", clustertest.Ended)
	if failed := ended.Status.Phase == corev1.PodFailed; failed != s.fail {
		t.Errorf("phase %s: %+v", ended.Status.Phase, ended.Status.ContainerStatuses)
	}
	node := must(c.Client.CoreV1().Nodes().Get(t.Context(), ended.Spec.NodeName, metav1.GetOptions{}))(t)
	alloc := node.Status.Allocatable
	facts := strings.NewReplacer("$UID", string(ended.UID), "$NS", ns, "$IP", ended.Status.PodIP, "$HOST", ended.Status.HostIP,
		"$CPU", fmt.Sprint(alloc.Cpu().Value()), "$MEMORY", fmt.Sprint(alloc.Memory().Value()))
	out := logs(t, c, ns, "one", ended.Spec.Containers[0].Name)
	for _, want := range s.want {
		want = facts.Replace(want)
		if bad, not := strings.CutPrefix(want, "!"); not {
			if strings.Contains(out, bad) {
				t.Errorf("it printed %q:\n%s", bad, out)
			}
		} else if !strings.Contains(out, want) {
			t.Errorf("it did not print %q but\n%s", want, out)
		}
	}
}

// env is a pod that prints its environment, which vars adds to.
func env(vars ...corev1.EnvVar) func(*corev1.Pod) {
	return sh("env", first(func(ct *corev1.Container) { ct.Env = vars }))
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func resourceField(name, of string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: of}}}
}

var quantity = resource.MustParse

func resources(p *corev1.Pod) {
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": quantity("250m"), "memory": quantity("32Mi")},
		Limits:   corev1.ResourceList{"cpu": quantity("1250m"), "memory": quantity("64Mi")},
	}
}

func anEnvSource(t *testing.T, c *clustertest.Cluster, ns string) {
	configMap(t, c, ns, "source", map[string]string{"data_1": "value-1", "data_2": "value-2"})
	secret(t, c, ns, "source", map[string]string{"data_1": "value-1", "data_2": "value-2"})
}

func anEmptyKey(kind string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		meta := metav1.ObjectMeta{Name: "empty-key"}
		var err error
		if kind == "ConfigMap" {
			_, err = c.Client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"": "v"}}, metav1.CreateOptions{})
		} else {
			_, err = c.Client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"": []byte("v")}}, metav1.CreateOptions{})
		}
		refused(t, err, "a valid config key")
	}
}

func envRows() map[string]said {
	rows := map[string]said{}
	local := corev1.LocalObjectReference{Name: "source"}
	for kind, prefix := range map[string]string{"ConfigMap": "[sig-node] ConfigMap should be consumable ", "Secret": "[sig-node] Secrets should be consumable "} {
		one := &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local, Key: "data_1"}}
		all := corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local}}
		oneName, prefixName := "via environment variable", "as environment variable names with various prefixes"
		if kind == "Secret" {
			one = &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local, Key: "data_1"}}
			all = corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local}}
			oneName, prefixName = "from pods in env vars", "as environment variable names variable names with various prefixes"
		}
		from := func(prefixes ...string) func(*corev1.Pod) {
			return sh("env", first(func(ct *corev1.Container) {
				for _, p := range prefixes {
					source := all
					source.Prefix = p
					ct.EnvFrom = append(ct.EnvFrom, source)
				}
			}))
		}
		rows[prefix+oneName] = said{make: anEnvSource, pod: env(corev1.EnvVar{Name: "ONE", ValueFrom: one}), want: []string{"ONE=value-1\n"}}
		rows[prefix+"via the environment"] = said{make: anEnvSource, pod: from("", "p_"),
			want: []string{"\ndata_1=value-1\n", "\ndata_2=value-2\n", "\np_data_1=value-1\n"}}
		rows[prefix+prefixName] = said{make: anEnvSource, pod: from("p-", "#", "1.", "!@$ "),
			want: []string{"\np-data_1=value-1\n", "\n#data_2=value-2\n", "\n1.data_1=value-1\n", "\n!@$ data_2=value-2\n"}}
	}
	return rows
}

func secured(script string, sc corev1.SecurityContext) func(*corev1.Pod) {
	return sh(script, first(func(ct *corev1.Container) { ct.SecurityContext = &sc }))
}

func container(command, args []string) func(*corev1.Pod) {
	return first(func(ct *corev1.Container) { ct.Command, ct.Args = command, args })
}

func containerRows() map[string]said {
	expand := []corev1.EnvVar{{Name: "FOO", Value: "foo-value"}, {Name: "BAR", Value: "bar-$(FOO)-$$(FOO)"}}
	envOf := first(func(ct *corev1.Container) { ct.Env = expand })
	both := func(a, b func(*corev1.Pod)) func(*corev1.Pod) { return func(p *corev1.Pod) { a(p); b(p) } }
	return map[string]said{
		"Containers should be able to override the image's default arguments (container cmd)":                   {pod: container(nil, []string{"entrypoint-tester", "override", "arguments"}), want: []string{"testimage entrypoint-tester override arguments]"}},
		"Containers should be able to override the image's default command (container entrypoint)":              {pod: container([]string{"/testimage", "entrypoint-tester"}, nil), want: []string{"[/testimage entrypoint-tester]"}},
		"Containers should be able to override the image's default command and arguments":                       {pod: container([]string{"/testimage", "entrypoint-tester"}, []string{"both"}), want: []string{"[/testimage entrypoint-tester both]"}},
		"Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars":         {pod: both(env(resourceField("CL", "limits.cpu"), resourceField("ML", "limits.memory"), resourceField("CR", "requests.cpu"), resourceField("MR", "requests.memory")), resources), want: []string{"CL=2\n", "ML=67108864\n", "CR=1\n", "MR=33554432\n"}},
		"Downward API should provide default limits.cpu/memory from node allocatable":                           {pod: env(resourceField("CL", "limits.cpu"), resourceField("ML", "limits.memory")), want: []string{"CL=$CPU\n", "ML=$MEMORY\n"}},
		"Downward API should provide host IP as an env var":                                                     {pod: env(field("H", "status.hostIP")), want: []string{"H=$HOST\n"}},
		"Downward API should provide hostIPs as an env var":                                                     {pod: env(field("H", "status.hostIPs")), want: []string{"H=$HOST"}},
		"Downward API should provide pod UID as env vars":                                                       {pod: env(field("U", "metadata.uid")), want: []string{"U=$UID\n"}},
		"Downward API should provide pod name, namespace and IP address as env vars":                            {pod: env(field("N", "metadata.name"), field("S", "metadata.namespace"), field("I", "status.podIP")), want: []string{"N=one\n", "S=$NS\n", "I=$IP\n"}},
		"Variable Expansion should allow composing env vars into new env vars":                                  {pod: env(expand...), want: []string{"BAR=bar-foo-value-$(FOO)\n"}},
		"Variable Expansion should allow substituting values in a container's args":                             {pod: both(container([]string{"sh", "-c"}, []string{"echo got $(FOO)"}), envOf), want: []string{"got foo-value\n"}},
		"Variable Expansion should allow substituting values in a container's command":                          {pod: both(envOf, sh("echo 'got $(BAR)'")), want: []string{"got bar-foo-value-$(FOO)\n"}},
		"Kubelet when scheduling a busybox command in a pod should print the output to logs":                    {pod: sh("echo Hello World; sleep 0.2"), want: []string{"Hello World\n"}},
		"Kubelet when scheduling a read only busybox container should not write to root filesystem [LinuxOnly]": {pod: secured("echo x > /file; cat /file || true", corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)}), want: []string{"ead-only file system"}},
		"Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts": {pod: sh("cat /etc/hosts", func(p *corev1.Pod) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "123.45.67.89", Hostnames: []string{"foo", "bar"}}}
		}), want: []string{"# Kubernetes-managed hosts file", "123.45.67.89\tfoo\tbar\n"}},
		"Security Context When creating a container with runAsUser should run the container with uid 65534 [LinuxOnly]":                                    {pod: secured("id -u", corev1.SecurityContext{RunAsUser: ptr[int64](65534)}), want: []string{"65534\n"}},
		"Security Context When creating a pod with privileged should run the container as unprivileged when false [LinuxOnly]":                             {pod: secured("mount; grep CapEff /proc/self/status; touch /proc/sys/kernel/x; echo 1 > /proc/sys/net/ipv4/ip_forward || echo denied", corev1.SecurityContext{Privileged: ptr(false)}), want: []string{"denied", "!CapEff:\t000001ffffffffff"}},
		"Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when readOnlyRootFilesystem=false": {pod: secured("echo written > /file && cat /file", corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(false)}), want: []string{"written\n"}},
		"Security Context should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup [LinuxOnly]":                         {pod: secured("id", corev1.SecurityContext{RunAsUser: ptr[int64](1001), RunAsGroup: ptr[int64](2002)}), want: []string{"uid=1001 gid=2002 "}},
		"Security Context should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup [LinuxOnly]": {pod: sh("id", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr[int64](1001), RunAsGroup: ptr[int64](2002)}
		}), want: []string{"uid=1001 gid=2002 "}},
		"Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false [LinuxOnly]": {pod: secured("id -u; grep NoNewPrivs /proc/self/status", corev1.SecurityContext{RunAsUser: ptr[int64](1000), AllowPrivilegeEscalation: ptr(false)}), want: []string{"1000\n", "NoNewPrivs:\t1"}},
		"Sysctls [LinuxOnly] should support sysctls [Environment:NotInUserNS]": {pod: sh("cat /proc/sys/kernel/shm_rmid_forced", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}}}
		}), want: []string{"1\n"}},
	}
}

// termination is a row about a container's last message.
func termination(script, want string, policy corev1.TerminationMessagePolicy, more ...func(*corev1.Container)) test {
	return quickly(func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		createPod(t, c, ns, c.Pod("one", nil, sh(script, first(func(ct *corev1.Container) {
			ct.TerminationMessagePolicy = policy
			for _, m := range more {
				m(ct)
			}
		})), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		p := c.WaitPod(t, ns, "one", "ended", clustertest.Ended)
		if got := p.Status.ContainerStatuses[0].State.Terminated.Message; strings.TrimSpace(got) != want {
			t.Errorf("message %q, want %q", got, want)
		}
	})
}

func containerTests() map[string]test {
	rows := map[string]test{}
	for name, row := range containerRows() {
		rows["[sig-node] "+name] = quickly(row.run)
	}
	for name, row := range envRows() {
		rows[name] = quickly(row.run)
	}
	rows["[sig-network] DNS should support configurable pod DNS nameservers"] = quickly(said{pod: sh("cat /etc/resolv.conf", func(p *corev1.Pod) {
		p.Spec.DNSPolicy = corev1.DNSNone
		p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"resolv.conf.local"}}
	}), want: []string{"nameserver 1.1.1.1\n", "search resolv.conf.local\n", "!10.96.0.10"}}.run)
	rows["[sig-node] ConfigMap should fail to create ConfigMap with empty key"] = quickly(anEmptyKey("ConfigMap"))
	rows["[sig-node] Secrets should fail to create secret due to empty secret key"] = quickly(anEmptyKey("Secret"))
	rows["[sig-node] Containers should use the image defaults if command and args are blank"] = quickly(imageDefaults)
	const black = "[sig-node] Container Runtime blackbox test on terminated container should report termination message "
	fallback := corev1.TerminationMessageFallbackToLogsOnError
	rows[black+"as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set"] = termination("echo DONE", "", fallback)
	rows[black+"from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set"] = termination("echo -n OK > /dev/termination-log; echo DONE", "OK", fallback)
	rows[black+"from log output if TerminationMessagePolicy FallbackToLogsOnError is set"] = termination("echo -n DONE; exit 1", "DONE", fallback)
	rows[black+"if TerminationMessagePath is set as non-root user and at a non-default path"] = termination("echo -n DONE > /dev/termination-custom-log", "DONE", "File",
		func(ct *corev1.Container) {
			ct.TerminationMessagePath, ct.SecurityContext = "/dev/termination-custom-log", &corev1.SecurityContext{RunAsUser: ptr[int64](1000)}
		})
	return rows
}

func imageDefaults(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("one", nil))
	if out := must(c.InPod(ns, "one", "cat", "/proc/1/cmdline"))(t); out != "/testimage\x00pause\x00" {
		t.Errorf("process 1 is %q, want the image's own", out)
	}
}
