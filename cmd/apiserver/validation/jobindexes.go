package validation

import (
	"fmt"
	"strconv"
	"strings"
)

// indexes are the indexes of a job, as spans in order.
type indexes []span

// span holds both its ends.
type span struct{ first, last int32 }

func (x indexes) count() int32 {
	n := int32(0)
	for _, s := range x {
		n += s.last - s.first + 1
	}
	return n
}

// common returns the first index in both x and y.
func (x indexes) common(y indexes) (int32, bool) {
	for i, j := 0, 0; i < len(x) && j < len(y); {
		if low := max(x[i].first, y[j].first); low <= min(x[i].last, y[j].last) {
			return low, true
		}
		if x[i].last < y[j].last {
			i++
		} else {
			j++
		}
	}
	return 0, false
}

// parseIndexes reads "1,3-5,7" of a job with that many completions.
func parseIndexes(s string, completions int32) (indexes, error) {
	if s == "" {
		return nil, nil
	}
	var out indexes
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if strings.Contains(last, "-") {
			return nil, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		x, err := parseIndex(first, completions)
		if err != nil {
			return nil, err
		}
		if n := len(out); n > 0 && x <= out[n-1].last {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", out[n-1].last, x)
		}
		if !ranged {
			out = append(out, span{x, x})
			continue
		}
		y, err := parseIndex(last, completions)
		if err != nil {
			return nil, err
		}
		if x >= y {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", x, y)
		}
		out = append(out, span{x, y})
	}
	return out, nil
}

func parseIndex(s string, completions int32) (int32, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("cannot convert string to integer for index: %q", s)
	}
	if n >= int(completions) || n < 0 {
		return 0, fmt.Errorf("too large index: %q", s)
	}
	return int32(n), nil
}
