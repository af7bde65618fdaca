package registry

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

func TestTemplatesAreNumbered(t *testing.T) {
	made := func(number string, image string) *appsv1.DaemonSet {
		ds := &appsv1.DaemonSet{}
		if number != "" {
			ds.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: number}
		}
		ds.Spec.Template.Spec.ServiceAccountName = image
		return ds
	}
	for _, tt := range []struct {
		name    string
		ds, old *appsv1.DaemonSet
		want    string
	}{
		{"new", made("", "a"), nil, "1"},
		{"new with a number", made("7", "a"), nil, "7"},
		{"new with nonsense", made("x", "a"), nil, "1"},
		{"same template", made("9", "a"), made("3", "a"), "3"},
		{"annotation dropped", made("", "a"), made("3", "a"), "3"},
		{"another template", made("3", "b"), made("3", "a"), "4"},
		{"stored before there were numbers", made("", "b"), made("", "a"), "1"},
	} {
		numberTemplate(tt.ds, tt.old)
		if got := tt.ds.Annotations[appsv1.DeprecatedTemplateGeneration]; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
