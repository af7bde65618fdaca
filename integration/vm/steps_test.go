package vm

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// initialize makes the cluster as the installation page says.
func initialize(t *testing.T, w *world) {
	w.must(t, "for i in pause orlop-testimage; do ctr -n k8s.io images import /opt/orlop/images/$i.tar; done")
	t.Log(w.must(t, orlop+" init --untainted --timeout 20m --skip-token-print"))
	w.connect(t)
	w.allReady(t, 6) // four static pods, the agent, DNS
}

func limits(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// slice is the cgroup of a pod below /sys/fs/cgroup.
func slice(pod *corev1.Pod, class string) string {
	uid := strings.ReplaceAll(string(pod.UID), "-", "_")
	if class == "" {
		return "kubepods.slice/kubepods-pod" + uid + ".slice"
	}
	return fmt.Sprintf("kubepods.slice/kubepods-%[1]s.slice/kubepods-%[1]s-pod%[2]s.slice", class, uid)
}

// slices looks at the kernel's own files, and again after systemd was reloaded, which makes it write its idea of them.
func slices(t *testing.T, w *world) {
	pod := w.run(t, w.pod("bounded", []string{"pause"}, limits("500m", "100Mi")), "ready", ready)
	dir := slice(pod, "")
	show := "cd /sys/fs/cgroup/" + dir + "; for f in memory.max cpu.max cpu.weight; do echo $f $(cat $f); done; " +
		"[ $(cat ../memory.max) != max ] && echo node bounded; ls -d cri-containerd-*.scope | wc -l"
	want := "memory.max 104857600\ncpu.max 50000 100000\ncpu.weight 59\nnode bounded\n2"
	if got := w.must(t, show); got != want {
		t.Errorf("the pod's slice has\n%s\nwant\n%s", got, want)
	}
	if got := w.must(t, "systemctl daemon-reload; sleep 2; "+show); got != want {
		t.Errorf("after systemctl daemon-reload the pod's slice has\n%s\nwant\n%s", got, want)
	}
	name := dir[strings.LastIndexByte(dir, '/')+1:]
	if got := w.must(t, "systemctl show -P MemoryMax "+name); got != "104857600" {
		t.Errorf("systemd believes that the pod may use %s", got)
	}
	w.remove(t, pod.Name)
	if got := w.must(t, "ls -d /sys/fs/cgroup/"+dir+" 2>/dev/null; systemctl list-units --all --no-legend "+name); got != "" {
		t.Errorf("of a pod that was deleted there is still %s", got)
	}
}

// remove deletes a pod and waits until it has gone.
func (w *world) remove(t *testing.T, name string) {
	t.Helper()
	if err := w.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pod "+name+" gone", func(ctx context.Context) error {
		list, err := w.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("it is %s", list.Items[0].Status.Phase)
		}
		return err
	})
}

// boundsHold lets pods want more than they may have.
func boundsHold(t *testing.T, w *world) {
	w.must(t, "sed -i 's/^podPidsLimit:.*//' /var/lib/kubelet/config.yaml && echo 'podPidsLimit: 64' >> /var/lib/kubelet/config.yaml && systemctl restart kubelet")
	greedy := w.pod("greedy", []string{"consume", "--memory=200"}, limits("1", "50Mi"))
	greedy.Spec.RestartPolicy = corev1.RestartPolicyNever
	got := w.run(t, greedy, "killed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := got.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" {
		t.Errorf("a container that took more memory than it may ended so: %+v", s)
	}
	many := w.pod("many", []string{"consume", "--processes=200"}, nil)
	many.Spec.RestartPolicy = corev1.RestartPolicyNever
	w.run(t, many, "refused a process", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	busy := w.run(t, w.pod("busy", []string{"sh", "-c", "seq 1 100000000000 > /dev/null"}, limits("100m", "50Mi")), "ready", ready)
	dir := "/sys/fs/cgroup/" + slice(busy, "")
	eventually(t, "a container that wants a whole processor is held back", func(ctx context.Context) error {
		out, err := w.Run(ctx, "grep nr_throttled "+dir+"/cpu.stat")
		if err == nil && out == "nr_throttled 0" {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if out := w.must(t, "cat "+dir+"/pids.max"); out != "64" {
		t.Errorf("the pod may have %s processes, want 64", out)
	}
	w.remove(t, "busy")
	w.remove(t, "greedy")
	w.remove(t, "many")
}

// services: the backend's name is asked for by each way in.
func services(t *testing.T, w *world) {
	server := w.pod("server", []string{"netexec", "--http-port=8080"}, nil)
	server.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: hostPort}}
	server = w.run(t, server, "ready", ready)
	svc, err := w.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: server.Labels,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), NodePort: nodePort}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.run(t, w.pod("client", []string{"pause"}, nil), "ready", ready)
	w.answers(t, svc.Spec.ClusterIP)
	if mode := w.must(t, "exec 3<>/dev/tcp/127.0.0.1/10249; printf 'GET /proxyMode HTTP/1.0\\r\\n\\r\\n' >&3; tail -1 <&3"); mode != "ebpf" {
		t.Errorf("the agent runs in mode %q, want ebpf", mode)
	}
}

// answers waits until the server answers by each way in.
func (w *world) answers(t *testing.T, clusterIP string) {
	t.Helper()
	fromPod := "export KUBECONFIG=/etc/kubernetes/admin.conf; " + orlop + " kubectl exec client -- wget -q -O - -T 20 http://"
	fromNode := "exec 3<>/dev/tcp/%s/%d && printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 20 tail -1 <&3"
	for name, ask := range map[string]func(context.Context) (string, error){
		"ClusterIP from a pod":    func(ctx context.Context) (string, error) { return w.Run(ctx, fromPod+clusterIP+"/hostname") },
		"name from a pod":         func(ctx context.Context) (string, error) { return w.Run(ctx, fromPod+"server/hostname") },
		"ClusterIP from the node": func(ctx context.Context) (string, error) { return w.Run(ctx, fmt.Sprintf(fromNode, clusterIP, 80)) },
		"NodePort from the node": func(ctx context.Context) (string, error) {
			return w.Run(ctx, fmt.Sprintf(fromNode, "10.0.2.15", nodePort))
		},
		"NodePort from outside": func(ctx context.Context) (string, error) { return w.fetch(ctx, nodePort, "/hostname") },
		"hostPort from outside": func(ctx context.Context) (string, error) { return w.fetch(ctx, hostPort, "/hostname") },
	} {
		eventually(t, name, func(ctx context.Context) error {
			out, err := ask(ctx)
			if err == nil && !strings.HasSuffix(out, "server") {
				err = fmt.Errorf("it answers %q", out)
			}
			return err
		})
	}
}

// instances names every container of the machine by its id: another id is another instance.
func (w *world) instances(t *testing.T) string {
	t.Helper()
	return w.must(t, "ctr -n k8s.io tasks ls -q | sort")
}

func (w *world) kubeletPID(ctx context.Context) (string, error) {
	return w.Run(ctx, "systemctl show -P MainPID kubelet.service")
}

// crash kills the kubelet; systemd starts another, which finds all containers as they are.
func crash(t *testing.T, w *world) {
	w.allReady(t, 8)
	before := w.instances(t)
	pid, err := w.kubeletPID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.must(t, "kill -9 "+pid)
	eventually(t, "another kubelet", func(ctx context.Context) error {
		now, err := w.kubeletPID(ctx)
		if err == nil && (now == pid || now == "0") {
			err = fmt.Errorf("its process is %s", now)
		}
		return err
	})
	w.run(t, w.pod("later", []string{"pause"}, nil), "ready", ready)
	w.remove(t, "later")
	w.allReady(t, 8)
	if after := w.instances(t); after != before {
		t.Errorf("containers before the crash\n%s\nand after it\n%s", before, after)
	}
}

// clockJump moves the machine's clock on by an hour, and back.
func clockJump(t *testing.T, w *world) {
	before := w.instances(t)
	for i, jump := range []string{"+1 hour", "-1 hour"} {
		w.must(t, "date -s '"+jump+"' >/dev/null")
		name := fmt.Sprintf("after-jump-%d", i)
		w.run(t, w.pod(name, []string{"pause"}, nil), "ready", ready)
		w.remove(t, name)
		w.allReady(t, 8)
		if after := w.instances(t); after != before {
			t.Errorf("clock set %s: containers before\n%s\nand after\n%s", jump, before, after)
		}
	}
}

// reboot restarts the whole machine: all pods come back as new instances, and Services answer.
func reboot(t *testing.T, w *world) {
	before := w.instances(t)
	svc, err := w.client.CoreV1().Services("default").Get(t.Context(), "server", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "API server", func(ctx context.Context) error {
		_, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err
	})
	eventually(t, "all containers new", func(ctx context.Context) error {
		now, err := w.Run(ctx, "ctr -n k8s.io tasks ls -q | sort")
		if err != nil {
			return err
		}
		for id := range strings.SplitSeq(now, "\n") {
			if strings.Contains(before, id) {
				return fmt.Errorf("container %s is still there", id)
			}
		}
		return nil
	})
	w.allReady(t, 8)
	w.answers(t, svc.Spec.ClusterIP)
}

// reset undoes init.
func reset(t *testing.T, w *world) {
	t.Log(w.must(t, orlop+" reset --force"))
	left := w.must(t, "ls -d /etc/kubernetes/manifests/* /sys/fs/cgroup/kubepods.slice /etc/systemd/system/kubelet.service 2>/dev/null; ip -o link | grep orl; systemctl is-active kubelet.service; "+
		"systemctl list-units --all --no-legend 'kubepods*'; true")
	if left != "inactive" {
		t.Errorf("after a reset there is still\n%s", left)
	}
}

// up makes a local cluster inside the machine.
func up(t *testing.T, w *world) {
	t.Log(w.must(t, orlop+" up --name a --nodes 2 --wait 20m"))
	script := func(s string) string {
		return "k() { " + orlop + " kubectl --name a \"$@\"; }; in1() { " + orlop + " exec --name a a-1 -- \"$@\"; }; " + s
	}
	w.must(t, script("k run server --image=localhost/agnhost:"+w.version+` --overrides='{"spec":{"nodeName":"a-2","containers":[{"name":"server","image":"localhost/agnhost:`+w.version+
		`","args":["netexec","--http-port=8080"],"ports":[{"containerPort":8080,"hostPort":8081}]}]}}' && k wait --for=condition=Ready pod/server --timeout=10m`))
	w.must(t, script(`k create service nodeport server --tcp=80:8080 --node-port=30081 && k patch service server -p '{"spec":{"selector":{"app":null,"run":"server"}}}'`))
	ip := w.must(t, script("k get service server -o jsonpath={.spec.clusterIP}"))
	second := w.must(t, script("k get node a-2 -o jsonpath='{.status.addresses[0].address}'"))
	for name, url := range map[string]string{
		"ClusterIP from a node":         ip,
		"NodePort from another machine": second + ":30081",
		"hostPort from another machine": second + ":8081",
	} {
		eventually(t, name, func(ctx context.Context) error {
			out, err := w.Run(ctx, script("in1 bash -c 'exec 3<>/dev/tcp/"+tcp(url)+" && printf \"GET /hostname HTTP/1.0\\r\\n\\r\\n\" >&3 && timeout 20 tail -1 <&3'"))
			if err == nil && !strings.HasSuffix(out, "server") {
				err = fmt.Errorf("it answers %q", out)
			}
			return err
		})
	}
	if mode := w.must(t, script("in1 bash -c 'exec 3<>/dev/tcp/127.0.0.1/10249; printf \"GET /proxyMode HTTP/1.0\\r\\n\\r\\n\" >&3; tail -1 <&3'")); mode != "ebpf" {
		t.Errorf("the agent runs in mode %q, want ebpf", mode)
	}
	w.must(t, orlop+" down --name a")
}

// tcp is an address as bash has it below /dev/tcp.
func tcp(address string) string {
	host, port, ok := strings.Cut(address, ":")
	if !ok {
		port = "80"
	}
	return host + "/" + port
}
