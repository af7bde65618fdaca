package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/cni/routes"
)

// explainRoutes prints which routes to other nodes' pods are wanted, which are there, and why. It changes nothing.
func explainRoutes(ctx context.Context, o options, out io.Writer) error {
	if o.node == "" {
		return errors.New("--node-name or NODE_NAME is needed")
	}
	client, _, err := connect(o)
	if err != nil {
		return err
	}
	return explainRoutesOf(ctx, o, client, out)
}

func explainRoutesOf(ctx context.Context, o options, client kubernetes.Interface, out io.Writer) error {
	view, err := nodesSeen(ctx, client, o.node)
	if err != nil {
		return err
	}
	if err := o.overlay().Validate(); err != nil {
		return err
	}
	kernel, err := routes.Open()
	if err != nil {
		return err
	}
	defer kernel.Close()
	actual, err := kernel.State()
	if err != nil {
		return err
	}
	paths, err := routes.Paths(kernel, view)
	if err != nil {
		return err
	}
	lines, rest := routes.Explain(view, o.overlay(), paths, actual)
	return printRoutes(out, lines, rest, foundHere(view, actual))
}

func nodesSeen(ctx context.Context, client kubernetes.Interface, self string) (routes.View, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return routes.View{}, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []*corev1.Node
	for i := range list.Items {
		nodes = append(nodes, &list.Items[i])
	}
	view := clusterOf(nodes, self).view
	if view.Self.Name == "" {
		return routes.View{}, fmt.Errorf("there is no node %s: give the name of this one", self)
	}
	return view, nil
}

func printRoutes(out io.Writer, lines []routes.Line, rest []routes.Action, found []string) error {
	name := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PODS\tNODE\tHOW\tWANTED\tTHERE\tWHY")
	for _, l := range lines {
		there := name(l.There)
		if l.There != "" && l.There == l.Wanted {
			there = "as wanted"
		}
		pods := "-"
		if l.Dst.IsValid() {
			pods = l.Dst.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", pods, name(l.Node), l.How, name(l.Wanted), there, l.Why)
	}
	for _, a := range rest {
		fmt.Fprintln(w, a)
	}
	for _, f := range found {
		fmt.Fprintln(w, "found:", f)
	}
	return w.Flush()
}
