package config

import (
	"encoding"
	"fmt"
	"reflect"

	"github.com/goccy/go-yaml"
)

// Redacted gives the effective configuration as YAML, defaults filled in and secrets hidden (invariant 8): what
// `ferry check --show` prints. Keys that are not set and have no default are left out, and so is defaults, which is
// part of every pipeline by then.
func (c *Config) Redacted() ([]byte, error) {
	tree, _ := shown(reflect.ValueOf(*c))
	out, err := yaml.MarshalWithOptions(tree, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return out, nil
}

// RedactedTree is what Redacted prints as plain maps, for encoders that do not know YAML's.
func (c *Config) RedactedTree() any {
	tree, _ := shown(reflect.ValueOf(*c))
	return plain(tree)
}

func plain(tree any) any {
	switch t := tree.(type) {
	case yaml.MapSlice:
		out := make(map[string]any, len(t))
		for _, item := range t {
			out[item.Key.(string)] = plain(item.Value)
		}
		return out
	case map[string]any:
		for key, v := range t {
			t[key] = plain(v)
		}
	case []any:
		for i, v := range t {
			t[i] = plain(v)
		}
	}
	return tree
}

// shown turns a value into what the YAML encoder prints; ok is false for what is to be left out.
func shown(v reflect.Value) (tree any, ok bool) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil, false
		}
		v = v.Elem()
	}
	t := v.Type()
	if text, ok := reflect.TypeAssert[encoding.TextMarshaler](v); ok {
		if v.IsZero() && shapeOf(t) != typedShape {
			return nil, false
		}
		out, _ := text.MarshalText() // the types of this package never fail
		return string(out), len(out) > 0
	}
	if p, ok := reflect.TypeAssert[Params](v); ok {
		return p.shown(), len(p) > 0
	}
	switch shapeOf(t) {
	case unionShape:
		if p, ok := reflect.TypeAssert[Paginate](v); ok && p.Word != "" {
			return p.Word, true
		}
		if none := v.FieldByName("None"); none.IsValid() && none.Bool() {
			return "none", true
		}
		return shownFields(v, false)
	case structShape:
		return shownFields(v, true)
	case mapShape:
		if v.Type().Key().Kind() == reflect.Int {
			return v.Interface(), v.Len() > 0
		}
		out := make(map[string]any, v.Len())
		for iter := v.MapRange(); iter.Next(); {
			if one, ok := shown(iter.Value()); ok {
				out[iter.Key().String()] = one
			}
		}
		return out, len(out) > 0
	case listShape:
		var out []any
		for i := range v.Len() {
			one, _ := shown(v.Index(i))
			out = append(out, one)
		}
		return out, len(out) > 0
	}
	return v.Interface(), !v.IsZero()
}

func shownFields(v reflect.Value, defaults bool) (any, bool) {
	var out yaml.MapSlice
	for _, f := range fieldsOf(v.Type()) {
		field := v.Field(f.index)
		if f.typ == reflect.TypeFor[Defaults]() || field.IsZero() && (f.def == "" || !defaults) {
			continue
		}
		if f.address {
			field = reflect.ValueOf(hideQuery(field.String()))
		}
		if one, ok := shown(field); ok || field.IsZero() && f.def != "" {
			out = append(out, yaml.MapItem{Key: f.key, Value: one})
		}
	}
	return out, len(out) > 0
}
