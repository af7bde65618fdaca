package metricsapi

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// table gives the columns NAME, CPU, MEMORY and WINDOW.
func table(obj runtime.Object) (*metav1.Table, error) {
	t := &metav1.Table{}
	for _, name := range []string{"Name", "cpu", "memory", "Window"} {
		kind := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if name == "Name" {
			kind.Format = "name"
		}
		t.ColumnDefinitions = append(t.ColumnDefinitions, kind)
	}
	items := []runtime.Object{obj}
	if meta.IsListType(obj) {
		var err error
		if items, err = meta.ExtractList(obj); err != nil {
			return nil, err
		}
	}
	for _, item := range items {
		t.Rows = append(t.Rows, row(item))
	}
	slices.SortFunc(t.Rows, func(a, b metav1.TableRow) int { return cmp.Compare(a.Cells[0].(string), b.Cells[0].(string)) })
	return t, nil
}

func row(obj runtime.Object) metav1.TableRow {
	name, sum, window := "", corev1.ResourceList{}, metav1.Duration{}
	switch o := obj.(type) {
	case *metricsv1beta1.NodeMetrics:
		name, sum, window = o.Name, o.Usage, o.Window
	case *metricsv1beta1.PodMetrics:
		name, window = o.Name, o.Window
		for _, c := range o.Containers {
			for resource, q := range c.Usage {
				total := sum[resource]
				total.Add(q)
				sum[resource] = total
			}
		}
	}
	cpu, memory := sum[corev1.ResourceCPU], sum[corev1.ResourceMemory]
	return metav1.TableRow{Cells: []any{name, cpu.String(), memory.String(), window.Duration.String()}, Object: runtime.RawExtension{Object: obj}}
}

// ConvertToTable is for both resources.
func (*metrics) ConvertToTable(_ context.Context, obj, _ runtime.Object) (*metav1.Table, error) {
	return table(obj)
}
