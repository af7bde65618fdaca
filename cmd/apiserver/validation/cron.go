package validation

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// cronField is one of the five fields of a cron expression.
type cronField struct {
	name      string
	low, high int
	names     string // three-letter names, in order from low
}

func cronFields() []cronField {
	return []cronField{
		{"minute", 0, 59, ""}, {"hour", 0, 23, ""}, {"day of month", 1, 31, ""},
		{"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"}, {"day of week", 0, 6, "sunmontuewedthufrisat"},
	}
}

// parseCron says what is wrong with a cron expression: five fields of lists, ranges and steps, or one of the @ names.
func parseCron(s string) error {
	if strings.HasPrefix(s, "@") {
		switch s {
		case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
			return nil
		}
		if every, ok := strings.CutPrefix(s, "@every "); ok {
			if _, err := time.ParseDuration(every); err != nil {
				return fmt.Errorf("failed to parse duration %s: %w", s, err)
			}
			return nil
		}
		return fmt.Errorf("unrecognized descriptor: %s", s)
	}
	parts := strings.Fields(s)
	fields := cronFields()
	if len(parts) != len(fields) {
		return fmt.Errorf("expected exactly 5 fields, found %d: %s", len(parts), parts)
	}
	for i, f := range fields {
		for item := range strings.SplitSeq(parts[i], ",") {
			if err := f.check(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// check judges *, ?, n, n-m, each perhaps with /step.
func (f cronField) check(item string) error {
	span, step, stepped := strings.Cut(item, "/")
	first, last, ranged := strings.Cut(span, "-")
	low, high := f.low, f.high
	if first != "*" && first != "?" {
		var err error
		if low, err = f.number(first); err != nil {
			return err
		}
		high = low
		if strings.Contains(last, "-") {
			return fmt.Errorf("too many hyphens: %s", item)
		}
		if ranged {
			if high, err = f.number(last); err != nil {
				return err
			}
		}
	}
	every := 1
	if stepped {
		if strings.Contains(step, "/") {
			return fmt.Errorf("too many slashes: %s", item)
		}
		var err error
		if every, err = positive(step); err != nil {
			return err
		}
		if !ranged {
			high = f.high // n/step is n-max/step
		}
	}
	switch {
	case low < f.low:
		return fmt.Errorf("beginning of range (%d) below minimum (%d): %s", low, f.low, item)
	case high > f.high:
		return fmt.Errorf("end of range (%d) above maximum (%d): %s", high, f.high, item)
	case low > high:
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", low, high, item)
	case every == 0:
		return fmt.Errorf("step of range should be a positive number: %s", item)
	}
	return nil
}

func (f cronField) number(s string) (int, error) {
	if i := strings.Index(f.names, strings.ToLower(s)); f.names != "" && len(s) == 3 && i >= 0 && i%3 == 0 {
		return f.low + i/3, nil
	}
	return positive(s)
}

func positive(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %w", s, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, s)
	}
	return n, nil
}
