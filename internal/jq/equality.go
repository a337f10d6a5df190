package jq

import (
	"ferry/internal/jsonscan"

	"github.com/itchyny/gojq"
)

// equality compares a place of the record with a constant that is no number: the commonest of all conditions.
type equality struct {
	negate bool // !=
	kind   jsonscan.Kind
	str    string // of a string
	truth  bool   // of a boolean
}

// equalityOf returns the path and constant of a query such as .status != "draft".
func equalityOf(q *gojq.Query) ([]jsonscan.Step, equality, bool) {
	if q.Term != nil && q.Term.Type == gojq.TermTypeQuery && len(q.Term.SuffixList) == 0 && len(q.FuncDefs) == 0 {
		return equalityOf(q.Term.Query)
	}
	if q.Term != nil || q.Op != gojq.OpEq && q.Op != gojq.OpNe || len(q.FuncDefs) > 0 || len(q.Patterns) > 0 {
		return nil, equality{}, false
	}
	e := equality{negate: q.Op == gojq.OpNe}
	left, right := q.Left, q.Right
	steps, ok := plainPath(left)
	if !ok {
		steps, ok = plainPath(right)
		right = left
	}
	if t := right.Term; !ok || t == nil || len(t.SuffixList) > 0 || len(right.FuncDefs) > 0 {
		return nil, equality{}, false
	}
	switch t := right.Term; t.Type {
	case gojq.TermTypeString:
		e.kind, e.str = jsonscan.String, t.Str.Str
		return steps, e, t.Str.Queries == nil
	case gojq.TermTypeTrue, gojq.TermTypeFalse:
		e.kind, e.truth = jsonscan.Bool, t.Type == gojq.TermTypeTrue
		return steps, e, true
	case gojq.TermTypeNull:
		e.kind = jsonscan.Null
		return steps, e, true
	}
	return nil, equality{}, false
}

// holds says whether the comparison is true of the record.
func (p *piece) holds(s *scratch, in []byte) bool {
	raw := null
	if at := s.spans[p.slot]; at.End > 0 {
		raw = in[at.Start:at.End]
	}
	e := &p.equal
	same := jsonscan.KindOf(raw[0]) == e.kind
	if same {
		switch e.kind {
		case jsonscan.String:
			same = jsonscan.KeyIs(raw, e.str)
		case jsonscan.Bool:
			same = (raw[0] == 't') == e.truth
		}
	}
	return same != e.negate
}
