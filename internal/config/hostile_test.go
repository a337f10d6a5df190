package config_test

import (
	"fmt"
	"strings"
	"testing"

	"ferry/internal/config"
)

// TestHostileFiles gives the loader what breaks parsers: it must come back with an error, not with a stack overflow
// (which no test survives) or gigabytes.
func TestHostileFiles(t *testing.T) {
	const size = 50_000 // bytes, about
	repeat := func(text string) string { return strings.Repeat(text, size/len(text)) }
	var stairs, bomb, merged strings.Builder
	for i := 0; stairs.Len() < size; i++ {
		stairs.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	bomb.WriteString("a0: &a0 x\n")
	for i := range 30 {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i)
	}
	merged.WriteString("defaults: {source: {get: 'http://a', query: {")
	for i := range 1_000 {
		fmt.Fprintf(&merged, "q%d: 1, ", i)
	}
	merged.WriteString("}}}\npipelines: {")
	for i := range 2_000 {
		fmt.Fprintf(&merged, "p%d: {}, ", i)
	}
	merged.WriteString("}\n")
	for name, src := range map[string]string{
		"brackets":           repeat("["),
		"braces":             repeat("{"),
		"braces with keys":   repeat("{a: "),
		"dashes":             repeat("- "),
		"questions":          repeat("? "),
		"questions, dashes":  repeat("- ? "),
		"colons":             repeat("a: "),
		"anchors":            "a: " + repeat("&a "),
		"tags":               "a: " + repeat("!a "),
		"documents":          repeat("---\na: 1\n"),
		"stairs":             stairs.String(),
		"stairs of lists":    strings.ReplaceAll(stairs.String(), "a:", "-"),
		"alias bomb":         bomb.String(),
		"bomb of defaults":   merged.String(),
		"the same key":       repeat("a: 1\n"),
		"unknown keys":       repeat("a: 1\nb: 2\nc: 3\n"),
		"quotes":             repeat(`"`),
		"open quote":         `a: "` + repeat("x\n"),
		"references":         "data: " + repeat("${A"),
		"NULs":               repeat("\x00"),
		"pipes":              "a: " + repeat("|\n"),
		"empty pipelines":    "pipelines: {" + repeat("a: , ") + "}",
		"byte order marks":   repeat("\ufeff"),
		"percent directives": repeat("%YAML 1.2\n"),
		"document ends":      repeat("a: 1\n...\n"),
		"keys between { }":   "{" + repeat("a: 1, ") + "}",
		"long keys":          repeat("\"a\": ") + "1",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := config.Parse([]byte(src), "ferry.yaml", config.Options{}); err == nil {
				t.Error("it is taken")
			} else if len(err.Error()) > 100_000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

// TestManySmallMappings: the bound on the keys of a mapping does not add up over many of them.
func TestManySmallMappings(t *testing.T) {
	var src strings.Builder
	src.WriteString("auth:\n  keys:\n")
	for i := range 1500 {
		fmt.Fprintf(&src, "  - name: n%d\n    key: key-%016d\n", i, i)
	}
	src.WriteString("pipelines:\n")
	for i := range 700 {
		fmt.Fprintf(&src, "  p%d:\n    every: 5m\n    source:\n      base: http://127.0.0.1\n      get: /\n", i)
	}
	if c := parse(t, src.String()); len(c.Auth.Keys) != 1500 || len(c.Pipelines) != 700 {
		t.Errorf("%d keys, %d pipelines", len(c.Auth.Keys), len(c.Pipelines))
	}
}
