package jq

import (
	"errors"
	"iter"
	"math"
	"strconv"

	"ferry/internal/jsonscan"

	"github.com/itchyny/gojq"
)

// Path is a jq program of the simplest kind: keys, indexes and [] after each other, such as .a.b, .["x y"], .a[0],
// .data[] or the identity. It reads raw bytes without decoding them. The zero Path is the identity. Safe for concurrent
// use.
type Path struct {
	src   string
	steps []jsonscan.Step
}

// ParsePath parses a path. Its error is a *CompileError; IsNotPath tells a program that is good jq but no simple path,
// and for which the caller may take Compile, from one that is wrong.
func ParsePath(src string) (Path, error) {
	q, err := parse(src)
	if err != nil {
		return Path{}, err
	}
	steps, ok := pathOf(q)
	if !ok {
		return Path{}, &CompileError{src: src, notPath: true, msg: "not a simple path; write one such as .data[], .meta.next or .[\"a key\"][0]"}
	}
	return Path{src: src, steps: steps}, nil
}

// CheckPath says what ParsePath would say of src.
func CheckPath(src string) error {
	_, err := ParsePath(src)
	return err
}

// String is the path as it was written.
func (p Path) String() string {
	if p.src == "" {
		return "."
	}
	return p.src
}

// Steps of the path; not to be changed.
func (p Path) Steps() []jsonscan.Step { return p.steps }

// Get returns the raw bytes at the path, which are part of in. found is false where jq would give null because a key or
// index is not there, or no result because a [] meets an empty array. Of a path with [] it is the first element's.
//
// Get reads and validates all of in; errors are those of jsonscan.Get.
func (p Path) Get(in []byte) (value []byte, found bool, err error) { return jsonscan.Get(in, p.steps) }

// All goes through the raw bytes at the path, in order: one for a path without [], one for every element with it. What is
// not there is left out. in must be one valid JSON value; a step that does not fit ends the walk with a
// *jsonscan.KindError.
func (p Path) All(in []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) { walkAll(in, p.steps, 0, yield) }
}

// walkAll returns false when the walk is to end.
func walkAll(in []byte, steps []jsonscan.Step, done int, yield func([]byte, error) bool) bool {
	each := done
	for each < len(steps) && !steps[each].Each {
		each++
	}
	v, found, err := jsonscan.Get(in, steps[done:each])
	if err != nil {
		return yield(nil, shift(err, done)) && false
	}
	if !found {
		return true
	}
	if each == len(steps) {
		return yield(v, nil)
	}
	switch kind := jsonscan.KindOf(v[0]); kind {
	case jsonscan.Array:
	case jsonscan.Null:
		return true
	default:
		return yield(nil, &jsonscan.KindError{Step: each, Want: jsonscan.Array, Got: kind}) && false
	}
	w := jsonscan.Walk(v, 0, jsonscan.MaxDepth)
	for w.Next() {
		if !walkAll(w.Value(), steps, each+1, yield) {
			return false
		}
	}
	return true
}

// shift counts the step of a KindError from the path's beginning.
func shift(err error, by int) error {
	if k, ok := errors.AsType[*jsonscan.KindError](err); ok {
		k.Step += by
	}
	return err
}

func hasEach(steps []jsonscan.Step) bool {
	for _, s := range steps {
		if s.Each {
			return true
		}
	}
	return false
}

// pathOf returns the steps of a query that is a simple path.
func pathOf(q *gojq.Query) ([]jsonscan.Step, bool) {
	if q.Term == nil || q.Meta != nil || len(q.Imports) > 0 || len(q.FuncDefs) > 0 {
		return nil, false
	}
	steps, rest, ok := leadingPath(q.Term)
	return steps, ok && rest == len(q.Term.SuffixList)
}

// leadingPath returns the steps with which a term begins that starts at its input, and how many of its suffixes they
// take up.
func leadingPath(t *gojq.Term) (steps []jsonscan.Step, suffixes int, ok bool) {
	switch t.Type {
	case gojq.TermTypeIdentity:
	case gojq.TermTypeIndex:
		s, ok := stepOf(t.Index)
		if !ok {
			return nil, 0, false
		}
		steps = append(steps, s)
	default:
		return nil, 0, false
	}
	for i, suffix := range t.SuffixList {
		switch {
		case suffix.Iter:
			steps = append(steps, jsonscan.Step{Each: true})
		case suffix.Index != nil:
			s, ok := stepOf(suffix.Index)
			if !ok {
				return steps, i, true
			}
			steps = append(steps, s)
		default:
			return steps, i, true
		}
	}
	return steps, len(t.SuffixList), true
}

// stepOf turns an index with a constant into a step.
func stepOf(x *gojq.Index) (jsonscan.Step, bool) {
	switch {
	case x.Name != "":
		return jsonscan.Step{Key: x.Name}, true
	case x.Str != nil:
		return jsonscan.Step{Key: x.Str.Str}, x.Str.Queries == nil
	case x.IsSlice || x.Start == nil || x.Start.Term == nil || len(x.Start.FuncDefs) > 0 || len(x.Start.Term.SuffixList) > 0:
		return jsonscan.Step{}, false
	}
	t, sign := x.Start.Term, 1
	if t.Type == gojq.TermTypeUnary && t.Unary.Op == gojq.OpSub && len(t.Unary.Term.SuffixList) == 0 {
		t, sign = t.Unary.Term, -1
	}
	switch t.Type {
	case gojq.TermTypeString:
		return jsonscan.Step{Key: t.Str.Str}, t.Str.Queries == nil && sign == 1
	case gojq.TermTypeNumber:
		n, err := strconv.Atoi(t.Number)
		return jsonscan.Step{Index: sign * n, IsIndex: true}, err == nil && n <= math.MaxInt32
	}
	return jsonscan.Step{}, false
}
