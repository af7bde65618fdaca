package printers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

func now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now().Add(-d)) }

// row renders one object's cells, wide ones included.
func row(t *testing.T, gr schema.GroupResource, obj runtime.Object) string {
	t.Helper()
	p, ok := printerFor(gr)
	if !ok {
		t.Fatalf("no printer for %v", gr)
	}
	table, err := convertor{resource: gr, printer: p, now: now}.ConvertToTable(t.Context(), obj, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
		t.Errorf("%v: %d cells for %d columns", gr, len(table.Rows[0].Cells), len(table.ColumnDefinitions))
	}
	var out []string
	for _, c := range table.Rows[0].Cells {
		out = append(out, fmt.Sprint(c))
	}
	return strings.Join(out, "|")
}

func waiting(reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func terminated(code, signal int32, reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Signal: signal, Reason: reason}}}
}

func running() corev1.ContainerStatus {
	return corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func TestPodStatus(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	yes := true
	for _, tt := range []struct {
		name   string
		mutate func(*corev1.Pod)
		want   string // Ready Status Restarts
	}{
		{"pending", func(p *corev1.Pod) {}, "0/2|Pending|0"},
		{"gated", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Reason: "SchedulingGated"}}
		}, "0/2|SchedulingGated|0"},
		{"evicted", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, "0/2|Evicted|0"},
		{"running", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses = []corev1.ContainerStatus{running(), running()}
		}, "2/2|Running|0"},
		{"crash loop", func(p *corev1.Pod) {
			c := waiting("CrashLoopBackOff")
			c.RestartCount = 3
			c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: ago(5 * time.Minute)}
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses = []corev1.ContainerStatus{c, running()}
		}, "1/2|CrashLoopBackOff|3 (5m ago)"},
		{"first trouble shows", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{waiting("ErrImagePull"), terminated(1, 0, "Error")}
		}, "0/2|ErrImagePull|0"},
		{"exit code", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{terminated(7, 0, "")} }, "0/2|ExitCode:7|0"},
		{"signal", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{terminated(0, 9, "")} }, "0/2|Signal:9|0"},
		{"completed", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodSucceeded
			p.Status.ContainerStatuses = []corev1.ContainerStatus{terminated(0, 0, "Completed"), terminated(0, 0, "Completed")}
		}, "0/2|Completed|0"},
		{"one completed, one runs", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{terminated(0, 0, "Completed"), running()}
		}, "1/2|NotReady|0"},
		{"one completed, pod ready", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{terminated(0, 0, "Completed"), running()}
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}, "1/2|Running|0"},
		{"initializing", func(p *corev1.Pod) {
			p.Spec.InitContainers = make([]corev1.Container, 2)
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{terminated(0, 0, "Completed"), waiting("PodInitializing")}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{waiting("PodInitializing")}
		}, "0/2|Init:1/2|0"},
		{"init crash loop", func(p *corev1.Pod) {
			p.Spec.InitContainers = make([]corev1.Container, 1)
			c := waiting("CrashLoopBackOff")
			c.RestartCount = 2
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{c}
		}, "0/2|Init:CrashLoopBackOff|2"},
		{"init error", func(p *corev1.Pod) {
			p.Spec.InitContainers = make([]corev1.Container, 1)
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{terminated(1, 0, "Error")}
		}, "0/2|Init:Error|0"},
		{"sidecar counts as ready", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always}}
			side := running()
			side.Name, side.Started, side.RestartCount = "s", &yes, 1
			p.Status.Phase = corev1.PodRunning
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{side}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{running(), running()}
		}, "3/3|Running|1"},
		{"terminating", func(p *corev1.Pod) {
			when := ago(0)
			p.DeletionTimestamp, p.Status.Phase = &when, corev1.PodRunning
		}, "0/2|Terminating|0"},
		{"terminating after the end", func(p *corev1.Pod) {
			when := ago(0)
			p.DeletionTimestamp, p.Status.Phase = &when, corev1.PodFailed
		}, "0/2|Failed|0"},
		{"node lost", func(p *corev1.Pod) {
			when := ago(0)
			p.DeletionTimestamp, p.Status.Phase, p.Status.Reason = &when, corev1.PodRunning, "NodeLost"
		}, "0/2|Unknown|0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: make([]corev1.Container, 2)}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
			pod.Name, pod.CreationTimestamp = "p", ago(time.Hour)
			tt.mutate(pod)
			got := row(t, schema.GroupResource{Resource: "pods"}, pod)
			if want := "p|" + tt.want + "|60m|<none>|<none>|<none>|<none>"; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestRows(t *testing.T) {
	three := int32(3)
	meta := metav1.ObjectMeta{Name: "n", CreationTimestamp: ago(48 * time.Hour)}
	for _, tt := range []struct {
		gr   schema.GroupResource
		obj  runtime.Object
		want string
	}{
		{schema.GroupResource{Resource: "nodes"}, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
			Spec:       corev1.NodeSpec{Unschedulable: true},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}, NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1"}},
		}, "n|Ready,SchedulingDisabled|control-plane,worker|<unknown>|v1|10.0.0.1|<none>|<unknown>|<unknown>|<unknown>"},
		{schema.GroupResource{Resource: "services"}, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.9"}, Selector: map[string]string{"a": "b"},
			Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080, Protocol: "TCP"}, {Port: 53, Protocol: "UDP"}}}},
			"n|LoadBalancer|10.96.0.9|<pending>|80:30080/TCP,53/UDP|2d|a=b"},
		{schema.GroupResource{Resource: "endpoints"}, &corev1.Endpoints{ObjectMeta: meta, Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "1.1.1.1"}, {IP: "::1"}, {IP: "3.3.3.3"}, {IP: "4.4.4.4"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}},
			"n|1.1.1.1:80,[::1]:80,3.3.3.3:80 + 1 more...|2d"},
		{schema.GroupResource{Group: "apps", Resource: "deployments"}, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &three,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}, {Name: "d", Image: "j"}}}}},
			Status: appsv1.DeploymentStatus{ReadyReplicas: 1, UpdatedReplicas: 2, AvailableReplicas: 1}}, "n|1/3|2|1|2d|c,d|i,j|a=b"},
		{schema.GroupResource{Resource: "events"}, &corev1.Event{ObjectMeta: meta, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p"},
			Type: "Normal", Reason: "Scheduled", Message: "m\n", EventTime: metav1.MicroTime(ago(time.Minute)), ReportingController: "s"},
			"60s|Normal|Scheduled|pod/p||s|m|60s|1|n"},
	} {
		t.Run(tt.gr.String(), func(t *testing.T) {
			if diff := cmp.Diff(tt.want, row(t, tt.gr, tt.obj)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestListMetadataAndForeignObjects(t *testing.T) {
	left := int64(7)
	list := &corev1.NamespaceList{ListMeta: metav1.ListMeta{ResourceVersion: "5", Continue: "c", RemainingItemCount: &left}, Items: make([]corev1.Namespace, 2)}
	convert := For(schema.GroupResource{Resource: "namespaces"})
	table, err := convert.ConvertToTable(t.Context(), list, &metav1.TableOptions{NoHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	if table.ResourceVersion != "5" || table.Continue != "c" || *table.RemainingItemCount != 7 || len(table.Rows) != 2 || table.ColumnDefinitions != nil {
		t.Errorf("table = %+v", table)
	}
	if _, ok := table.Rows[0].Object.Object.(*corev1.Namespace); !ok {
		t.Errorf("row object is a %T", table.Rows[0].Object.Object)
	}
	if _, err := convert.ConvertToTable(t.Context(), &corev1.Pod{}, nil); err == nil {
		t.Error("a Pod was accepted as a Namespace")
	}
}

// groups are the API groups that have printers.
func groups() []string {
	return []string{"", "events.k8s.io", "apps", "batch", "autoscaling", "policy", "discovery.k8s.io", "networking.k8s.io",
		"rbac.authorization.k8s.io", "certificates.k8s.io", "coordination.k8s.io", "scheduling.k8s.io", "node.k8s.io", "storage.k8s.io",
		"admissionregistration.k8s.io", "flowcontrol.apiserver.k8s.io", "resource.k8s.io", "storagemigration.k8s.io"}
}

// TestEveryPrinterHasNamesAndFunctions catches a group or resource left half done.
func TestEveryPrinterHasNamesAndFunctions(t *testing.T) {
	for _, group := range groups() {
		resources := byGroup(group)
		if len(resources) == 0 {
			t.Errorf("group %q has no resources", group)
		}
		for name, make := range resources {
			p := make()
			if len(p.columns) < 2 || p.cells == nil {
				t.Errorf("%s/%s: incomplete printer", group, name)
			}
			if !printsEmptyObject(t, p) {
				t.Errorf("%s/%s: no kind fits the printer", group, name)
			}
		}
	}
}

// printsEmptyObject finds the kind that p prints and has it print an object with nothing set.
func printsEmptyObject(t *testing.T, p printer) bool {
	t.Helper()
	for gvk := range scheme.Scheme.AllKnownTypes() {
		obj, err := scheme.Scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		if cells := p.cells(obj, now()); cells != nil {
			if len(cells) != len(p.columns) {
				t.Errorf("%v: %d cells for %d columns", gvk, len(cells), len(p.columns))
			}
			return true
		}
	}
	return false
}
