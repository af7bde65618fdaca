package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/integration/bareserver"
)

// boundNodes are the nodes that bindings name.
const boundNodes = 100

// writesBench measures each write of a pod's way alone.
type writesBench struct {
	server *bareserver.Server
	client *kubernetes.Clientset
	choice choice
}

// write is one request of a pod's way.
type write struct {
	name string
	do   func(ctx context.Context, i int) error
}

// runWrites prints what each kind of write costs the API server and etcd, in processor time.
func runWrites(ctx context.Context, bin string, choice choice, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "figures-writes-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &writesBench{choice: choice}
	if b.server, err = bareserver.Start(ctx, bareserver.Config{Program: filepath.Join(bin, "orlop-server"), Dir: dir, Fsync: true}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Stop()) }()
	config := rest.CopyConfig(b.server.Config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := b.client.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	for i := range boundNodes { // admission looks a binding's node up
		if _, err := b.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	fmt.Fprint(out, "\n| write | CPU µs of kube-apiserver | of etcd |\n|---|---|---|\n")
	for _, w := range b.writes() {
		if !choice.rows.MatchString(w.name) {
			continue
		}
		api, store, err := b.cost(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		fmt.Fprintf(out, "| %s | %.0f | %.0f |\n", w.name, api, store)
	}
	return nil
}

func (b *writesBench) writes() []write {
	pods, leases := b.client.CoreV1().Pods("default"), b.client.CoordinationV1().Leases("default")
	return []write{
		{"get of a namespace, for comparison", func(ctx context.Context, _ int) error {
			_, err := b.client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
			return err
		}},
		{"create of a pod", func(ctx context.Context, i int) error {
			_, err := pods.Create(ctx, benchPod(i), metav1.CreateOptions{})
			return err
		}},
		{"binding", func(ctx context.Context, i int) error {
			return pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: podName(i)}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeName(i % boundNodes)}}, metav1.CreateOptions{})
		}},
		{"event", func(ctx context.Context, i int) error {
			_, err := b.client.CoreV1().Events("default").Create(ctx, scheduledEvent(i), metav1.CreateOptions{})
			return err
		}},
		{"get and update of a status", func(ctx context.Context, i int) error {
			pod, err := pods.Get(ctx, podName(i), metav1.GetOptions{})
			if err != nil {
				return err
			}
			setRunning(pod)
			_, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
			return err
		}},
		{"patch of a status, as kubelets do", func(ctx context.Context, i int) error {
			patch := fmt.Sprintf(`{"status":{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],"conditions":[{"type":"Ready","status":"True","lastTransitionTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339))
			_, err := pods.Patch(ctx, podName(i), types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
			return err
		}},
		{"create of a lease", func(ctx context.Context, i int) error {
			_, err := leases.Create(ctx, benchLease(i), metav1.CreateOptions{})
			return err
		}},
		{"get and update of a lease", func(ctx context.Context, i int) error {
			lease, err := leases.Get(ctx, nodeName(i), metav1.GetOptions{})
			if err != nil {
				return err
			}
			lease.Spec.RenewTime = ptr.To(metav1.NowMicro())
			_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
			return err
		}},
		{"delete of a pod", func(ctx context.Context, i int) error {
			return pods.Delete(ctx, podName(i), metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		}},
	}
}

func scheduledEvent(i int) *corev1.Event {
	now := metav1.Now()
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: podName(i) + ".scheduled", Namespace: "default"}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "default", Name: podName(i)}, Type: corev1.EventTypeNormal, Reason: "Scheduled",
		Message: "Successfully assigned default/" + podName(i) + " to " + nodeName(i), Source: corev1.EventSource{Component: "default-scheduler"}}
}

func benchLease(i int) *coordinationv1.Lease {
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
	l.Spec = coordinationv1.LeaseSpec{HolderIdentity: ptr.To(nodeName(i)), LeaseDurationSeconds: ptr.To[int32](40), RenewTime: ptr.To(metav1.NowMicro())}
	return l
}

// cost is the processor time, in microseconds, that one of many such writes takes of the API server and of etcd.
func (b *writesBench) cost(ctx context.Context, w write) (api, store float64, err error) {
	stop := func() error { return nil }
	if b.choice.profiles != "" {
		stop = profile(ctx, b.server, filepath.Join(b.choice.profiles, fileName(w.name)))
	}
	etcdPID, apiPID := b.server.PIDs()
	times := func() (t [2]time.Duration) {
		for i, pid := range []int{apiPID, etcdPID} {
			used, failure := processorTime(pid)
			t[i], err = used, errors.Join(err, failure)
		}
		return t
	}
	before := times()
	failure := each(ctx, pods, w.do)
	after := times()
	per := func(i int) float64 { return float64((after[i] - before[i]).Microseconds()) / pods }
	return per(0), per(1), errors.Join(err, failure, stop())
}

// profile keeps profiles of the API server's next seconds, of its processor time and of what it allocates, in files; stop
// waits for them.
func profile(ctx context.Context, server *bareserver.Server, path string) (stop func() error) {
	const seconds = 5
	g, ctx := errgroup.WithContext(ctx)
	for _, kind := range []string{"profile", "allocs"} {
		g.Go(func() error {
			transport, err := rest.TransportFor(server.Config)
			if err != nil {
				return err
			}
			url := fmt.Sprintf("%s/debug/pprof/%s?seconds=%d", server.Config.Host, kind, seconds)
			return fetch(ctx, &http.Client{Transport: transport}, url, path+"."+kind)
		})
	}
	return g.Wait
}

// fetch puts what url answers into a file.
func fetch(ctx context.Context, client *http.Client, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, answer.Status)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, answer.Body)
	return errors.Join(err, file.Close())
}

// fileName makes a row's name that of a file.
func fileName(name string) string {
	out := []rune(name)
	for i, r := range out {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			out[i] = '-'
		}
	}
	return string(out)
}
