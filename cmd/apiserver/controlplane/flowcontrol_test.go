package controlplane

import (
	"context"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestControlOf(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		annotation           string
		generation           int64
		mandatory, suggested bool
		want                 control
	}{
		{"mandatory, whatever it says", "false", 3, true, false, ours},
		{"suggested and marked", "true", 3, false, true, ours},
		{"suggested and taken over", "false", 1, false, true, theirs},
		{"suggested, unmarked and untouched", "", 1, false, true, ours},
		{"suggested, unmarked and changed", "", 2, false, true, theirs},
		{"suggested, with a mark that says nothing", "x", 2, false, true, theirs},
		{"of another version", "true", 1, false, false, stale},
		{"somebody's own", "", 1, false, false, theirs},
	} {
		m := &metav1.ObjectMeta{Generation: tt.generation, Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: tt.annotation}}
		if got := controlOf(m, tt.mandatory, tt.suggested); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestFlowControlIsKept(t *testing.T) {
	ctx := context.Background()
	client := fake.NewClientset()
	levels, schemas := client.FlowcontrolV1().PriorityLevelConfigurations(), client.FlowcontrolV1().FlowSchemas()
	ensure := func() {
		t.Helper()
		if err := EnsureFlowControl(ctx, client); err != nil {
			t.Fatal(err)
		}
	}
	level := func(name string) *flowcontrolv1.PriorityLevelConfiguration {
		t.Helper()
		l, err := levels.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	write := func(l *flowcontrolv1.PriorityLevelConfiguration) {
		t.Helper()
		if _, err := levels.Update(ctx, l, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	system := level("system")
	if system.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] != "true" {
		t.Errorf("annotations of a new object: %v", system.Annotations)
	}
	wanted := *system.Spec.Limited.NominalConcurrencyShares

	system.Spec.Limited.NominalConcurrencyShares = new(int32(1))
	write(system)
	exempt := level("exempt")
	exempt.Spec.Exempt.NominalConcurrencyShares = new(int32(7))
	write(exempt)
	node := level("node-high")
	node.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
	node.Spec.Limited.NominalConcurrencyShares = new(int32(2))
	write(node)
	if err := schemas.Delete(ctx, "probes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	old := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "old", Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}}}
	if _, err := schemas.Create(ctx, old, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ensure()
	if got := *level("system").Spec.Limited.NominalConcurrencyShares; got != wanted {
		t.Errorf("a suggested level that was changed has %d shares, want %d again", got, wanted)
	}
	if got := *level("exempt").Spec.Exempt.NominalConcurrencyShares; got != 7 {
		t.Errorf("the exempt level has %d shares, want the administrator's", got)
	}
	if got := *level("node-high").Spec.Limited.NominalConcurrencyShares; got != 2 {
		t.Errorf("a level that somebody took over has %d shares, want his", got)
	}
	if _, err := schemas.Get(ctx, "probes", metav1.GetOptions{}); err != nil {
		t.Errorf("a suggested schema that was deleted: %v", err)
	}
	if _, err := schemas.Get(ctx, "old", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a schema of another version: %v", err)
	}
	before := len(client.Actions())
	ensure()
	if got := len(client.Actions()) - before; got != 2 {
		t.Errorf("%d requests where nothing is to be done, want two lists", got)
	}
}
