package kubelet

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// abilities says in the words of the node's status what a runtime told of itself. No handler is told to have user
// namespaces, whatever it says: this kubelet gives no pod one.
func abilities(st *runtimeapi.StatusResponse) ([]v1.NodeRuntimeHandler, *v1.NodeFeatures) {
	var handlers []v1.NodeRuntimeHandler
	for _, h := range st.GetRuntimeHandlers() {
		handlers = append(handlers, v1.NodeRuntimeHandler{Name: h.GetName(), Features: &v1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: new(h.GetFeatures().GetRecursiveReadOnlyMounts()), UserNamespaces: new(false)}})
	}
	var features *v1.NodeFeatures
	if f := st.GetFeatures(); f != nil {
		features = &v1.NodeFeatures{SupplementalGroupsPolicy: new(f.GetSupplementalGroupsPolicy())}
	}
	return handlers, features
}

// unable says by name what the pod wants and cannot have here. Runtimes that do not know these wishes run the pod without
// them and say nothing.
func (w *worker) unable(ctx context.Context, pod *v1.Pod) error {
	if users := pod.Spec.HostUsers; users != nil && !*users {
		return errors.New("hostUsers: false: this kubelet does not support user namespaces")
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return errors.New("resourceClaims: this kubelet does not support dynamic resource allocation")
	}
	if !strictGroups(pod) {
		return nil
	}
	st, err := w.k.rt.Status(ctx)
	if err != nil {
		return err
	}
	if !st.GetFeatures().GetSupplementalGroupsPolicy() {
		return fmt.Errorf("supplementalGroupsPolicy: %s: the container runtime does not support it", v1.SupplementalGroupsPolicyStrict)
	}
	return nil
}

func strictGroups(pod *v1.Pod) bool {
	sc := pod.Spec.SecurityContext
	return sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict
}
