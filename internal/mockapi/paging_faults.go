package mockapi

import (
	"bytes"
	"strings"
)

// misplace applies the faults of the pagination.
func (p *page) misplace(fs fired) {
	if len(fs) == 0 || p.style.name == "none" {
		return
	}
	n := p.v.len()
	f, ok := fs.find(LoopToken, LoopCycle, SamePage, EmptyPages, Duplicate)
	if !ok {
		return
	}
	switch f.Kind {
	case LoopToken:
		if p.q.token.given {
			p.next = &p.q.token
		}
	case LoopCycle:
		if p.number%or(f.Size, 3) == 0 {
			p.next = &token{number: 1, mark: p.v.mark(0)}
		}
	case SamePage:
		p.start, p.end = 0, min(p.q.size, n)
		p.endless()
	case EmptyPages:
		p.end = p.start
		p.endless()
	case Duplicate:
		p.start = max(p.start-or(f.Rows, 5), 0)
	}
	if !p.style.tokens {
		p.next = nil
	}
}

// endless promises one more page.
func (p *page) endless() {
	p.next = &token{number: p.number + 1, mark: p.v.mark(p.end)}
	p.pages = max(p.pages, p.number+1)
	p.total = max(p.total, p.q.start+p.number*p.q.size+1) // or who counts up to it would come to an end
}

// disturb changes the data after the page was served.
func (p *page) disturb(s *Server, a *answer) {
	if f, ok := a.faults.find(Grow); ok {
		s.Grow(a.set.name, or(f.Rows, 3))
	}
	if f, ok := a.faults.find(Touch); ok {
		var touched []int
		for i := p.start; i < p.end && len(touched) < or(f.Rows, 3); i++ {
			// Only what was never touched, or the end of the data would be touched again and again, without end.
			if rw := p.v.row(i); rw.index == rw.key && rw.index < a.set.count {
				touched = append(touched, rw.index)
			}
		}
		s.Touch(a.set.name, touched...)
	}
}

// spoiled gives the fault that concerns the i-th record of the page, if any.
func (fs fired) spoiled(i int) (Fault, bool) {
	for _, f := range fs {
		if f.At == i && (f.Kind == Poison || f.Kind == Oversize || f.Kind == Deep) {
			return f, true
		}
	}
	return Fault{}, false
}

// appendRow writes the record at a position, with the faults of the data.
func (p *page) appendRow(b []byte, a *answer, position int) []byte {
	from := len(b)
	b = a.set.append(b, p.v.row(position), p.q.form)
	if len(a.faults) == 0 {
		return b
	}
	f, ok := a.faults.spoiled(position - p.start)
	if !ok {
		return b
	}
	switch f.Kind {
	case Poison:
		_, rest, _ := bytes.Cut(b[from:], []byte{','}) // the id is the first member of every record
		rest = bytes.Clone(rest)
		b = b[:from]
		switch f.As {
		case "null":
			return append(b, `null`...)
		case "text":
			return append(b, `"this is no record"`...)
		case "null_key":
			b = append(b, `{"id":null,`...)
		case "wrong_type":
			b = append(b, `{"id":{"is":["an","object"]},`...)
		default:
			b = append(b, '{')
		}
		return append(b, rest...)
	case Oversize:
		b = append(b[:len(b)-1], `,"blob":"`...)
		b = append(b, strings.Repeat("x", or(f.Size, 16<<20))...)
		return append(b, `"}`...)
	default:
		n := or(f.Size, 10_000)
		b = append(b[:len(b)-1], `,"deep":`...)
		b = append(b, strings.Repeat("[", n)...)
		b = append(b, strings.Repeat("]", n)...)
		return append(b, '}')
	}
}

// or is n, or the default when n is zero.
func or(n, byDefault int) int {
	if n == 0 {
		return byDefault
	}
	return n
}
