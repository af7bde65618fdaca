package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
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
	client, err := connect(o)
	if err != nil {
		return err
	}
	desired, err := wantedRoutes(ctx, client, o.node)
	if err != nil {
		return err
	}
	kernel, err := routes.Open()
	if err != nil {
		return err
	}
	defer kernel.Close()
	actual, err := kernel.Routes()
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	return printRoutes(out, routes.Explain(desired, actual))
}

func wantedRoutes(ctx context.Context, client kubernetes.Interface, self string) (routes.Table, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []*corev1.Node
	for i := range list.Items {
		nodes = append(nodes, &list.Items[i])
	}
	return clusterOf(nodes, self).routes, nil
}

func printRoutes(out io.Writer, lines []routes.Line) error {
	name := func(a netip.Addr) string {
		if !a.IsValid() {
			return "-"
		}
		return a.String()
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PODS\tWANTED VIA\tTHERE VIA\tWHY")
	for _, l := range lines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Dst, name(l.Wanted), name(l.There), l.Why)
	}
	return w.Flush()
}
