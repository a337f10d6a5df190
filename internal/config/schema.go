package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// object is a JSON object; encoding/json sorts its keys, which makes the schema the same at every run.
type object = map[string]any

// Patterns of what is typed in a form of its own. Every value may come from ${…} instead.
const (
	referencePattern = `\$\{[^}]+\}`
	durationPattern  = `^([0-9]+d)?([0-9.]+(ns|us|µs|ms|s|m|h))*$|^0$`
	bytesPattern     = `^[0-9.]+ ?([KMGT]i?B|B)?$`
	ratePattern      = `^[0-9.]+ ?/ ?[smhd]$`
)

// Schema gives the JSON Schema (2020-12) of the configuration file, for editors. It refuses nothing that Load takes:
// no key is required where a variable may supply it, and every value may be a ${…}.
func Schema() []byte {
	defs := object{}
	root := schemaOf(configType, field{}, defs)
	root = defs[strings.TrimPrefix(root["$ref"].(string), "#/$defs/")].(object)
	delete(defs, configType.Name())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "ferry configuration"
	root["$defs"] = defs
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: schema: %v", err)) // it is made of maps, lists and strings only
	}
	return append(out, '\n')
}

func schemaOf(t reflect.Type, f field, defs object) object {
	t = deref(t)
	reference := object{"type": "string", "pattern": referencePattern}
	or := func(one object) object { return object{"anyOf": []any{one, reference}} }
	switch shapeOf(t) {
	case structShape, unionShape:
		define(t, defs)
		return object{"$ref": "#/$defs/" + t.Name()}
	case mapShape:
		out := object{"type": []any{"object", "null"}, "additionalProperties": schemaOf(t.Elem(), field{enum: f.enum}, defs)}
		switch {
		case t.Key().Kind() == reflect.Int:
			out["propertyNames"] = object{"pattern": "^[1-5][0-9][0-9]$"}
		case t == configType.Field(pipelinesIndex()).Type:
			out["propertyNames"] = object{"pattern": pipelineName.String()}
		}
		return out
	case listShape:
		return object{"type": []any{"array", "null"}, "items": schemaOf(t.Elem(), field{}, defs)}
	case bodyShape:
		return object{} // anything
	case boolShape:
		return or(object{"type": []any{"boolean", "null"}})
	case intShape:
		return or(bounded(object{"type": []any{"integer", "null"}}, f))
	case floatShape:
		return or(bounded(object{"type": []any{"number", "null"}}, f))
	case typedShape:
		return typedSchema(t, or)
	}
	if len(f.enum) > 0 {
		return or(object{"enum": words2any(f.enum)})
	}
	// What looks like a number or a boolean is the text that was typed.
	return object{"type": []any{"string", "number", "boolean", "null"}}
}

func typedSchema(t reflect.Type, or func(object) object) object {
	text := func(pattern string) object {
		return or(object{"type": []any{"string", "null"}, "pattern": pattern})
	}
	switch t {
	case durationType:
		zero := object{"const": 0}
		return object{"anyOf": append(text(durationPattern)["anyOf"].([]any), zero)}
	case rateType:
		return text(ratePattern)
	}
	return object{"anyOf": []any{
		object{"type": []any{"string", "null"}, "pattern": bytesPattern + "|" + referencePattern},
		object{"type": "integer", "minimum": 0},
	}}
}

func bounded(out object, f field) object {
	if f.min != "" {
		out["minimum"] = json.Number(f.min)
	}
	if f.max != "" {
		out["maximum"] = json.Number(f.max)
	}
	return out
}

// define adds a struct's schema to defs, once.
func define(t reflect.Type, defs object) {
	if _, done := defs[t.Name()]; done {
		return
	}
	properties := object{}
	out := object{"type": []any{"object", "null"}, "additionalProperties": false, "properties": properties}
	defs[t.Name()] = out
	var required []any
	for _, f := range fieldsOf(t) {
		one := schemaOf(f.typ, f, defs)
		one["description"] = f.doc
		if f.def != "" {
			one["default"] = typedValue(f.def, f.typ)
		}
		if f.example != "" {
			one["examples"] = []any{typedValue(f.example, f.typ)}
		}
		if f.required && t == reflect.TypeFor[APIKey]() { // only in lists can no variable supply it
			required = append(required, f.key)
		}
		properties[f.key] = one
	}
	if required != nil {
		out["required"] = required
	}
	words, union := unions[t]
	if !union {
		return
	}
	out["type"] = "object"
	out["minProperties"], out["maxProperties"] = 1, 1
	choices := []any{out, object{"type": "string", "pattern": referencePattern}, object{"type": "null"}}
	if len(words) > 0 {
		choices = append(choices, object{"enum": words2any(words)})
	}
	defs[t.Name()] = object{"anyOf": choices}
}

// typedValue gives a default or example as the JSON value that an editor would insert.
func typedValue(text string, t reflect.Type) any {
	switch shapeOf(t) {
	case boolShape, intShape, floatShape:
		if json.Valid([]byte(text)) {
			return json.Number(text)
		}
	case mapShape, listShape:
		p := problems{}
		if n := readYAML(text, place{src: &source{}}, false, &p); n != nil && len(p.list) == 0 {
			return plainValue(n)
		}
	}
	return text
}

func plainValue(n *node) any {
	switch n.kind {
	case mapping:
		out := object{}
		for _, e := range n.entries {
			out[e.key] = plainValue(e.value)
		}
		return out
	case sequence:
		out := []any{}
		for _, item := range n.items {
			out = append(out, plainValue(item))
		}
		return out
	}
	if number, err := strconv.Atoi(n.text); err == nil && n.plain {
		return number
	}
	return n.text
}

func words2any(words []string) []any {
	out := make([]any, len(words))
	for i, word := range words {
		out[i] = word
	}
	return out
}

func pipelinesIndex() int {
	f, _ := fieldOf(configType, "pipelines")
	return f.index
}
