package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxProblems bounds what is collected: who has a hundred errors does not read more of them.
const maxProblems = 100

// masked stands in a snippet where a secret was typed.
const masked = "***"

// problems collects what is wrong while the loader goes on, and becomes Errors at the end, once it is known which
// parts of the text are secret.
type problems struct {
	list []problem
	seen map[problemID]bool
	full bool
}

type problem struct {
	at              place
	path, msg, hint string
}

// problemID tells a problem that shows up in several pipelines because it lies in what they share.
type problemID struct {
	src       *source
	line, col int
	msg       string
}

func (p *problems) add(at place, path, hint, format string, args ...any) {
	one := problem{at: at, path: path, hint: hint, msg: fmt.Sprintf(format, args...)}
	id := problemID{at.src, at.line, at.col, one.msg}
	if p.seen[id] {
		return
	}
	if len(p.list) >= maxProblems {
		p.full = true
		return
	}
	if p.seen == nil {
		p.seen = make(map[problemID]bool)
	}
	p.seen[id] = true
	p.list = append(p.list, one)
}

// err returns all problems as Errors in the order of the file, those of variables after them; nil without any.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b problem) int {
		if (a.at.line == 0) != (b.at.line == 0) {
			return cmp.Compare(b.at.line, a.at.line)
		}
		return cmp.Or(strings.Compare(a.at.name(), b.at.name()), cmp.Compare(a.at.line, b.at.line), cmp.Compare(a.at.col, b.at.col))
	})
	errs := make(Errors, 0, len(p.list)+1)
	for _, one := range p.list {
		errs = append(errs, &Error{
			File: one.at.name(), Line: one.at.line, Col: one.at.col,
			Path: one.path, Msg: one.msg, Hint: one.hint, Snippet: one.at.snippet(),
		})
	}
	if p.full {
		errs = append(errs, &Error{File: p.list[0].at.name(), Msg: fmt.Sprintf("more than %d errors; the rest is not shown", maxProblems)})
	}
	return errs
}

func (p place) name() string {
	if p.src == nil {
		return "configuration"
	}
	return p.src.name
}

// snippetWidth is how much of a long line is shown.
const snippetWidth = 100

// snippet draws the line and the caret under it.
func (p place) snippet() string {
	if p.src == nil || p.line < 1 || p.line > len(p.src.lines) {
		return ""
	}
	line, caret := p.src.shown(p.line, p.col)
	if caret > snippetWidth*3/4 {
		cut := caret - snippetWidth/2
		line, caret = append([]rune("…"), line[min(cut, len(line)):]...), caret-cut+1
	}
	if len(line) > snippetWidth {
		line = append(line[:snippetWidth:snippetWidth], '…')
	}
	pad := make([]rune, 0, caret)
	for i := range caret - 1 {
		if i < len(line) && line[i] == '\t' {
			pad = append(pad, '\t')
		} else {
			pad = append(pad, ' ')
		}
	}
	return fmt.Sprintf("%5d | %s\n      | %s^", p.line, string(line), string(pad))
}

// shown gives a line with its secrets masked and its control characters made harmless, and where the caret goes.
func (s *source) shown(number, col int) (line []rune, caret int) {
	line = []rune(strings.TrimRight(s.lines[number-1], "\r"))
	for i, r := range line {
		if unicode.IsControl(r) && r != '\t' || r == utf8.RuneError {
			line[i] = '�'
		}
	}
	caret = col
	var masks []mask
	for _, m := range s.masks {
		if m.line <= number && number <= m.endLine {
			masks = append(masks, m)
		}
	}
	slices.SortFunc(masks, func(a, b mask) int { // from the right, so that columns stay true
		return cmp.Or(cmp.Compare(b.line, a.line), cmp.Compare(b.col, a.col))
	})
	for _, m := range masks {
		from, to := 0, len(line)
		if number == m.line {
			from = min(m.col-1, len(line))
		}
		if number == m.endLine {
			to = min(m.endCol-1, len(line))
		}
		for to > from && unicode.IsSpace(line[to-1]) {
			to--
		}
		show := []rune(m.show)
		switch {
		case from >= to:
			continue
		case caret-1 >= to:
			caret += len(show) - (to - from)
		case caret-1 > from:
			caret = from + 1
		}
		line = slices.Concat(line[:from], show, line[to:])
	}
	return line, max(caret, 1)
}
