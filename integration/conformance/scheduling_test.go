package conformance

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func schedulingTests() map[string]test {
	pv := kind{resource: "v1/persistentvolumes", cluster: true, object: "kind: PersistentVolume\nspec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: conf-$X, hostPath: {path: /tmp/conf}}"}
	pvc := kind{resource: "v1/persistentvolumeclaims", object: "kind: PersistentVolumeClaim\nspec: {accessModes: [ReadWriteOnce], storageClassName: conf-$X, resources: {requests: {storage: 1Gi}}}"}
	both := func(status string) test {
		a, b := pv, pvc
		a.status, b.status = status, status
		if status != "" {
			a.status = `{"message":"E2E","reason":"E2E"}`
		}
		return quickly(func(t *testing.T, c *clustertest.Cluster) { a.run(t, c); b.run(t, c) })
	}
	const predicates = "[sig-scheduling] SchedulerPredicates validates "
	return map[string]test{
		predicates + "that NodeSelector is respected if matching":                                                           slowly(selected(true)),
		predicates + "that NodeSelector is respected if not matching":                                                       quickly(selected(false)),
		predicates + "resource limits of pods that are allowed to run":                                                      {quick: true, serial: true, run: fullNode},
		predicates + "that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP": quickly(portConflict),
		"[sig-storage] PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC":                both(""),
		"[sig-storage] PersistentVolumes CSI Conformance should apply changes to a pv/pvc status":                           both(condition),
		"[sig-storage] CSIInlineVolumes should support CSIVolumeSource in Pod API": quickly(kind{resource: "v1/pods",
			object: "kind: Pod\nspec: {nodeSelector: {no: node}, containers: [{name: c, image: nowhere.invalid/none, volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, csi: {driver: conf.example}}]}"}.run),
		"[sig-node] Pods should support remote command execution over websockets":           quickly(execSocket),
		"[sig-node] Pods should support retrieving logs from the container over websockets": quickly(logSocket),
	}
}

// waits says why the scheduler does not place the pod.
func waits(t *testing.T, c *clustertest.Cluster, ns, name string) {
	t.Helper()
	c.WaitPod(t, ns, name, "unschedulable", func(p *corev1.Pod) bool {
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == corev1.PodReasonUnschedulable {
				return p.Spec.NodeName == ""
			}
		}
		return false
	})
}

func selected(match bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		label := "conf.example/" + ns
		if match {
			set := func(v string) {
				_, err := c.Client.CoreV1().Nodes().Patch(context.Background(), c.Nodes[1], types.MergePatchType, []byte(`{"metadata":{"labels":{"`+label+`":`+v+`}}}`), metav1.PatchOptions{})
				ok(t, err)
			}
			set(`"42"`)
			defer set("null")
		}
		createPod(t, c, ns, c.Pod("one", nil, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{label: "42"} }))
		if !match {
			waits(t, c, ns, "one")
			return
		}
		if p := c.WaitPod(t, ns, "one", "running", clustertest.Ready); p.Spec.NodeName != c.Nodes[1] {
			t.Errorf("it runs on %s", p.Spec.NodeName)
		}
	}
}

// fullNode fills one node's cpu to the last and wants the next pod to wait.
func fullNode(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	node := must(c.Client.CoreV1().Nodes().Get(t.Context(), c.Nodes[1], metav1.GetOptions{}))(t)
	left := node.Status.Allocatable.Cpu().MilliValue()
	pods := must(c.Client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node.Name}))(t)
	for _, p := range pods.Items {
		for _, ct := range p.Spec.Containers {
			if !clustertest.Ended(&p) {
				left -= ct.Resources.Requests.Cpu().MilliValue()
			}
		}
	}
	wants := func(milli int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": node.Name}
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": quantity(fmt.Sprintf("%dm", milli))}
		}
	}
	c.RunPod(t, ns, c.Pod("filler", nil, wants(left)))
	createPod(t, c, ns, c.Pod("more", nil, wants(1)))
	waits(t, c, ns, "more")
}

func portConflict(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	port := func(hostIP string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": c.Nodes[1]}
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 54322, ContainerPort: 8080, HostIP: hostIP}}
		}
	}
	c.RunPod(t, ns, c.Pod("first", nil, port("0.0.0.0")))
	createPod(t, c, ns, c.Pod("second", nil, port("127.0.0.1")))
	waits(t, c, ns, "second")
}

// socket reads all that the API server sends over a WebSocket of protocol.
func socket(t *testing.T, c *clustertest.Cluster, path, protocol string, each func([]byte)) {
	t.Helper()
	config := must(rest.TLSConfigFor(c.Config))(t)
	dialer := websocket.Dialer{TLSClientConfig: config, Subprotocols: []string{protocol}, HandshakeTimeout: 10 * time.Second}
	conn, _, err := dialer.DialContext(t.Context(), "wss"+strings.TrimPrefix(c.Config.Host, "https")+path, nil)
	ok(t, err)
	defer conn.Close()
	ok(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	if conn.Subprotocol() != protocol {
		t.Errorf("the protocol is %q", conn.Subprotocol())
	}
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		each(message)
	}
}

func execSocket(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("one", nil))
	var out bytes.Buffer
	socket(t, c, "/api/v1/namespaces/"+ns+"/pods/one/exec?stdout=1&stderr=1&container=c&command=echo&command=remote&command=execution", "v4.channel.k8s.io", func(m []byte) {
		if len(m) > 0 && m[0] == 1 {
			out.Write(m[1:])
		}
	})
	if out.String() != "remote execution\n" {
		t.Errorf("stdout is %q", out.String())
	}
}

func logSocket(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("one", nil, sh("echo container is alive; sleep 1000")))
	time.Sleep(time.Second)
	var out bytes.Buffer
	socket(t, c, "/api/v1/namespaces/"+ns+"/pods/one/log?container=c", "binary.k8s.io", func(m []byte) { out.Write(m) })
	if out.String() != "container is alive\n" {
		t.Errorf("the log is %q", out.String())
	}
}
