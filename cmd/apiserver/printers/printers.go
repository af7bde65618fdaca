// Package printers turns API objects into the tables that kubectl get shows.
//
// It owns the columns and the text of the cells of every kind; For hands out one convertor per resource. A resource that has no
// columns of its own gets its name and creation time. Nothing here knows requests or storage: a row is a function of the
// object and the time.
package printers

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
)

// For returns the convertor of a resource's objects and lists.
func For(gr schema.GroupResource) rest.TableConvertor {
	p, ok := printerFor(gr)
	if !ok {
		return rest.NewDefaultTableConvertor(gr)
	}
	return convertor{resource: gr, printer: p, now: time.Now}
}

// printer holds a kind's columns and makes the cells of one object, nil if the object is of another kind.
type printer struct {
	columns []metav1.TableColumnDefinition
	cells   func(obj runtime.Object, now time.Time) []any
	// conditions, if set, marks rows, so that clients can hide what has completed.
	conditions func(obj runtime.Object) []metav1.TableRowCondition
}

func newPrinter[T any](columns []metav1.TableColumnDefinition, cells func(*T, time.Time) []any) printer {
	return printer{columns: columns, cells: func(obj runtime.Object, now time.Time) []any {
		o, ok := any(obj).(*T)
		if !ok {
			return nil
		}
		return cells(o, now)
	}}
}

type convertor struct {
	resource schema.GroupResource
	printer  printer
	now      func() time.Time
}

// ConvertToTable makes one row of an object or one of each item of a list. Row objects are whole: the API server cuts them
// down to their metadata if the client asked for that.
func (c convertor) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = c.printer.columns
	}
	if l, err := meta.ListAccessor(object); err == nil {
		table.ResourceVersion, table.Continue, table.RemainingItemCount = l.GetResourceVersion(), l.GetContinue(), l.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(object); err == nil {
		table.ResourceVersion = m.GetResourceVersion()
	}
	now := c.now()
	rows, err := metatable.MetaToTableRow(object, func(obj runtime.Object, _ metav1.Object, _, _ string) ([]any, error) {
		cells := c.printer.cells(obj, now)
		if cells == nil {
			return nil, notAcceptable{resource: c.resource, object: obj}
		}
		return cells, nil
	})
	if err != nil {
		return nil, err
	}
	if c.printer.conditions != nil {
		for i := range rows {
			rows[i].Conditions = c.printer.conditions(rows[i].Object.Object)
		}
	}
	table.Rows = rows
	return table, nil
}

// notAcceptable says that an object of another kind came to a resource's convertor.
type notAcceptable struct {
	resource schema.GroupResource
	object   runtime.Object
}

func (e notAcceptable) Error() string {
	return fmt.Sprintf("the resource %s does not support being converted to a Table: it is a %T", e.resource, e.object)
}

func (e notAcceptable) Status() metav1.Status {
	return metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: "NotAcceptable", Message: e.Error()}
}

// columns makes definitions of "Name", "Name:integer" or "+Name" (shown only with -o wide). The first column is the object's name.
func columns(names ...string) []metav1.TableColumnDefinition {
	out := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}}
	return append(out, unnamedColumns(names...)...)
}

// unnamedColumns is columns without the leading name.
func unnamedColumns(names ...string) []metav1.TableColumnDefinition {
	out := make([]metav1.TableColumnDefinition, 0, len(names))
	for _, n := range names {
		c := metav1.TableColumnDefinition{Type: "string"}
		if n[0] == '+' {
			c.Priority, n = 1, n[1:]
		}
		if rest, ok := strings.CutSuffix(n, ":integer"); ok {
			c.Type, n = "integer", rest
		}
		if rest, ok := strings.CutSuffix(n, ":boolean"); ok {
			c.Type, n = "boolean", rest
		}
		if n == "Age" {
			c.Description = metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]
		}
		c.Name = n
		out = append(out, c)
	}
	return out
}

func age(o metav1.Object, now time.Time) string { return since(o.GetCreationTimestamp(), now) }

func since(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}
