package config

import (
	_ "embed"
	"fmt"
	"reflect"
	"strings"
)

//go:embed reference.md
var referenceProse string

// Reference gives docs/configuration.md: what the prose in reference.md says, and every key with its type, default,
// variable and meaning.
func Reference() []byte {
	var b strings.Builder
	b.WriteString(referenceProse)
	writeSection(&b, configType, nil)
	return []byte(b.String())
}

// writeSection writes the table of a struct's keys, and then the sections of the structs below it.
func writeSection(b *strings.Builder, t reflect.Type, keys []string) {
	title := "The top"
	if len(keys) > 0 {
		title = "`" + strings.Join(keys, ".") + "`"
	}
	fmt.Fprintf(b, "\n## %s\n\n", title)
	if words, union := unions[t]; union {
		fmt.Fprintf(b, "Exactly one of these keys")
		if len(words) > 0 {
			fmt.Fprintf(b, ", or in their place: `%s`", strings.Join(words, "`, `"))
		}
		b.WriteString(".\n\n")
	}
	b.WriteString("| key | value | default | meaning |\n|---|---|---|---|\n")
	type section struct {
		t    reflect.Type
		keys []string
	}
	var below []section
	for _, f := range fieldsOf(t) {
		path := append(append([]string{}, keys...), f.key)
		inner, at := sectionOf(f.typ, path)
		if inner != nil {
			below = append(below, section{inner, at})
		}
		def := ""
		switch {
		case f.required:
			def = "required"
		case f.def != "":
			def = code(f.def)
		}
		doc := f.doc
		if f.example != "" {
			doc += " Example: " + code(f.example) + "."
		}
		if bounds := boundsOf(f); bounds != "" {
			doc += " " + bounds
		}
		// What is in a list has no variable of its own, and a reserved name means something else.
		if name := variableName(path...); !strings.Contains(title, "[]") && !reserved(name) {
			doc += " " + code(name) + "."
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", code(f.key), escape(valueName(f)), def, escape(doc))
	}
	for _, s := range below {
		if s.t == sourceType && s.keys[0] == "defaults" {
			continue // the same keys as in a pipeline
		}
		writeSection(b, s.t, s.keys)
	}
}

// sectionOf gives the struct that a field holds, and where.
func sectionOf(t reflect.Type, path []string) (reflect.Type, []string) {
	t = deref(t)
	switch shapeOf(t) {
	case structShape, unionShape:
		return t, path
	case mapShape:
		if inner := deref(t.Elem()); inner.Kind() == reflect.Struct && shapeOf(inner) == structShape {
			return inner, append(path, "NAME")
		}
	case listShape:
		if inner := deref(t.Elem()); inner.Kind() == reflect.Struct {
			list := append([]string{}, path...)
			list[len(list)-1] += "[]"
			return inner, list
		}
	}
	return nil, nil
}

func valueName(f field) string {
	if len(f.enum) > 0 && f.typ.Kind() == reflect.String {
		return code(strings.Join(f.enum, "` `"))
	}
	t := deref(f.typ)
	switch {
	case t == secretType:
		return "secret"
	case t == reflect.TypeFor[URL]():
		return "address"
	case t == bodyType:
		return "mapping or text"
	case shapeOf(t) == mapShape && len(f.enum) > 0:
		return "mapping to " + code(strings.Join(f.enum, "` `"))
	}
	for _, article := range []string{"a ", "an "} {
		if name, ok := strings.CutPrefix(nameOf(t), article); ok {
			return name
		}
	}
	return nameOf(t)
}

func boundsOf(f field) string {
	switch {
	case f.min != "" && f.max != "":
		return "From " + f.min + " to " + f.max + "."
	case f.min != "":
		return "At least " + f.min + "."
	case f.max != "":
		return "At most " + f.max + "."
	}
	return ""
}

func code(text string) string { return "`" + escape(text) + "`" }

// escape keeps a bar from ending a table's cell.
func escape(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, `\|`, "|"), "|", `\|`)
}

// exampleOf is a value to show for a key, as it can be typed anywhere.
func exampleOf(f field) string {
	switch {
	case f.example == "":
		return "…"
	case strings.HasPrefix(f.example, "${"):
		return `"` + f.example + `"`
	}
	return f.example
}
