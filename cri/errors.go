package cri

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What callers branch on; every error of this package that has such a cause wraps it.
var (
	// ErrNotFound: the runtime has no such sandbox, container or image.
	ErrNotFound = errors.New("not found in runtime")
	// ErrUnavailable: the runtime does not answer; it may be restarting.
	ErrUnavailable = errors.New("runtime unavailable")
	// ErrUnimplemented: this runtime does not have the call.
	ErrUnimplemented = errors.New("not implemented by runtime")
	// ErrTimeout: the call's time limit passed; what was asked for may still happen.
	ErrTimeout = errors.New("runtime did not answer in time")
)

// errHeld: something that the call found keeps it from being done.
var errHeld = errors.New("held")

// callError is what the runtime said, with the sentinel it amounts to (nil if none).
type callError struct {
	kind error
	said string
}

func (e *callError) Error() string {
	if e.kind == nil || e.kind == errHeld { // which is for this package
		return e.said
	}
	if e.said == "" {
		return e.kind.Error()
	}
	return e.kind.Error() + ": " + e.said
}

func (e *callError) Unwrap() error { return e.kind }

// Words are what the runtime itself said, without our account of the call: texts for users, where upstream has them so,
// must not differ from one try to the next by an id.
func Words(err error) string {
	if e, ok := errors.AsType[*callError](err); ok && e.said != "" {
		return e.said
	}
	return err.Error()
}

// wrap turns the answer to one call into our errors, naming act and object.
func wrap(act, object string, err error) error {
	if err == nil {
		return nil
	}
	st, _ := status.FromError(err)
	e := &callError{said: st.Message()}
	switch st.Code() {
	case codes.NotFound:
		e.kind = ErrNotFound
	case codes.Unavailable:
		e.kind = ErrUnavailable
	case codes.Unimplemented:
		e.kind = ErrUnimplemented
	case codes.DeadlineExceeded:
		e.kind = ErrTimeout
	case codes.FailedPrecondition:
		e.kind = errHeld
	}
	if object == "" {
		return fmt.Errorf("%s: %w", act, e)
	}
	return fmt.Errorf("%s %s: %w", act, object, e)
}

// gone makes success of ErrNotFound, for calls that stop or remove.
func gone(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
