package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// table is one of Markdown.
type table struct {
	header []string
	rows   [][]string
}

func tables(text string) (out []table) {
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		var cells []string
		for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.ReplaceAll(strings.TrimSpace(c), "`", ""))
		}
		switch {
		case !inside:
			out = append(out, table{header: cells})
		case !strings.HasPrefix(cells[0], "--"):
			out[len(out)-1].rows = append(out[len(out)-1].rows, cells)
		}
		inside = true
	}
	return out
}

// find returns the one table whose header's cells begin with these.
func find(text string, header []string) (table, error) {
	var found []table
	for _, t := range tables(text) {
		if len(t.header) >= len(header) && slices.EqualFunc(t.header[:len(header)], header, func(have, want string) bool {
			return have == want || want != "" && strings.HasPrefix(have, want)
		}) {
			found = append(found, t)
		}
	}
	if len(found) != 1 {
		return table{}, fmt.Errorf("%d tables begin with %q, want one", len(found), header)
	}
	return found[0], nil
}

// lines are what of its file's tables is drawn.
func (s source) lines(text string) ([]line, error) {
	t, err := find(text, s.header)
	if err != nil {
		return nil, err
	}
	var out []line
	if s.across {
		for _, row := range t.rows {
			out = appendLine(out, line{row[0], across(t.header, row)})
		}
	} else {
		for _, c := range s.columns {
			l := line{name: t.header[c]}
			for _, row := range t.rows {
				x, xOK := number(row[s.at])
				y, yOK := number(row[c])
				if (s.only == "" || row[0] == s.only) && xOK && yOK {
					l.points = append(l.points, point{x, y})
				}
			}
			out = appendLine(out, l)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the table with %q has no numbers", s.header)
	}
	return out, nil
}

func appendLine(list []line, l line) []line {
	if len(l.points) < 2 {
		return list
	}
	return append(list, l)
}

// across are a row's numbers over its header's, as far as the header has some. What has a unit of its own, as the row of what others are multiples of, is left out.
func across(header, row []string) (out []point) {
	for i := 1; i < len(row); i++ {
		x, ok := number(header[i])
		if !ok {
			break
		}
		if y, ok := number(row[i]); ok && !strings.Contains(row[i], " ") {
			out = append(out, point{x, y})
		}
	}
	return out
}

// number is what a cell begins with. What is in brackets is of an earlier program, and none.
func number(cell string) (float64, bool) {
	digits := regexp.MustCompile(`^[0-9][0-9,]*(\.[0-9]+)?`).FindString(cell)
	n, err := strconv.ParseFloat(strings.ReplaceAll(digits, ",", ""), 64)
	return n, err == nil
}
