package config

import (
	"encoding"
	"reflect"
	"strings"
)

// A field is one key of a struct with what its tags say.
type field struct {
	index    int
	typ      reflect.Type
	key      string
	doc      string
	def      string // default as typed; "" for none
	example  string
	min, max string
	check    string
	enum     []string
	required bool
	address  bool // of an API: its query may hold secrets
}

// fieldsOf reads a struct's keys, in the order in which they are declared.
func fieldsOf(t reflect.Type) []field {
	fields := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		one := field{
			index: i, typ: f.Type, key: key,
			doc: f.Tag.Get("doc"), def: f.Tag.Get("default"), example: f.Tag.Get("example"),
			min: f.Tag.Get("min"), max: f.Tag.Get("max"), check: f.Tag.Get("check"),
			required: f.Tag.Get("required") == "true", address: f.Tag.Get("address") == "true",
		}
		if enum := f.Tag.Get("enum"); enum != "" {
			one.enum = strings.Split(enum, "|")
		}
		fields = append(fields, one)
	}
	return fields
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range fieldsOf(t) {
		keys = append(keys, f.key)
	}
	return keys
}

func fieldOf(t reflect.Type, key string) (field, bool) {
	for _, f := range fieldsOf(t) {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}

// A shape is how the values of a type are typed.
type shape int

const (
	textShape    shape = iota // string, Secret, URL
	boolShape                 // true or false
	intShape                  // a whole number
	floatShape                // a number
	typedShape                // Duration, Bytes, Rate
	bodyShape                 // anything
	structShape               // a mapping with known keys
	unionShape                // one of some words, or a mapping with exactly one of its keys
	mapShape                  // a mapping with keys of one's own
	listShape                 // a list
	unknownShape              // nothing that a configuration may hold
)

var (
	typedType  = reflect.TypeFor[encoding.TextUnmarshaler]()
	bodyType   = reflect.TypeFor[Body]()
	configType = reflect.TypeFor[Config]()
	sourceType = reflect.TypeFor[Source]()
	secretType = reflect.TypeFor[Secret]()
	paramsType = reflect.TypeFor[Params]()
)

// unions are the structs of which exactly one key is set, with the words that may be typed in their place.
var unions = map[reflect.Type][]string{
	reflect.TypeFor[Auth]():       {"none"},
	reflect.TypeFor[SourceAuth](): {"none"},
	reflect.TypeFor[Paginate]():   {"none", "auto", "link_header"},
	reflect.TypeFor[Step]():       nil,
}

func shapeOf(t reflect.Type) shape {
	switch {
	case t == bodyType:
		return bodyShape
	case reflect.PointerTo(t).Implements(typedType):
		return typedShape
	}
	switch t.Kind() {
	case reflect.String:
		return textShape
	case reflect.Bool:
		return boolShape
	case reflect.Int:
		return intShape
	case reflect.Float64:
		return floatShape
	case reflect.Pointer:
		return shapeOf(t.Elem())
	case reflect.Struct:
		if _, ok := unions[t]; ok {
			return unionShape
		}
		return structShape
	case reflect.Map:
		return mapShape
	case reflect.Slice:
		return listShape
	}
	return unknownShape
}

// isScalar tells whether a variable's text is the value itself, not YAML.
func (s shape) isScalar() bool { return s <= typedShape }

// deref is the type behind a pointer.
func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// under gives the type of a key within a struct or map; ok is false where there is no such key.
func under(t reflect.Type, key string) (reflect.Type, bool) {
	switch t = deref(t); shapeOf(t) {
	case mapShape:
		return t.Elem(), true
	case structShape, unionShape:
		if f, ok := fieldOf(t, key); ok {
			return f.typ, true
		}
	}
	return nil, false
}
