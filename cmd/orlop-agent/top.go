package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/proxy"
)

// trafficReport is what a running agent has counted, by services' ports, and when.
type trafficReport struct {
	Mode  string                   `json:"mode"`
	At    time.Time                `json:"at"`
	Ports map[string]proxy.Traffic `json:"ports"`
}

// busy is a service's port between two reports.
type busy struct {
	Port  string        `json:"port"`
	Rate  rate          `json:"perSecond"`
	Total proxy.Traffic `json:"total"`
}

type rate struct {
	Connections, Failures, PacketsIn, BytesIn, PacketsOut, BytesOut float64
}

// topOrders are the words of --sort-by.
func topOrders() map[string]func(busy) (rate, total float64) {
	return map[string]func(busy) (rate, total float64){
		"connections": func(b busy) (float64, float64) { return b.Rate.Connections, float64(b.Total.Connections) },
		"failures":    func(b busy) (float64, float64) { return b.Rate.Failures, float64(b.Total.Failures) },
		"packets": func(b busy) (float64, float64) {
			return b.Rate.PacketsIn + b.Rate.PacketsOut, float64(b.Total.PacketsIn + b.Total.PacketsOut)
		},
		"bytes": func(b busy) (float64, float64) {
			return b.Rate.BytesIn + b.Rate.BytesOut, float64(b.Total.BytesIn + b.Total.BytesOut)
		},
	}
}

type topOptions struct {
	sortBy    string
	noHeaders bool
	watch     bool
	interval  time.Duration
	limit     int
	output    *string // json, or empty
}

func topCommand(o *options, output *string) *cobra.Command {
	t := topOptions{output: output}
	cmd := &cobra.Command{
		Use: "top [NAMESPACE/NAME]", Short: "Show which services this node's clients ask for, how often each second and in all", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := func(ctx context.Context) (rep trafficReport, err error) {
				err = askAgentFor(ctx, o.runDir, "traffic", &rep)
				return rep, err
			}
			return t.run(cmd.Context(), ask, strings.Join(args, ""), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.sortBy, "sort-by", "connections", "what is most comes first: connections, failures, packets or bytes, of the last interval")
	f.BoolVar(&t.noHeaders, "no-headers", false, "print no headers")
	f.BoolVarP(&t.watch, "watch", "w", false, "go on, a table each interval")
	f.DurationVar(&t.interval, "interval", time.Second, "over which rates are taken")
	f.IntVar(&t.limit, "limit", 0, "how many to print at most; 0: all that have been asked for")
	return cmd
}

func (t topOptions) run(ctx context.Context, ask func(context.Context) (trafficReport, error), name string, out io.Writer) error {
	switch {
	case topOrders()[t.sortBy] == nil:
		return fmt.Errorf("--sort-by=%s: want connections, failures, packets or bytes", t.sortBy)
	case t.interval < 100*time.Millisecond:
		return fmt.Errorf("--interval=%s: want 100ms or more", t.interval)
	case *t.output != "" && *t.output != "json":
		return fmt.Errorf("-o %s: want json", *t.output)
	}
	if name != "" && !strings.Contains(name, "/") {
		name = "default/" + name
	}
	before, err := ask(ctx)
	for err == nil {
		select {
		case <-ctx.Done():
			return nil // who watches ends it so
		case <-time.After(t.interval):
		}
		var now trafficReport
		if now, err = ask(ctx); err != nil {
			break
		}
		if err := t.print(out, between(before, now, name)); err != nil || !t.watch {
			return err
		}
		before = now
	}
	return err
}

// between is what happened between two reports, of one service or, without a name, of all.
func between(before, now trafficReport, name string) (out []busy) {
	seconds := now.At.Sub(before.At).Seconds()
	if seconds <= 0 {
		seconds = 1
	}
	for port, total := range now.Ports {
		if key, _, _ := strings.Cut(port, ":"); name != "" && key != name {
			continue
		}
		d := total.Minus(before.Ports[port])
		per := func(n uint64) float64 { return float64(n) / seconds }
		out = append(out, busy{port, rate{per(d.Connections), per(d.Failures), per(d.PacketsIn), per(d.BytesIn), per(d.PacketsOut), per(d.BytesOut)}, total})
	}
	return out
}

func (t topOptions) print(out io.Writer, list []busy) error {
	of := topOrders()[t.sortBy]
	slices.SortFunc(list, func(a, b busy) int {
		ra, ta := of(a)
		rb, tb := of(b)
		return cmp.Or(cmp.Compare(rb, ra), cmp.Compare(tb, ta), strings.Compare(a.Port, b.Port))
	})
	if t.limit > 0 {
		list = list[:min(t.limit, len(list))]
	}
	if *t.output == "json" {
		return json.NewEncoder(out).Encode(list)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	if !t.noHeaders {
		fmt.Fprintln(w, "SERVICE\tCONN/s\tFAIL/s\tPKT/s\tIN B/s\tOUT B/s\tCONNECTIONS\tFAILURES")
	}
	for _, b := range list {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.0f\t%s\t%s\t%d\t%d\n", b.Port, b.Rate.Connections, b.Rate.Failures, b.Rate.PacketsIn+b.Rate.PacketsOut,
			short(b.Rate.BytesIn), short(b.Rate.BytesOut), b.Total.Connections, b.Total.Failures)
	}
	return w.Flush()
}

// short writes a number of bytes with three digits or so.
func short(n float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		if n < 1000 || unit == "G" {
			if n < 10 && unit != "" {
				return fmt.Sprintf("%.1f%s", n, unit)
			}
			return fmt.Sprintf("%.0f%s", n, unit)
		}
		n /= 1000
	}
	return ""
}
