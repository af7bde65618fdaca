// Package modes chooses how a node translates services, and says why not otherwise. Its kernel tests run the suite of package proxytest for every
// mode.
package modes

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/orlop-io/orlop/proxy"
)

// Passed is a mode that was not taken, and why.
type Passed struct {
	Mode string
	Why  error
}

// Broken is an error that is no reason for another mode: the kernel can do this one.
type Broken struct{ Err error }

func (b Broken) Error() string { return b.Err.Error() }

// Unwrap returns the error.
func (b Broken) Unwrap() error { return b.Err }

// ErrIPVS says what to write in place of kube-proxy's mode ipvs.
var ErrIPVS = errors.New(`--proxy-mode=ipvs is not supported, as upstream has deprecated it and takes it away: give "nftables", which has its speed, or leave the flag out for the best that this kernel can`)

// Choose opens the mode that is wanted, or, if none is, the first that opens: open returns an error that says what is missing, or Broken.
func Choose[B any](want string, open func(mode string) (B, error)) (b B, mode string, passed []Passed, err error) {
	switch {
	case want == "ipvs":
		return b, "", nil, ErrIPVS
	case want != "" && !slices.Contains(proxy.Modes(), want):
		return b, "", nil, fmt.Errorf("--proxy-mode=%s is not known: give one of %s, or leave it out for the first of them that this kernel can", want, strings.Join(proxy.Modes(), ", "))
	case want != "":
		if b, err = open(want); err != nil {
			return b, "", nil, fmt.Errorf("--proxy-mode=%s: %w", want, err)
		}
		return b, want, nil, nil
	}
	for _, mode := range proxy.Modes() {
		b, err := open(mode)
		if err == nil {
			return b, mode, passed, nil
		}
		if _, broken := errors.AsType[Broken](err); broken {
			return b, "", passed, fmt.Errorf("mode %s: %w", mode, err)
		}
		passed = append(passed, Passed{mode, err})
	}
	var errs []error
	for _, p := range passed {
		errs = append(errs, fmt.Errorf("%s: %w", p.Mode, p.Why))
	}
	return b, "", passed, fmt.Errorf("services cannot be translated on this node: %w", errors.Join(errs...))
}
