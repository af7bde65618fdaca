package conformance

import (
	"fmt"
	"sync"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// inMode makes sure that the nodes translate Services in the mode that is asked for, if one is. It returns what tells which Services nodes
// have refused since, and what for: what a mode cannot do it refuses by an Event (orlop-agent limits), so that a row that passes
// without one had all that it asks for.
func inMode(t *testing.T, want string) (refused func() []string) {
	t.Helper()
	for _, node := range cluster.Nodes {
		mode := must(cluster.Exec(node, cluster.Bin+"/testimage", "wget", "-q", "-O", "-", "http://127.0.0.1:10249/proxyMode"))(t)
		if want != "" && mode != want {
			t.Fatalf("%s translates Services in mode %s, want %s", node, mode, want)
		}
		fmt.Printf("conformance: %s translates Services in mode %s\n", node, mode)
	}
	// Rows remove their namespaces, and Events with them: so they are watched.
	watch, err := cluster.Client.EventsV1().Events("").Watch(t.Context(), metav1.ListOptions{FieldSelector: "reason=ServiceRefused"})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen, list := map[string]bool{}, []string(nil)
	go func() { // ends with the watch, when t's context does
		for e := range watch.ResultChan() {
			ev, ok := e.Object.(*eventsv1.Event)
			if !ok {
				continue
			}
			text := fmt.Sprintf("%s (Service %s/%s)", ev.Note, ev.Namespace, ev.Regarding.Name)
			mu.Lock()
			if !seen[text] { // each node refuses
				seen[text] = true
				list = append(list, text)
			}
			mu.Unlock()
		}
	}()
	return func() []string {
		watch.Stop()
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}
