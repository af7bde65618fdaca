package job

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// span is the indexes from first to last, both included.
type span struct{ first, last int }

// indexes is a set of completion indexes: spans in order that neither overlap nor touch.
type indexes []span

// indexesOf returns the set of some numbers.
func indexesOf(numbers ...int) indexes {
	spans := make(indexes, len(numbers))
	for i, n := range numbers {
		spans[i] = span{n, n}
	}
	return spans.tidy()
}

// parseIndexes reads "1,3-5,7" and leaves out what is not below end or no number: a status that
// somebody spoiled costs the indexes that it spoiled, not the Job.
func parseIndexes(text string, end int) indexes {
	var set indexes
	for _, part := range strings.Split(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
		}
		if last = min(last, end-1); first >= 0 && first <= last {
			set = append(set, span{first, last})
		}
	}
	return set.tidy()
}

// tidy sorts and joins spans.
func (s indexes) tidy() indexes {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var out indexes
	for _, next := range s {
		if n := len(out); n > 0 && next.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, next.last)
			continue
		}
		out = append(out, next)
	}
	return out
}

func (s indexes) union(others ...indexes) indexes {
	all := slices.Clone(s)
	for _, o := range others {
		all = append(all, o...)
	}
	return all.tidy()
}

func (s indexes) has(n int) bool {
	_, found := slices.BinarySearchFunc(s, n, func(x span, n int) int {
		switch {
		case x.last < n:
			return -1
		case x.first > n:
			return 1
		}
		return 0
	})
	return found
}

func (s indexes) total() int {
	n := 0
	for _, x := range s {
		n += x.last - x.first + 1
	}
	return n
}

// overlap is how many indexes are in both sets.
func (s indexes) overlap(o indexes) int {
	n := 0
	for i, j := 0, 0; i < len(s) && j < len(o); {
		n += max(min(s[i].last, o[j].last)-max(s[i].first, o[j].first)+1, 0)
		if s[i].last < o[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

// missing lists the first count indexes below end that are not in the set.
func (s indexes) missing(count, end int) []int {
	var out []int
	next := 0
	for _, x := range append(slices.Clone(s), span{end, end}) {
		for ; next < min(x.first, end) && len(out) < count; next++ {
			out = append(out, next)
		}
		next = max(next, x.last+1)
	}
	return out
}

// String writes the set as the API does: three and more in a row become a range.
func (s indexes) String() string {
	var parts []string
	for _, x := range s {
		switch x.last - x.first {
		case 0:
			parts = append(parts, strconv.Itoa(x.first))
		case 1:
			parts = append(parts, strconv.Itoa(x.first), strconv.Itoa(x.last))
		default:
			parts = append(parts, strconv.Itoa(x.first)+"-"+strconv.Itoa(x.last))
		}
	}
	return strings.Join(parts, ",")
}
