package server

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	s.json(w, podList(s.cfg.Pods()))
}

func podList(pods []*v1.Pod) *v1.PodList {
	list := &v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: make([]v1.Pod, 0, len(pods))}
	for _, p := range pods {
		list.Items = append(list.Items, *p)
	}
	return list
}

// runningPods shows what the runtime runs, whatever the API server thinks.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	containers, err := s.cfg.Runtime.Containers(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.json(w, podList(running(containers)))
}

func running(containers []*runtimeapi.Container) []*v1.Pod {
	byUID := map[types.UID]*v1.Pod{}
	for _, c := range containers {
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		uid := types.UID(c.Labels[kubelettypes.KubernetesPodUIDLabel])
		p := byUID[uid]
		if p == nil {
			p = &v1.Pod{ObjectMeta: metav1.ObjectMeta{
				Name:      c.Labels[kubelettypes.KubernetesPodNameLabel],
				Namespace: c.Labels[kubelettypes.KubernetesPodNamespaceLabel],
				UID:       uid,
			}}
			byUID[uid] = p
		}
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{
			Name:  c.Labels[kubelettypes.KubernetesContainerNameLabel],
			Image: c.GetImage().GetImage(),
		})
	}
	out := make([]*v1.Pod, 0, len(byUID))
	for _, p := range byUID {
		slices.SortFunc(p.Spec.Containers, func(a, b v1.Container) int { return cmp.Compare(a.Name, b.Name) })
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *v1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// refused is an error with the HTTP code to answer.
type refused struct {
	code int
	text string
}

func (e *refused) Error() string { return e.text }

func refuse(code int, format string, args ...any) error {
	return &refused{code, fmt.Sprintf(format, args...)}
}

// pod finds the pod that the request's path names.
func (s *Server) pod(r *http.Request) (*v1.Pod, error) {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	for _, p := range s.cfg.Pods() {
		if p.Namespace == namespace && p.Name == name && (uid == "" || string(p.UID) == uid) {
			return p, nil
		}
	}
	return nil, refuse(http.StatusNotFound, "pod does not exist")
}

// containerStatus finds the status of a container by its name, among all kinds of containers.
func containerStatus(pod *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func hasContainer(pod *v1.Pod, name string) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// bareID is the runtime's own name of a container, without the runtime's name before it.
func bareID(id string) string {
	if _, bare, ok := strings.Cut(id, "://"); ok {
		return bare
	}
	return id
}

// runningContainer finds the ID of the running container that the request's path names.
func (s *Server) runningContainer(r *http.Request) (string, error) {
	pod, err := s.pod(r)
	if err != nil {
		return "", err
	}
	name := r.PathValue("container")
	status := containerStatus(pod, name)
	if status == nil || status.ContainerID == "" || status.State.Running == nil {
		return "", refuse(http.StatusNotFound, "container not found (%q)", name)
	}
	return bareID(status.ContainerID), nil
}
