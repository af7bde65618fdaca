package localcluster

import (
	"fmt"
	"io"
	"time"
)

// Phase is one step of Up and how long it took.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Progress tells a person how far a command has come: a tick and its seconds per step on a
// terminal, plain lines elsewhere.
type Progress struct {
	Out      io.Writer
	Terminal bool
	Color    bool
	Phases   []Phase
}

// Step runs f as one step.
func (p *Progress) Step(name, what string, f func() error) error {
	if p.Terminal {
		fmt.Fprintf(p.Out, "   %s ...", what)
	}
	began := time.Now()
	err := f()
	took := time.Since(began)
	mark, tint := "✓", "32"
	if err != nil {
		mark, tint = "✗", "31"
	} else {
		p.Phases = append(p.Phases, Phase{name, float64(took.Round(time.Millisecond)) / float64(time.Second)})
	}
	if p.Color {
		mark = "\033[" + tint + "m" + mark + "\033[0m"
	}
	switch {
	case p.Terminal:
		fmt.Fprintf(p.Out, "\r %s %s \033[2m%.1fs\033[0m\033[K\n", mark, what, took.Seconds())
	case err == nil:
		fmt.Fprintf(p.Out, "[%s] %s (%.1fs)\n", name, what, took.Seconds())
	default:
		fmt.Fprintf(p.Out, "[%s] %s failed after %.1fs\n", name, what, took.Seconds())
	}
	return err
}

// Say prints one line that is no step.
func (p *Progress) Say(name, text string) {
	if p.Terminal {
		fmt.Fprintf(p.Out, " %s\n", text)
	} else {
		fmt.Fprintf(p.Out, "[%s] %s\n", name, text)
	}
}
