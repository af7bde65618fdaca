package eviction

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Settings are thresholds as the kubelet's configuration has them.
type Settings struct {
	// Hard and Soft map signals to amounts such as 100Mi or 10%.
	Hard, Soft map[string]string
	// SoftGrace maps signals to durations, MinReclaim to amounts.
	SoftGrace, MinReclaim map[string]string
	// Merge keeps the default of every hard threshold that Hard does not name; without, naming one drops the others.
	Merge bool
	// Pods: the memory of all pods together is bounded, so that a hard threshold of memory counts below that bound too.
	Pods bool
}

// defaults are the hard thresholds of a configuration that names none.
func defaults() map[string]string {
	return map[string]string{
		string(MemoryAvailable): "100Mi", string(NodeFsAvailable): "10%", string(NodeFsInodes): "5%",
		string(ImageFsAvailable): "15%", string(ImageFsInodes): "5%",
	}
}

// Parse reads thresholds, hard ones first, in the order of their signals' names, and says all that is wrong with them.
func Parse(s Settings) ([]Threshold, error) {
	hard := s.Hard
	if len(hard) == 0 || s.Merge {
		hard = defaults()
		maps.Copy(hard, s.Hard)
	}
	var errs []error
	reclaim, err := amounts("evictionMinimumReclaim", s.MinReclaim)
	errs = append(errs, err)
	hardAmounts, err := amounts("evictionHard", hard)
	errs = append(errs, err)
	softAmounts, err := amounts("evictionSoft", s.Soft)
	errs = append(errs, err)
	var out []Threshold
	for _, signal := range slices.Sorted(maps.Keys(hardAmounts)) {
		out = append(out, Threshold{Signal: signal, Below: hardAmounts[signal], Reclaim: reclaim[signal]})
	}
	for _, signal := range slices.Sorted(maps.Keys(softAmounts)) {
		grace, err := softGrace(s.SoftGrace, signal)
		errs = append(errs, err)
		out = append(out, Threshold{Signal: signal, Below: softAmounts[signal], Grace: grace, Reclaim: reclaim[signal]})
	}
	for signal := range s.SoftGrace {
		if _, ok := s.Soft[signal]; !ok {
			errs = append(errs, fmt.Errorf("evictionSoftGracePeriod: %s has no threshold in evictionSoft", signal))
		}
	}
	for _, t := range out {
		if s.Pods && t.Signal == MemoryAvailable && t.Hard() {
			t.Signal = AllocatableMemory
			out = append(out, t)
		}
	}
	return out, errors.Join(errs...)
}

func softGrace(given map[string]string, signal Signal) (time.Duration, error) {
	text, ok := given[string(signal)]
	if !ok {
		return 0, fmt.Errorf("evictionSoft: grace period must be specified for the soft eviction threshold %s", signal)
	}
	grace, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("evictionSoftGracePeriod: %s: %w", signal, err)
	}
	if grace <= 0 {
		return 0, fmt.Errorf("evictionSoftGracePeriod: %s: %s is not above 0", signal, text)
	}
	return grace, nil
}

// amounts reads a map of signals; 0% and 100% switch a signal off.
func amounts(field string, in map[string]string) (map[Signal]Amount, error) {
	out := map[Signal]Amount{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(in)) {
		signal := Signal(name)
		if signal.urgency() < 0 || signal == AllocatableMemory {
			errs = append(errs, fmt.Errorf("%s: unknown eviction signal %q", field, name))
			continue
		}
		a, err := amount(in[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", field, name, err))
			continue
		}
		if a != (Amount{}) {
			out[signal] = a
		}
	}
	return out, errors.Join(errs...)
}

func amount(text string) (Amount, error) {
	if text == "0%" || text == "100%" {
		return Amount{}, nil
	}
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return Amount{}, fmt.Errorf("%q is not a percentage", text)
		}
		if percent < 0 || percent > 100 {
			return Amount{}, fmt.Errorf("eviction percentage threshold %s must be >= 0%% and <= 100%%", text)
		}
		return Amount{Share: percent / 100}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return Amount{}, fmt.Errorf("%q: %w", text, err)
	}
	if q.Sign() < 0 {
		return Amount{}, fmt.Errorf("eviction threshold %s must be positive", text)
	}
	return Amount{Number: q.Value()}, nil
}
