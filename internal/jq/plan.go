package jq

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"ferry/internal/jsonscan"

	"github.com/itchyny/gojq"
)

// plan is a faster way to a program's results. Most programs build an object out of a few places of the record; a plan
// finds those places in one pass, copies the bytes of some, and gives only the others to gojq, as variables of small
// programs. Programs are pure, so a plan may give up on any record (errFallback) and the whole program runs instead: a
// plan never has to be able to do everything, only to be right where it does not give up. It gives up at every error, so
// that errors, too, are gojq's own.
type plan struct {
	finder  *jsonscan.Finder
	filters []piece // conditions of select(…) that the record must pass first
	root    piece
}

// piece is a part of a result.
type piece struct {
	kind  pieceKind
	slot  int      // of a span, and of the value compared
	text  []byte   // of a constant
	equal equality // of a comparison
	keys  []string // of an object, sorted, each as JSON with its colon
	parts []piece  // of an object or array
	code  *code    // of a program, and the slots of its variables
	vars  []int
}

type pieceKind uint8

const (
	spanPiece pieceKind = iota
	constPiece
	objectPiece
	arrayPiece
	equalPiece
	codePiece
)

// errFallback: the plan does not fit this record; the whole program shall run.
var errFallback = errors.New("the plan does not fit")

// variable is the beginning of the names that rewritten programs use.
const variable = "$ferry_slot"

// newPlan returns a plan for the program, or nil when there is none that would be faster.
func newPlan(src string, q *gojq.Query) *plan {
	if strings.Contains(src, variable) || len(q.FuncDefs) > 0 || q.Meta != nil {
		return nil
	}
	b := &planner{}
	p := &plan{}
	for q.Op == gojq.OpPipe && len(q.Patterns) == 0 && len(q.FuncDefs) == 0 {
		condition, ok := selectOf(q.Left)
		if !ok {
			break
		}
		p.filters = append(p.filters, b.program(condition, nil))
		q = q.Right
	}
	if condition, ok := selectOf(q); ok {
		p.filters = append(p.filters, b.program(condition, nil))
		q = &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeIdentity}}
	}
	p.root = b.piece(q, nil)
	if b.failed {
		return nil
	}
	for slot, path := range b.paths {
		if len(path) == 0 && p.decodes(slot) {
			return nil // the whole record is decoded anyway
		}
	}
	var ok bool
	if p.finder, ok = jsonscan.NewFinder(b.paths...); !ok {
		return nil
	}
	return p
}

// decodes says whether a filter or the result as a whole is a program that reads the slot.
func (p *plan) decodes(slot int) bool {
	for _, f := range p.filters {
		if slices.Contains(f.vars, slot) {
			return true
		}
	}
	return p.root.kind == codePiece && slices.Contains(p.root.vars, slot)
}

// selectOf returns the condition of a query that is select(condition).
func selectOf(q *gojq.Query) (*gojq.Query, bool) {
	if q.Term == nil || len(q.FuncDefs) > 0 || q.Term.Type != gojq.TermTypeFunc || len(q.Term.SuffixList) > 0 {
		return nil, false
	}
	f := q.Term.Func
	if f.Name != "select" || len(f.Args) != 1 {
		return nil, false
	}
	return f.Args[0], true
}

// planner collects the places that a plan reads.
type planner struct {
	paths  [][]jsonscan.Step
	failed bool
}

func (b *planner) slot(path []jsonscan.Step) int {
	for i, p := range b.paths {
		if slices.Equal(p, path) {
			return i
		}
	}
	b.paths = append(b.paths, slices.Clone(path))
	return len(b.paths) - 1
}

// piece plans a query whose input is the value at prefix.
func (b *planner) piece(q *gojq.Query, prefix []jsonscan.Step) piece {
	if len(q.FuncDefs) > 0 || len(q.Patterns) > 0 {
		return b.program(q, prefix)
	}
	if q.Op == gojq.OpPipe && q.Term == nil {
		if steps, ok := plainPath(q.Left); ok {
			at := join(prefix, steps)
			b.slot(at) // that it fits the record is checked even if nothing reads it
			return b.piece(q.Right, at)
		}
	}
	if q.Term == nil {
		return b.program(q, prefix)
	}
	if steps, ok := plainPath(q); ok {
		return piece{kind: spanPiece, slot: b.slot(join(prefix, steps))}
	}
	if t := q.Term; len(t.SuffixList) == 0 {
		switch t.Type {
		case gojq.TermTypeQuery:
			return b.piece(t.Query, prefix)
		case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber:
			return b.constant(q)
		case gojq.TermTypeString:
			if t.Str.Queries == nil {
				return b.constant(q)
			}
		case gojq.TermTypeObject:
			if p, ok := b.object(t.Object, prefix); ok {
				return p
			}
		case gojq.TermTypeArray:
			if p, ok := b.array(t.Array, prefix); ok {
				return p
			}
		}
	}
	return b.program(q, prefix)
}

// constant lets gojq write the constant, so that its text is gojq's.
func (b *planner) constant(q *gojq.Query) piece {
	v, ok := q.Run(nil).Next()
	text, err := gojq.Marshal(v)
	if !ok || err != nil {
		b.failed = true
	}
	return piece{kind: constPiece, text: text}
}

// object plans an object whose keys are constants and differ.
func (b *planner) object(o *gojq.Object, prefix []jsonscan.Step) (piece, bool) {
	type member struct {
		key string
		val *gojq.Query
	}
	members := make([]member, 0, len(o.KeyVals))
	for _, kv := range o.KeyVals {
		key, ok := constantKey(kv)
		if !ok || slices.ContainsFunc(members, func(m member) bool { return m.key == key }) {
			return piece{}, false
		}
		val := kv.Val
		if val == nil {
			val = &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeIndex, Index: &gojq.Index{Name: key}}}
			if key == "" {
				return piece{}, false
			}
		}
		members = append(members, member{key, val})
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.key, b.key) })
	p := piece{kind: objectPiece}
	for _, m := range members {
		p.keys = append(p.keys, string(jsonscan.AppendQuote(nil, m.key))+":")
		p.parts = append(p.parts, b.piece(m.val, prefix))
	}
	return p, true
}

func constantKey(kv *gojq.ObjectKeyVal) (string, bool) {
	switch {
	case kv.Key != "":
		return kv.Key, !strings.HasPrefix(kv.Key, "$")
	case kv.KeyString != nil:
		return kv.KeyString.Str, kv.KeyString.Queries == nil
	}
	return "", false
}

// array plans an array of which every element is known to be one value.
func (b *planner) array(a *gojq.Array, prefix []jsonscan.Step) (piece, bool) {
	p := piece{kind: arrayPiece}
	if a.Query == nil {
		return p, true
	}
	paths := len(b.paths)
	for _, q := range commas(a.Query, nil) {
		part := b.piece(q, prefix)
		if part.kind == codePiece {
			b.paths = b.paths[:paths]
			return piece{}, false
		}
		p.parts = append(p.parts, part)
	}
	return p, true
}

func commas(q *gojq.Query, list []*gojq.Query) []*gojq.Query {
	if q.Op == gojq.OpComma && q.Term == nil && len(q.FuncDefs) == 0 && len(q.Patterns) == 0 {
		return commas(q.Right, commas(q.Left, list))
	}
	return append(list, q)
}

// program plans a query as a program of its own, whose variables are the places that it reads, or as a comparison.
func (b *planner) program(q *gojq.Query, prefix []jsonscan.Step) piece {
	if steps, e, ok := equalityOf(q); ok {
		return piece{kind: equalPiece, slot: b.slot(join(prefix, steps)), equal: e}
	}
	r := rewriter{slot: b.slot}
	q = r.query(q, prefix)
	names := make([]string, len(r.vars))
	for i, slot := range r.vars {
		names[i] = variableName(slot)
	}
	c, err := compileCode(q, names)
	if err != nil {
		b.failed = true
	}
	return piece{kind: codePiece, code: c, vars: r.vars}
}

// plainPath returns the steps of a query that is a path and always has exactly one result.
func plainPath(q *gojq.Query) ([]jsonscan.Step, bool) {
	steps, ok := pathOf(q)
	return steps, ok && plainSteps(steps) == len(steps)
}

// plainSteps counts the steps before the first that a plan leaves to gojq.
func plainSteps(steps []jsonscan.Step) int {
	for i, s := range steps {
		if s.Each || s.IsIndex && s.Index < 0 {
			return i
		}
	}
	return len(steps)
}

func join(a, b []jsonscan.Step) []jsonscan.Step { return slices.Concat(a, b) }

// run gives the results on in to out. Its errors are those of jsonscan, of the bounds and of the context, or
// errFallback; with the latter, out may hold something already.
func (p *plan) run(ctx context.Context, s *scratch, in []byte, out *output) error {
	s.spans = slices.Grow(s.spans[:0], p.finder.Len())[:p.finder.Len()]
	end, err := p.finder.Find(in, 0, jsonscan.MaxDepth, s.spans)
	if errors.Is(err, jsonscan.ErrUnfit) {
		return errFallback
	}
	if err != nil {
		return err
	}
	if err := jsonscan.AtEnd(in, end); err != nil {
		return err
	}
	for i := range p.filters {
		v, err := p.filters[i].one(ctx, s, in)
		if err != nil {
			return err
		}
		if v == nil || v == false {
			return nil
		}
	}
	if p.root.kind == codePiece {
		return p.root.run(ctx, s, in, out.value)
	}
	s.enc.limit = out.start + MaxOutput
	if out.dst, err = p.root.append(ctx, s, in, out.dst); err != nil {
		return err
	}
	if out.truth {
		first := out.dst[out.start]
		out.isTrue = first != 'n' && first != 'f'
		return nil
	}
	return out.end()
}

// append appends the piece's JSON to dst.
func (p *piece) append(ctx context.Context, s *scratch, in, dst []byte) (_ []byte, err error) {
	switch p.kind {
	case spanPiece:
		at := s.spans[p.slot]
		if at.End == 0 {
			return append(dst, null...), nil
		}
		return s.enc.canonical(dst, in[at.Start:at.End]), nil
	case constPiece:
		return append(dst, p.text...), nil
	case equalPiece:
		return strconv.AppendBool(dst, p.holds(s, in)), nil
	case objectPiece:
		dst = append(dst, '{')
		for i := range p.parts {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, p.keys[i]...)
			if dst, err = p.parts[i].append(ctx, s, in, dst); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	case arrayPiece:
		dst = append(dst, '[')
		for i := range p.parts {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = p.parts[i].append(ctx, s, in, dst); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	}
	v, err := p.one(ctx, s, in)
	if err != nil {
		return dst, err
	}
	return s.enc.value(dst, v, 0)
}

// one runs the piece's program, which must give exactly one result.
func (p *piece) one(ctx context.Context, s *scratch, in []byte) (result any, err error) {
	if p.kind == equalPiece {
		return p.holds(s, in), nil
	}
	n := 0
	err = p.run(ctx, s, in, func(v any) (bool, error) {
		result = v
		n++
		return n < 2, nil
	})
	if err == nil && n != 1 {
		err = errFallback
	}
	return result, err
}

// run runs the piece's program. What the program itself says against the record is errFallback.
func (p *piece) run(ctx context.Context, s *scratch, in []byte, yield func(any) (bool, error)) error {
	s.vars = s.vars[:0]
	size := 0
	for _, slot := range p.vars {
		at := s.spans[slot]
		if at.End == 0 {
			s.vars = append(s.vars, nil)
			continue
		}
		size += at.End - at.Start
		s.vars = append(s.vars, s.dec.decode(in[at.Start:at.End]))
		if s.dec.fit() != nil {
			clear(s.vars)
			return errFallback
		}
	}
	err := p.code.run(ctx, nil, size, yield, s.vars...)
	clear(s.vars)
	if _, ok := errors.AsType[*RunError](err); ok {
		return errFallback
	}
	return err
}
