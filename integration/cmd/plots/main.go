// Command plots draws the tables of figures in docs as SVG files beside them, in docs/figures. The tables are what `make bench` prints, so that a plot says
// nothing that a table does not; `make check` asserts that the committed files are what the committed tables give.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

//go:generate go run . ../../../docs

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: plots FOLDER, where figures.md and proxy.md are")
	}
	drawn, err := draw(args[0])
	if err != nil {
		return err
	}
	dir := filepath.Join(args[0], "figures")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, svg := range drawn {
		if err := os.WriteFile(filepath.Join(dir, name), svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// source is a table and what of it is drawn.
type source struct {
	file   string
	header []string // of the table, its first cells
	plot   plot
	// across: each row is a line, over the numbers in the header. Otherwise each of columns is one, over the numbers in column at.
	across  bool
	at      int
	columns []int
	only    string // what the first cell of a row must be; "" anything
}

func sources() []source {
	return []source{
		{file: "proxy.md", header: []string{"", "1 Service"}, across: true, plot: plot{
			name: "connect.svg", title: "A connection to the last of many Services", x: "Services", y: "times that to the endpoint itself", logX: true, logY: true,
		}},
		{file: "proxy.md", header: []string{"seconds to load", "1"}, across: true, plot: plot{
			name: "load.svg", title: "The first synchronisation", x: "Services", y: "seconds", logX: true, logY: true,
		}},
		{file: "figures.md", header: []string{"pods", "nodes", "pods a second"}, only: "basic", at: 1, columns: []int{2}, plot: plot{
			name: "scheduler.svg", title: "Pods that the scheduler places", x: "nodes", y: "pods a second",
		}},
		{file: "figures.md", header: []string{"50 pods at once", "first runs after s", "median", "last"}, columns: []int{1, 2, 3}, plot: plot{
			name: "starts.svg", title: "50 pods at once: seconds until they run", x: "made side by side", y: "seconds", logX: true,
		}},
		{file: "figures.md", header: []string{"pods", "RSS MB", "anonymous MB"}, columns: []int{1, 2}, plot: plot{
			name: "memory.svg", title: "Memory of the kubelet", x: "pods of the node", y: "MB",
		}},
	}
}

// draw returns all plots by the names of their files.
func draw(docs string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, s := range sources() {
		text, err := os.ReadFile(filepath.Join(docs, s.file))
		if err != nil {
			return nil, err
		}
		p := s.plot
		p.lines, err = s.lines(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", p.name, s.file, err)
		}
		out[p.name] = p.svg()
	}
	return out, nil
}
