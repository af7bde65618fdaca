package replicaset

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func pods(n int) (out []*corev1.Pod) {
	for i := range n {
		out = append(out, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}})
	}
	return out
}

func TestDecide(t *testing.T) {
	for _, tc := range []struct{ wanted, active, create, del int }{
		{3, 1, 2, 0}, {1, 3, 0, 2}, {2, 2, 0, 0}, {2000, 0, burst, 0}, {0, 2000, 0, burst},
	} {
		p := Decide(tc.wanted, pods(tc.active), nil, time.Now())
		if p.Create != tc.create || len(p.Delete) != tc.del {
			t.Errorf("%+v: create %d, delete %d", tc, p.Create, len(p.Delete))
		}
	}
}

// The condition tells of the first failure, in the API server's words, until there is none.
func TestFailureIsToldOnce(t *testing.T) {
	refused := func(name string) error {
		return errors.Join(fmt.Errorf("create pod: %w", apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, name, errors.New("exceeded quota"))))
	}
	set := &Set{Meta: &metav1.ObjectMeta{}, Replicas: 3, Template: &corev1.PodTemplateSpec{}}
	first, _ := Observe(set, pods(2), time.Now(), refused("a"))
	if first.Failure != "FailedCreate" || first.FailureMessage != `pods "a" is forbidden: exceeded quota` {
		t.Errorf("first %+v", first)
	}
	set.Status = first
	if again, _ := Observe(set, pods(2), time.Now(), refused("b")); !again.equal(first) {
		t.Errorf("again %+v", again)
	}
	if over, _ := Observe(set, pods(3), time.Now(), nil); over.Failure != "" {
		t.Errorf("over %+v", over)
	}
}
