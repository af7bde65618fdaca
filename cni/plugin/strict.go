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

// strictly decodes data into v, which points to a struct. A field that v does not have is refused by its path, together with those that
// are allowed there; so is a value of another type. Names of fields count as they are written.
func strictly(data []byte, v any) error {
	if err := known("", data, reflect.TypeOf(v).Elem()); err != nil {
		return err
	}
	err := json.Unmarshal(data, v)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return types.NewError(types.ErrInvalidNetworkConfig, "network configuration is not valid",
			fmt.Sprintf("%s: %s, where %s is wanted", field(wrong), wrong.Value, article(wrong.Type)))
	}
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
	}
	return nil
}

// known walks the objects of data and compares their fields with those of t.
func known(path string, data []byte, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		var list []json.RawMessage
		if json.Unmarshal(data, &list) != nil {
			return nil // of another type: the decoder tells it better
		}
		for i, e := range list {
			if err := known(fmt.Sprintf("%s[%d]", path, i), e, t.Elem()); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Struct:
		return knownStruct(path, data, t)
	}
	return nil
}

func knownStruct(path string, data []byte, t reflect.Type) error {
	allowed := fieldsOf(t)
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		if path != "" && json.Valid(data) {
			return nil // of another type
		}
		return types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
	}
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name, "cni.dev/") && allowed[name] == nil {
			continue // the specification's own; a newer one may have more
		}
		at := strings.TrimPrefix(path+"."+name, ".")
		if allowed[name] == nil {
			var list []string
			for a := range allowed {
				list = append(list, a)
			}
			slices.Sort(list)
			value := string(bytes.TrimSpace(object[name]))
			if len(value) > 40 {
				value = value[:40] + "..."
			}
			return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("unsupported field %s with value %s", at, value), "allowed are "+strings.Join(list, ", "))
		}
		if err := known(at, object[name], allowed[name]); err != nil {
			return err
		}
	}
	return nil
}

// fieldsOf names a struct's fields as JSON does, embedded structs' among them.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "":
			for n, ft := range fieldsOf(f.Type) {
				if _, own := out[n]; !own {
					out[n] = ft
				}
			}
		default:
			out[name] = f.Type
		}
	}
	return out
}

func field(e *json.UnmarshalTypeError) string {
	if e.Field == "" {
		return "the whole"
	}
	return e.Field
}

func article(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Uint, reflect.Uint16, reflect.Uint8, reflect.Uint32:
		return "a whole number"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	default:
		return t.String()
	}
}
