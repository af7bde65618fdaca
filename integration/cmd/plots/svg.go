package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// plot is lines over two axes, each of which may be logarithmic.
type plot struct {
	name, title, x, y string
	logX, logY        bool
	lines             []line
}

type line struct {
	name   string
	points []point
}

type point struct{ x, y float64 }

// The picture in pixels: all of it, and the margins around the axes.
const (
	width, height            = 720, 400
	left, right, top, bottom = 70, 200, 40, 50
)

// axis maps values from low to high to places.
type axis struct {
	low, high float64
	log       bool
	from, to  float64
}

func (a axis) at(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log10(v), math.Log10(low), math.Log10(high)
	}
	return a.from + (v-low)/(high-low)*(a.to-a.from)
}

// newAxis has room for all values, and for zero where it is not logarithmic.
func newAxis(values []float64, log bool, from, to float64) axis {
	a := axis{slices.Min(values), slices.Max(values), log, from, to}
	if !log {
		a.low, a.high = 0, a.high*1.05
		return a
	}
	a.low, a.high = math.Min(a.low, math.Pow(10, math.Floor(math.Log10(a.low)+0.1))), a.high*1.2
	return a
}

// ticks are round values of the axis: powers of ten, with twos and fives if those are few, or some five steps.
func (a axis) ticks() (out []float64) {
	if a.log {
		factors := []float64{1, 2, 5}
		if a.high/a.low > 1000 {
			factors = []float64{1}
		}
		for p := math.Floor(math.Log10(a.low)); math.Pow(10, p) <= a.high; p++ {
			for _, f := range factors {
				if v := f * math.Pow(10, p); v >= a.low*0.999 && v <= a.high {
					out = append(out, v)
				}
			}
		}
		return out
	}
	step := math.Pow(10, math.Floor(math.Log10(a.high/5)))
	for _, f := range []float64{1, 2, 5, 10} {
		if a.high/(f*step) <= 6 {
			step *= f
			break
		}
	}
	for i := 0; float64(i)*step <= a.high; i++ {
		out = append(out, float64(i)*step)
	}
	return out
}

func (p plot) svg() []byte {
	var xs, ys []float64
	for _, l := range p.lines {
		for _, pt := range l.points {
			xs, ys = append(xs, pt.x), append(ys, pt.y)
		}
	}
	x, y := newAxis(xs, p.logX, left, width-right), newAxis(ys, p.logY, height-bottom, top)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", p.title)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15">%s</text>`+"\n", left, p.title)
	for _, v := range x.ticks() {
		at := x.at(v)
		fmt.Fprintf(&b, `<path d="M%.1f %d V%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", at, top, height-bottom, at, height-bottom+17, spoken(v))
	}
	for _, v := range y.ticks() {
		at := y.at(v)
		fmt.Fprintf(&b, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, at, width-right, left-6, at+4, spoken(v))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-12, p.x)
	fmt.Fprintf(&b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+height-bottom)/2, p.y)
	colours := []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"} // told apart by the colour-blind, too
	labels := p.labels(y)
	for i, l := range p.lines {
		colour := colours[i%len(colours)]
		fmt.Fprintf(&b, `<g stroke="%s" fill="%s"><path fill="none" stroke-width="2" d="`, colour, colour)
		for j, pt := range l.points {
			fmt.Fprintf(&b, "%c%.1f %.1f", "ML"[min(j, 1)], x.at(pt.x), y.at(pt.y))
		}
		b.WriteString(`"/>`)
		for _, pt := range l.points {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3"/>`, x.at(pt.x), y.at(pt.y))
		}
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" stroke="none">%s</text></g>`+"\n", width-right+10, labels[i], l.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// labels are where the lines' names go: beside their ends, each below the one above it.
func (p plot) labels(y axis) []float64 {
	const apart = 15
	out, order := make([]float64, len(p.lines)), make([]int, len(p.lines))
	for i, l := range p.lines {
		out[i], order[i] = y.at(l.points[len(l.points)-1].y)+4, i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(out[a] - out[b]) })
	for i, j := range order {
		if i > 0 {
			out[j] = math.Max(out[j], out[order[i-1]]+apart)
		}
	}
	// What went below the axis moves up again, and what is in its way.
	floor := float64(height - bottom + 4)
	for i := len(order) - 1; i >= 0; i-- {
		out[order[i]] = math.Min(out[order[i]], floor)
		floor = out[order[i]] - apart
	}
	return out
}

// spoken is a number with thousands apart.
func spoken(v float64) string {
	s := strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64)
	if v >= 1000 {
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
	}
	return s
}
