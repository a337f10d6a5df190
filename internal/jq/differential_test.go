package jq

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"ferry/internal/jsonscan"

	"github.com/itchyny/gojq"
)

// reference is what gojq itself gives for a program and an input, decoded and encoded by encoding/json and gojq.
type reference struct{ code *gojq.Code }

func newReference(t testing.TB, src string) reference {
	t.Helper()
	q, err := gojq.Parse(src)
	if err != nil {
		t.Fatalf("parse %s: %v", src, err)
	}
	code, err := gojq.Compile(q)
	if err != nil {
		t.Fatalf("compile %s: %v", src, err)
	}
	return reference{code}
}

func (r reference) run(in []byte) (results []string, failure string) {
	results, failure = r.runOn(in, false)
	if strings.HasPrefix(failure, "invalid path") {
		// gojq tells whether a path still leads into its input by comparing values, to which the int 1 and the
		// json.Number 1 are not the same.
		return r.runOn(in, true)
	}
	return results, failure
}

// runOn runs the program on the input, with small integers as ints or with all numbers as json.Number.
func (r reference) runOn(in []byte, ints bool) (results []string, failure string) {
	d := json.NewDecoder(bytes.NewReader(in))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, "decode: " + err.Error()
	}
	if ints {
		v = withInts(v)
	}
	steps := stepContext{Context: context.Background(), left: 200 * stepsPerLook}
	for iter := r.code.RunWithContext(&steps, v); ; {
		v, ok := iter.Next()
		if !ok {
			return results, ""
		}
		if err, ok := v.(error); ok {
			if steps.over != nil {
				return nil, "endless"
			}
			return nil, err.Error()
		}
		b, err := gojq.Marshal(v)
		if err != nil {
			return nil, err.Error()
		}
		results = append(results, string(b))
		if len(results) > 1000 {
			return nil, "endless"
		}
	}
}

func withInts(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.Atoi(v.String()); err == nil && strconv.Itoa(n) == v.String() && n != 0 {
			return n
		}
	case []any:
		for i := range v {
			v[i] = withInts(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = withInts(v[k])
		}
	}
	return v
}

// compare holds a Program against the reference in all its ways to run.
func compare(t testing.TB, ref reference, p *Program, in []byte) {
	t.Helper()
	if jsonscan.Valid(in, jsonscan.MaxDepth) != nil {
		return
	}
	want, failure := ref.run(in)
	if failure == "endless" {
		return
	}
	before := bytes.Clone(in)
	dst, ends, err := p.Append(context.Background(), []byte("prefix"), []int{-1}, in)
	for i := range in { // results must not alias the input
		in[i] = 'x'
	}
	defer copy(in, before)
	if failure != "" {
		if err == nil || err.Error() != failure {
			t.Fatalf("%s on %s\n got error %v\nwant %s", p, before, err, failure)
		}
		if string(dst) != "prefix" || len(ends) != 1 {
			t.Fatalf("%s on %s: an error left %q %v", p, before, dst, ends)
		}
		return
	}
	if err != nil {
		t.Fatalf("%s on %s: %v, want %s", p, before, err, want)
	}
	var got []string
	start := len("prefix")
	for _, end := range ends[1:] {
		got = append(got, string(dst[start:end]))
		start = end
	}
	if start != len(dst) || fmt.Sprint(got) != fmt.Sprint(want) || len(got) != len(want) {
		t.Fatalf("%s on %s\n got %q\nwant %q", p, before, got, want)
	}
	copy(in, before)
	one, found, err := p.One(context.Background(), in)
	if err != nil || found != (len(want) > 0) || found && string(one) != want[0] {
		t.Fatalf("%s on %s: One = %s, %v, %v; want %q", p, before, one, found, err, want)
	}
	truth := false
	for _, w := range want {
		truth = truth || w != "null" && w != "false"
	}
	if test, err := p.Test(context.Background(), in); err != nil || test != truth && !hasNaN(ref, in) {
		t.Fatalf("%s on %s: Test = %v, %v; want %v of %q", p, before, test, err, truth, want)
	}
}

// hasNaN: not-a-number is written as null, but is not null to a condition.
func hasNaN(r reference, in []byte) bool {
	d := json.NewDecoder(bytes.NewReader(in))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return false
	}
	for iter := r.code.Run(v); ; {
		v, ok := iter.Next()
		if !ok {
			return false
		}
		if f, ok := v.(float64); ok && f != f {
			return true
		}
	}
}
