package volumebinder

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

func scrubber() *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "vol", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/any"}}}}}}
}

// A released volume is emptied by a pod of the template, tried again after a pause where that fails, and free when it is done.
func TestRecycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := volume("v", "3Gi", of("c", "gone"), func(v *corev1.PersistentVolume) {
			v.UID, v.Annotations = "u", map[string]string{boundByController: "yes"}
			v.Spec.HostPath, v.Spec.PersistentVolumeReclaimPolicy = &corev1.HostPathVolumeSource{Path: "/data"}, corev1.PersistentVolumeReclaimRecycle
			v.Status.Phase = corev1.VolumeReleased
		})
		client, events := fake.NewClientset(v), record.NewFakeRecorder(20)
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := New(client, Recyclers{HostPath: Recycler{Pod: scrubber(), Minimum: 60 * time.Second, PerGiB: 30 * time.Second}}, shared, events, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		shared.Start(ctx.Done())
		go func() { ended <- c.Run(ctx) }()
		ends := func(phase corev1.PodPhase, message string) {
			t.Helper()
			pod, err := client.CoreV1().Pods("default").Get(ctx, "recycler-for-v", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if pod.Spec.Volumes[0].HostPath.Path != "/data" || *pod.Spec.ActiveDeadlineSeconds != 90 {
				t.Errorf("the pod empties %v within %d s", pod.Spec.Volumes[0].HostPath, *pod.Spec.ActiveDeadlineSeconds)
			}
			pod.Status.Phase, pod.Status.Message = phase, message
			if _, err := client.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		is := func(phase corev1.PersistentVolumePhase, message string) *corev1.PersistentVolume {
			t.Helper()
			got, err := client.CoreV1().PersistentVolumes().Get(ctx, "v", metav1.GetOptions{})
			if err != nil || got.Status.Phase != phase || got.Status.Message != message {
				t.Fatalf("the volume is %s, %q (%v), not %s", got.Status.Phase, got.Status.Message, err, phase)
			}
			return got
		}
		time.Sleep(time.Second)
		is(corev1.VolumeReleased, "")
		ends(corev1.PodFailed, "no")
		time.Sleep(5 * time.Second)
		is(corev1.VolumeFailed, "Recycle failed: no")
		time.Sleep(20 * time.Second)
		ends(corev1.PodSucceeded, "")
		time.Sleep(5 * time.Second)
		if got := is(corev1.VolumeAvailable, ""); got.Spec.ClaimRef != nil || len(got.Annotations) > 0 {
			t.Errorf("it is kept for %v, %v", got.Spec.ClaimRef, got.Annotations)
		}
		if list, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
			t.Errorf("%d pods are left (%v)", len(list.Items), err)
		}
		stop()
		<-ended
		shared.Shutdown()
		close(events.Events)
		var told []string
		for e := range events.Events {
			told = append(told, strings.Fields(e)[1])
		}
		if got := strings.Join(told, " "); got != "RecyclerPod VolumeFailedRecycle RecyclerPod VolumeRecycled" {
			t.Errorf("told %s", got)
		}
	})
}

func TestWhoCannotRecycle(t *testing.T) {
	block := volume("v", "1Gi")
	if _, err := (Recyclers{}).podFor(block); err == nil || err.Error() != "No recycler plugin found for the volume!" {
		t.Errorf("a volume of another kind: %v", err)
	}
	block.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/data"}
	if _, err := (Recyclers{}).podFor(block); err == nil || !strings.Contains(err.Error(), "--pv-recycler-pod-template-filepath-hostpath") {
		t.Errorf("without a template: %v", err)
	}
	for what, change := range map[string]func(*corev1.Pod){
		"no volume":      func(p *corev1.Pod) { p.Spec.Volumes = nil },
		"another volume": func(p *corev1.Pod) { p.Spec.Volumes[0].HostPath = nil },
		"it never ends":  func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyAlways },
	} {
		pod := scrubber()
		change(pod)
		if (Recyclers{HostPath: Recycler{Pod: pod}}).Validate() == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
