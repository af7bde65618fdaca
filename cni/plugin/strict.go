package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// fields says where the fields of an object go: to what a pointer points at, or to a reader of their own.
//
// It takes the place of struct tags, because the library that reads them ignores what it does not know, matches names in any case, and
// spends a good part of a start on the types of fields that are not there.
type fields map[string]any

// of finds a field of the object at path. In what a runtime gives any case will do: containerd's port mappings have Go's names.
func (f fields) of(path, name string) (any, bool) {
	if to, ok := f[name]; ok || !strings.HasPrefix(path, "runtimeConfig") {
		return to, ok
	}
	for known, to := range f {
		if strings.EqualFold(known, name) {
			return to, true
		}
	}
	return nil, false
}

// reader takes a field's value; path names it for errors.
type reader func(path string, raw []byte) error

// object reads an object strictly: a field that it does not have is refused by its path, together with those that are allowed there; so is a
// value of another type.
func object(path string, raw []byte, known fields) error {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		if path == "" {
			return types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
		}
		return wrong("%s: %s is not an object", path, short(raw))
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		at := strings.TrimPrefix(path+"."+name, ".")
		to, ok := known.of(path, name)
		if !ok && strings.HasPrefix(name, "cni.dev/") {
			continue // the specification's own; a newer one may have more
		}
		if !ok {
			return unsupported(at, values[name], known)
		}
		read, ok := to.(reader)
		if !ok {
			read = into(to)
		}
		if err := read(at, values[name]); err != nil {
			return err
		}
	}
	return nil
}

func unsupported(path string, raw []byte, known fields) error {
	var allowed []string
	for name := range known {
		if !strings.HasPrefix(name, "cni.dev/") {
			allowed = append(allowed, name)
		}
	}
	slices.Sort(allowed)
	return types.NewError(types.ErrUnsupportedField,
		fmt.Sprintf("unsupported field %s with value %s", path, short(raw)), "allowed are "+strings.Join(allowed, ", "))
}

// list reads a list, each element with a reader of its own.
func list(each reader) reader {
	return func(path string, raw []byte) error {
		var values []json.RawMessage
		if json.Unmarshal(raw, &values) != nil {
			return wrong("%s: %s is not a list", path, short(raw))
		}
		for i, v := range values {
			if err := each(fmt.Sprintf("%s[%d]", path, i), v); err != nil {
				return err
			}
		}
		return nil
	}
}

// objects reads a list of objects, each into a new element of out.
func objects[T any](out *[]T, known func(*T) fields) reader {
	return list(func(path string, raw []byte) error {
		var element T
		if err := object(path, raw, known(&element)); err != nil {
			return err
		}
		*out = append(*out, element)
		return nil
	})
}

// part reads an object.
func part(known fields) reader {
	return func(path string, raw []byte) error { return object(path, raw, known) }
}

func into(to any) reader {
	return func(path string, raw []byte) error {
		err := json.Unmarshal(raw, to)
		if mismatch := (*json.UnmarshalTypeError)(nil); errors.As(err, &mismatch) {
			return wrong("%s: %s, where %s is wanted", path, mismatch.Value, kindOf(mismatch.Type))
		}
		if err != nil {
			return wrong("%s: %v", path, err)
		}
		return nil
	}
}

func wrong(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "network configuration is not valid", fmt.Sprintf(format, args...))
}

func short(raw []byte) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) > 40 {
		return string(raw[:40]) + "..."
	}
	return string(raw)
}

func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Uint64:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	default:
		return "a string"
	}
}
