package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/orlop-io/orlop/cni/jsonparts"
)

// fields says where the fields of an object go: to what a pointer points at, or to a reader of their own.
//
// It takes the place of struct tags, because the library that reads them ignores what it does not know, matches names in any case, and
// spends a good part of a start on the types of fields that are not there.
type fields []field

type field struct {
	name string
	to   any
}

// of finds a field of the object at path. In what a runtime gives any case will do: containerd's port mappings have Go's names.
func (f fields) of(path, name string) (any, bool) {
	for _, known := range f {
		if known.name == name {
			return known.to, true
		}
	}
	for _, known := range f {
		if strings.HasPrefix(path, "runtimeConfig") && strings.EqualFold(known.name, name) {
			return known.to, true
		}
	}
	return nil, false
}

// reader takes a field's value; path names it for errors.
type reader func(path string, raw []byte) error

// object reads an object strictly: a field that it does not have is refused by its path, together with those that are allowed there; so is a
// value of another type.
func object(path string, raw []byte, known fields) error {
	members, err := membersOf(raw)
	if err != nil {
		if path == "" {
			return types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
		}
		return wrong("%s: %s is not an object", path, short(raw))
	}
	slices.SortFunc(members, func(a, b jsonparts.Member) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range members {
		at := strings.TrimPrefix(path+"."+m.Name, ".")
		to, ok := known.of(path, m.Name)
		if !ok && strings.HasPrefix(m.Name, "cni.dev/") {
			continue // the specification's own; a newer one may have more
		}
		if !ok {
			return unsupported(at, m.Value, known)
		}
		read, ok := to.(reader)
		if !ok {
			read = into(to)
		}
		if err := read(at, m.Value); err != nil {
			return err
		}
	}
	return nil
}

// membersOf takes an object apart; null has no members.
func membersOf(raw []byte) ([]jsonparts.Member, error) {
	if members, ok := jsonparts.Members(raw); ok {
		return members, nil
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, err
	}
	members := make([]jsonparts.Member, 0, len(values))
	for name, value := range values {
		members = append(members, jsonparts.Member{Name: name, Value: value})
	}
	return members, nil
}

func unsupported(path string, raw []byte, known fields) error {
	var allowed []string
	for _, f := range known {
		if !strings.HasPrefix(f.name, "cni.dev/") {
			allowed = append(allowed, f.name)
		}
	}
	slices.Sort(allowed)
	return types.NewError(types.ErrUnsupportedField,
		fmt.Sprintf("unsupported field %s with value %s", path, short(raw)), "allowed are "+strings.Join(allowed, ", "))
}

// list reads a list, each element with a reader of its own.
func list(each reader) reader {
	return func(path string, raw []byte) error {
		values, ok := jsonparts.Elements(raw)
		if !ok {
			var others []json.RawMessage
			if json.Unmarshal(raw, &others) != nil {
				return wrong("%s: %s is not a list", path, short(raw))
			}
			for _, v := range others {
				values = append(values, v)
			}
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
func part(known func() fields) reader {
	return func(path string, raw []byte) error { return object(path, raw, known()) }
}

func into(to any) reader {
	return func(path string, raw []byte) error {
		if plain(to, raw) {
			return nil
		}
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

// plain sets what to points at if that and its value are of the kinds that most fields are of.
func plain(to any, raw []byte) (ok bool) {
	truth := string(raw) == "true"
	switch to := to.(type) {
	case *string:
		if text, ok := jsonparts.Text(raw); ok {
			*to = text
			return true
		}
	case *bool:
		if ok = truth || string(raw) == "false"; ok {
			*to = truth
		}
	case **bool:
		if ok = truth || string(raw) == "false"; ok {
			*to = &truth
		}
	case *int:
		if n, err := strconv.Atoi(string(raw)); err == nil && raw[0] != '+' {
			*to = n
			return true
		}
	case *json.RawMessage:
		*to = append((*to)[:0], raw...)
		return true
	case *[]string:
		if texts, ok := jsonparts.Texts(raw); ok {
			*to = texts
			return true
		}
	case *[]netip.Prefix:
		return plainPrefixes(to, raw)
	case *map[string]bool:
		return plainSwitches(to, raw)
	}
	return ok
}

func plainPrefixes(to *[]netip.Prefix, raw []byte) bool {
	texts, ok := jsonparts.Texts(raw)
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		p, err := netip.ParsePrefix(text)
		out[i], ok = p, ok && err == nil
	}
	if ok {
		*to = out
	}
	return ok
}

func plainSwitches(to *map[string]bool, raw []byte) bool {
	members, ok := jsonparts.Members(raw)
	out := make(map[string]bool, len(members))
	for _, m := range members {
		var on bool
		ok = ok && plain(&on, m.Value)
		out[m.Name] = on
	}
	if ok {
		*to = out
	}
	return ok
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
