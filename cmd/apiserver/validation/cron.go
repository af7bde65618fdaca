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
	if stepped {
		if n, err := strconv.Atoi(step); err != nil || n <= 0 {
			return fmt.Errorf("step of range should be a positive number: %s", item)
		}
	}
	if span == "*" || span == "?" {
		return nil
	}
	first, last, ranged := strings.Cut(span, "-")
	low, err := f.number(first)
	if err != nil {
		return err
	}
	if !ranged {
		return nil
	}
	high, err := f.number(last)
	if err != nil {
		return err
	}
	if low > high {
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", low, high, item)
	}
	return nil
}

func (f cronField) number(s string) (int, error) {
	if i := strings.Index(f.names, strings.ToLower(s)); f.names != "" && len(s) == 3 && i >= 0 && i%3 == 0 {
		return f.low + i/3, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %w", s, err)
	}
	if n < f.low {
		return 0, fmt.Errorf("beginning of range (%d) below minimum (%d): %s", n, f.low, s)
	}
	if n > f.high {
		return 0, fmt.Errorf("end of range (%d) above maximum (%d): %s", n, f.high, s)
	}
	return n, nil
}
