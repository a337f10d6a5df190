package jq

import (
	"slices"
	"strconv"

	"ferry/internal/jsonscan"

	"github.com/itchyny/gojq"
)

// rewriter makes of a query one that does not read its input: every path that starts there becomes a variable. It follows
// a query only where the input is certainly the same as the query's own, and where a path stands for its value (not for a
// place to assign to); whatever it does not follow gets the input itself as a variable: X becomes $v | X.
//
// It copies what it changes and leaves the tree it was given as it is.
type rewriter struct {
	slot func(path []jsonscan.Step) int
	vars []int // slots in use
}

func variableName(slot int) string { return variable + strconv.Itoa(slot) }

// value is a term for the value at path.
func (r *rewriter) value(path []jsonscan.Step) *gojq.Term {
	slot := r.slot(path)
	if !slices.Contains(r.vars, slot) {
		r.vars = append(r.vars, slot)
	}
	return &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: variableName(slot)}}
}

// given is the query $v | q.
func (r *rewriter) given(q *gojq.Query, at []jsonscan.Step) *gojq.Query {
	pipe := &gojq.Query{Left: &gojq.Query{Term: r.value(at)}, Op: gojq.OpPipe, Right: q}
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeQuery, Query: pipe}}
}

// query rewrites a query whose input is the value at the path.
func (r *rewriter) query(q *gojq.Query, at []jsonscan.Step) *gojq.Query {
	if q == nil {
		return nil
	}
	if len(q.FuncDefs) > 0 || !plainPatterns(q.Patterns) {
		return r.given(q, at)
	}
	if q.Term != nil {
		if t := r.term(q.Term, at); t != nil {
			return &gojq.Query{Term: t}
		}
		return r.given(q, at)
	}
	c := *q
	switch {
	case len(q.Patterns) > 0: // X as $v | Y
		c.Left, c.Right = r.query(q.Left, at), r.query(q.Right, at)
	case q.Op == gojq.OpPipe:
		if steps, ok := plainPath(q.Left); ok {
			at = join(at, steps)
			r.slot(at) // that it fits the record is checked even if nothing reads it
			return r.query(q.Right, at)
		}
		c.Left = r.query(q.Left, at)
	case isValueOperator(q.Op):
		c.Left, c.Right = r.query(q.Left, at), r.query(q.Right, at)
	default:
		return r.given(q, at)
	}
	return &c
}

func isValueOperator(op gojq.Operator) bool {
	switch op {
	case gojq.OpComma, gojq.OpAlt, gojq.OpAnd, gojq.OpOr, gojq.OpAdd, gojq.OpSub, gojq.OpMul, gojq.OpDiv, gojq.OpMod,
		gojq.OpEq, gojq.OpNe, gojq.OpGt, gojq.OpLt, gojq.OpGe, gojq.OpLe:
		return true
	}
	return false
}

// plainPatterns: at most one, whose keys are constants.
func plainPatterns(patterns []*gojq.Pattern) bool {
	if len(patterns) > 1 {
		return false
	}
	for _, p := range patterns {
		if !plainPattern(p) {
			return false
		}
	}
	return true
}

func plainPattern(p *gojq.Pattern) bool {
	for _, e := range p.Array {
		if !plainPattern(e) {
			return false
		}
	}
	for _, o := range p.Object {
		if o.KeyQuery != nil || o.KeyString != nil && o.KeyString.Queries != nil || o.Val != nil && !plainPattern(o.Val) {
			return false
		}
	}
	return true
}

// term rewrites a term, or returns nil for one that needs its input.
func (r *rewriter) term(t *gojq.Term, at []jsonscan.Step) *gojq.Term {
	c := *t
	suffixes := t.SuffixList
	switch t.Type {
	case gojq.TermTypeIdentity, gojq.TermTypeIndex:
		c, suffixes = r.path(t, at)
	case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber, gojq.TermTypeBreak:
	case gojq.TermTypeString:
		c.Str = r.string(t.Str, at)
	case gojq.TermTypeFormat:
		if t.Str == nil {
			return nil
		}
		c.Str = r.string(t.Str, at)
	case gojq.TermTypeFunc:
		if t.Func.Name[0] != '$' {
			return nil
		}
	case gojq.TermTypeQuery:
		c.Query = r.query(t.Query, at)
	case gojq.TermTypeArray:
		c.Array = &gojq.Array{Query: r.query(t.Array.Query, at)}
	case gojq.TermTypeObject:
		c.Object = r.object(t.Object, at)
	case gojq.TermTypeUnary:
		operand := r.query(&gojq.Query{Term: t.Unary.Term}, at)
		c.Unary = &gojq.Unary{Op: t.Unary.Op, Term: operand.Term}
	case gojq.TermTypeIf:
		c.If = r.conditional(t.If, at)
	case gojq.TermTypeTry:
		c.Try = &gojq.Try{Body: r.query(t.Try.Body, at), Catch: t.Try.Catch}
	case gojq.TermTypeReduce, gojq.TermTypeForeach:
		if !r.fold(&c, at) {
			return nil
		}
	case gojq.TermTypeLabel:
		c.Label = &gojq.Label{Ident: t.Label.Ident, Body: r.query(t.Label.Body, at)}
	default:
		return nil
	}
	c.SuffixList = make([]*gojq.Suffix, len(suffixes))
	for i, s := range suffixes {
		c.SuffixList[i] = &gojq.Suffix{Index: r.index(s.Index, at), Iter: s.Iter, Optional: s.Optional}
	}
	return &c
}

// path turns the plain beginning of a path into a variable and returns the suffixes that stay.
func (r *rewriter) path(t *gojq.Term, at []jsonscan.Step) (gojq.Term, []*gojq.Suffix) {
	steps, taken, ok := leadingPath(t)
	if !ok { // a computed index or a slice of the input: as a suffix of the input
		return *r.value(at), append([]*gojq.Suffix{{Index: t.Index}}, t.SuffixList...)
	}
	own := len(steps) - taken // 1 when the term's own index is a step
	plain := plainSteps(steps)
	if plain < own {
		return *r.value(at), append([]*gojq.Suffix{{Index: t.Index}}, t.SuffixList...)
	}
	return *r.value(join(at, steps[:plain])), t.SuffixList[plain-own:]
}

func (r *rewriter) index(x *gojq.Index, at []jsonscan.Step) *gojq.Index {
	if x == nil {
		return nil
	}
	c := *x
	c.Str = r.string(x.Str, at)
	c.Start, c.End = r.query(x.Start, at), r.query(x.End, at)
	return &c
}

func (r *rewriter) string(s *gojq.String, at []jsonscan.Step) *gojq.String {
	if s == nil || s.Queries == nil {
		return s
	}
	c := &gojq.String{Str: s.Str, Queries: make([]*gojq.Query, len(s.Queries))}
	for i, q := range s.Queries {
		c.Queries[i] = r.query(q, at)
	}
	return c
}

func (r *rewriter) object(o *gojq.Object, at []jsonscan.Step) *gojq.Object {
	c := &gojq.Object{KeyVals: make([]*gojq.ObjectKeyVal, len(o.KeyVals))}
	for i, kv := range o.KeyVals {
		m := *kv
		m.KeyString = r.string(kv.KeyString, at)
		m.KeyQuery = r.query(kv.KeyQuery, at)
		m.Val = r.query(kv.Val, at)
		if kv.Val == nil {
			if key, ok := constantKey(kv); ok {
				m.Val = &gojq.Query{Term: r.value(join(at, []jsonscan.Step{{Key: key}}))}
			} else if kv.KeyString != nil { // {"a\(.b)"}: the value's key is computed
				computed := &gojq.Suffix{Index: &gojq.Index{Str: m.KeyString}}
				term := r.value(at)
				term.SuffixList = []*gojq.Suffix{computed}
				m.Val = &gojq.Query{Term: term}
			}
		}
		c.KeyVals[i] = &m
	}
	return c
}

func (r *rewriter) conditional(x *gojq.If, at []jsonscan.Step) *gojq.If {
	c := &gojq.If{Cond: r.query(x.Cond, at), Then: r.query(x.Then, at), Else: r.query(x.Else, at)}
	for _, e := range x.Elif {
		c.Elif = append(c.Elif, &gojq.IfElif{Cond: r.query(e.Cond, at), Then: r.query(e.Then, at)})
	}
	if c.Else == nil {
		c.Else = &gojq.Query{Term: r.value(at)}
	}
	return c
}

// fold rewrites a reduce or foreach: its source and start read the input, the rest reads the state.
func (r *rewriter) fold(t *gojq.Term, at []jsonscan.Step) bool {
	if t.Type == gojq.TermTypeReduce {
		c := *t.Reduce
		c.Query, c.Start = r.query(c.Query, at), r.query(c.Start, at)
		t.Reduce = &c
		return plainPatterns(c.Patterns)
	}
	c := *t.Foreach
	c.Query, c.Start = r.query(c.Query, at), r.query(c.Start, at)
	t.Foreach = &c
	return plainPatterns(c.Patterns)
}
