package cronjob

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// schedule says when, in a location.
type schedule interface {
	// next is the first time after t, in t's location; zero where there is none within five years.
	next(t time.Time) time.Time
}

// every is a constant interval.
type every time.Duration

func (e every) next(t time.Time) time.Time {
	return t.Add(time.Duration(e) - time.Duration(t.Nanosecond())*time.Nanosecond)
}

// field is the set of numbers that one field of a schedule names.
type field struct {
	set uint64
	all bool // it is "*" or "?"
}

func (f field) has(n int) bool { return f.set&(1<<uint(n)) != 0 }

// crontab is five fields.
type crontab struct{ minute, hour, day, month, weekday field }

// bounds are a field's limits and names.
type bounds struct {
	low, high int
	names     string // of three letters each, the first for low
}

var descriptors = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// parse reads a schedule as Vixie's cron does, without seconds, and @hourly, @every 5m and the like.
func parse(text string) (schedule, error) {
	if rest, ok := strings.CutPrefix(text, "@every "); ok {
		d, err := time.ParseDuration(rest)
		if err != nil {
			return nil, fmt.Errorf("failed to parse duration %s: %w", text, err)
		}
		return every(max(d.Truncate(time.Second), time.Second)), nil
	}
	if strings.HasPrefix(text, "@") {
		long, ok := descriptors[text]
		if !ok {
			return nil, fmt.Errorf("unrecognized descriptor: %s", text)
		}
		text = long
	}
	parts := strings.Fields(text)
	if len(parts) != 5 {
		return nil, fmt.Errorf("expected exactly 5 fields, found %d: %s", len(parts), parts)
	}
	var c crontab
	var errs []error
	for i, f := range []struct {
		into *field
		bounds
	}{
		{&c.minute, bounds{0, 59, ""}}, {&c.hour, bounds{0, 23, ""}}, {&c.day, bounds{1, 31, ""}},
		{&c.month, bounds{1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"}}, {&c.weekday, bounds{0, 6, "sunmontuewedthufrisat"}},
	} {
		var err error
		*f.into, err = f.parse(parts[i])
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// parse reads a list of *, n, n-m, each perhaps with a step.
func (b bounds) parse(list string) (field, error) {
	var f field
	for item := range strings.SplitSeq(list, ",") {
		what, by, stepped := strings.Cut(item, "/")
		step := 1
		if stepped {
			n, err := strconv.Atoi(by)
			if err != nil || n < 1 {
				return f, fmt.Errorf("step of range should be a positive number: %s", item)
			}
			step = n
		}
		low, high := b.low, b.high
		if what == "*" || what == "?" {
			f.all = f.all || step == 1
		} else {
			var err error
			if low, high, err = b.between(what, stepped); err != nil {
				return f, err
			}
		}
		for n := low; n <= high; n += step {
			f.set |= 1 << uint(n)
		}
	}
	return f, nil
}

// between reads n or n-m. A lone n with a step goes to the end.
func (b bounds) between(what string, stepped bool) (low, high int, err error) {
	from, to, ranged := strings.Cut(what, "-")
	if low, err = b.number(from); err != nil {
		return 0, 0, err
	}
	switch high = low; {
	case ranged:
		if high, err = b.number(to); err != nil {
			return 0, 0, err
		}
	case stepped:
		high = b.high
	}
	switch {
	case low < b.low:
		err = fmt.Errorf("beginning of range (%d) below minimum (%d): %s", low, b.low, what)
	case high > b.high:
		err = fmt.Errorf("end of range (%d) above maximum (%d): %s", high, b.high, what)
	case low > high:
		err = fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", low, high, what)
	}
	return low, high, err
}

func (b bounds) number(s string) (int, error) {
	if i := strings.Index(b.names, strings.ToLower(s)); b.names != "" && len(s) == 3 && i >= 0 && i%3 == 0 {
		return b.low + i/3, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("failed to parse int from %s", s)
	}
	return n, nil
}

// onDay tells whether t's day is meant: where day and weekday are both restricted, either will do.
func (c crontab) onDay(t time.Time) bool {
	day, weekday := c.day.has(t.Day()), c.weekday.has(int(t.Weekday()))
	if c.day.all || c.weekday.all {
		return day && weekday
	}
	return day || weekday
}

// next goes from field to field, the largest first. Hours that a change of clocks leaves out do not come; those that
// it repeats come twice.
func (c crontab) next(t time.Time) time.Time {
	loc := t.Location()
	end := t.Year() + 5
	t = t.Add(time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
	for t.Year() <= end {
		switch {
		case !c.month.has(int(t.Month())):
			t = time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, loc)
		case !c.onDay(t):
			t = midnightAfter(t)
		case !c.hour.has(t.Hour()):
			t = t.Add(time.Hour - time.Duration(t.Minute())*time.Minute)
		case !c.minute.has(t.Minute()):
			// The next minute of the set in this hour, or the next hour.
			rest := c.minute.set >> uint(t.Minute())
			t = t.Add(time.Duration(min(bits.TrailingZeros64(rest), 60-t.Minute())) * time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

// midnightAfter is the begin of the day after t's, which need not be at midnight: clocks may jump over it.
func midnightAfter(t time.Time) time.Time {
	next := time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, t.Location())
	if next.Hour() == 0 {
		return next
	}
	if next.Hour() > 12 { // Date chose the time before the jump
		return next.Add(time.Duration(24-next.Hour()) * time.Hour)
	}
	return next.Add(-time.Duration(next.Hour()) * time.Hour)
}
