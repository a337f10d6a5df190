package jq

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// CompileError is a program that is not jq, or that ferry does not run.
type CompileError struct {
	src     string
	offset  int
	msg     string
	notPath bool
}

// Offset is the byte of the source at which the error shows; len(source) when it is the end, 0 when no place is known.
func (e *CompileError) Offset() int { return e.offset }

func (e *CompileError) Error() string {
	if strings.TrimSpace(e.src) == "" {
		return "jq: " + e.msg
	}
	return fmt.Sprintf("jq: %s in %s", e.msg, quoteShort(e.src))
}

// IsNotPath says whether ParsePath's error only means that src, though good jq, is no simple path.
func IsNotPath(err error) bool {
	var e *CompileError
	return errors.As(err, &e) && e.notPath
}

// compileError turns gojq's error into a CompileError with a place in the source.
func compileError(src string, err error) error {
	e := &CompileError{src: src, msg: err.Error()}
	var parse *gojq.ParseError
	if errors.As(err, &parse) {
		e.offset = max(0, min(parse.Offset-len(parse.Token), len(src)))
		switch {
		case parse.Token == "" && strings.Contains(e.msg, "EOF"):
			e.msg = "unexpected end; something is missing, such as a closing bracket or end"
		case parse.Token == "'":
			e.msg += "; strings are written in double quotes"
		}
		if e.offset < len(src) {
			e.msg += fmt.Sprintf(" at character %d", len([]rune(src[:e.offset]))+1)
		}
		if r := []rune(parse.Token); len(r) > 0 && unicode.IsLetter(r[0]) && r[0] >= utf8.RuneSelf {
			e.msg += fmt.Sprintf("; write .%q", parse.Token)
		}
		return e
	}
	if _, name, ok := strings.Cut(e.msg, "not defined: "); ok {
		name, _, _ = strings.Cut(name, "/")
		e.offset = max(0, indexWord(src, name))
		if similar := similarFunction(name); similar != "" {
			e.msg += "; did you mean " + similar + "?"
		} else if strings.HasPrefix(e.msg, "function") {
			e.msg += "; for the text write \"" + name + "\", for the field ." + name
		}
	}
	return e
}

// indexWord finds name in src where it is not part of a longer word, or -1.
func indexWord(src, name string) int {
	for from := 0; ; {
		k := strings.Index(src[from:], name)
		if k < 0 {
			return -1
		}
		start, end := from+k, from+k+len(name)
		if (start == 0 || !isWordByte(src[start-1])) && (end == len(src) || !isWordByte(src[end])) {
			return start
		}
		from = end
	}
}

func isWordByte(c byte) bool {
	return c == '_' || c == '.' || c == '$' || c-'0' <= 9 || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// similarFunction returns the builtin that name was likely meant to be, or "".
func similarFunction(name string) string {
	q, err := gojq.Parse("builtins[]")
	if err != nil {
		return ""
	}
	best, bestDistance := "", len(name)/3+1
	for iter := q.Run(nil); ; {
		v, ok := iter.Next()
		if !ok {
			return best
		}
		s, _ := v.(string)
		builtin, _, _ := strings.Cut(s, "/")
		if d := distance(name, builtin); d < bestDistance || d == bestDistance && builtin < best {
			best, bestDistance = builtin, d
		}
	}
}

// distance is the number of bytes to insert, drop or replace that makes b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

func quoteShort(src string) string {
	const most = 80
	r := []rune(src)
	if len(r) > most {
		return fmt.Sprintf("%q…", string(r[:most]))
	}
	return fmt.Sprintf("%q", src)
}
