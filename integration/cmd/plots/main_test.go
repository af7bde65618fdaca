package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A plot is XML that has each line's name, and every point within the axes.
func TestSVG(t *testing.T) {
	p := plot{title: "t", x: "x", y: "y", logX: true, lines: []line{{"first", []point{{1, 2}, {50_000, 40}}}, {"second", []point{{1, 2}, {10, 40}}}}}
	drawn := p.svg()
	var err error
	for d := xml.NewDecoder(bytes.NewReader(drawn)); err == nil; _, err = d.Token() {
	}
	if err != io.EOF {
		t.Errorf("%v: %s", err, drawn)
	}
	for _, want := range []string{">first</text>", ">second</text>", ">10,000</text>", ">40</text>"} {
		if !bytes.Contains(drawn, []byte(want)) {
			t.Errorf("there is no %s in %s", want, drawn)
		}
	}
	for _, pt := range regexp.MustCompile(`cx="([0-9.]+)" cy="([0-9.]+)"`).FindAllSubmatch(drawn, -1) {
		x, _ := strconv.ParseFloat(string(pt[1]), 64)
		y, _ := strconv.ParseFloat(string(pt[2]), 64)
		if x < left || x > width-right || y < top || y > height-bottom {
			t.Errorf("a point at %v, %v", x, y)
		}
	}
}

func TestLines(t *testing.T) {
	const text = "Some text.\n\n| | 1 Service | 1,000 | requests |\n|---|---|---|---|\n| its own | 25.9 µs | 26.2 µs | 5 |\n| `a` | 1.03x | 12.5x | 3x |\n| b | 2x | | 4x |\n\n" +
		"| pods | MB |\n|---|---|\n| 4, what there are | 2.5 (3.5) |\n| 500 | (85.8) |\n| 1,000 | 7 |\n"
	for _, tt := range []struct {
		name   string
		source source
		want   []line
	}{
		{"rows over the header", source{header: []string{"", "1 Service"}, across: true}, []line{{"a", []point{{1, 1.03}, {1000, 12.5}}}}},
		{"columns over the first", source{header: []string{"pods"}, columns: []int{1}}, []line{{"MB", []point{{4, 2.5}, {1000, 7}}}}},
	} {
		got, err := tt.source.lines(text)
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(line{}, point{})); err != nil || d != "" {
			t.Errorf("%s: %v %s", tt.name, err, d)
		}
	}
	if _, err := (source{header: []string{"gone"}}).lines(text); err == nil {
		t.Error("a table that is not there is no error")
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		a    axis
		want []float64
	}{
		{newAxis([]float64{1, 50000}, true, 0, 1), []float64{1, 10, 100, 1000, 10000}},
		{newAxis([]float64{1, 50}, true, 0, 1), []float64{1, 2, 5, 10, 20, 50}},
		{newAxis([]float64{0.9, 13}, false, 0, 1), []float64{0, 5, 10}},
	} {
		if d := cmp.Diff(tt.want, tt.a.ticks()); d != "" {
			t.Errorf("%+v: %s", tt.a, d)
		}
	}
}
