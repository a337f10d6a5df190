package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"ferry/internal/jq"
	"ferry/internal/jsonscan"
)

// expression is a piece of jq: a path, which is followed without decoding, or a program.
type expression struct {
	src     string
	path    jq.Path
	program *jq.Program // nil when it is a path
}

func compile(key, src string) (*expression, error) {
	path, err := jq.ParsePath(src)
	if err == nil && !eaches(path.Steps()) {
		return &expression{src: src, path: path}, nil
	}
	program, err := jq.Compile(src)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return &expression{src: src, program: program}, nil
}

func eaches(steps []jsonscan.Step) bool {
	for _, s := range steps {
		if s.Each {
			return true
		}
	}
	return false
}

// one returns the raw bytes of the first result. found is false when there is none. Of a path the result is part of in.
func (x *expression) one(ctx context.Context, in []byte) (raw []byte, found bool, err error) {
	if x.program == nil {
		return x.path.Get(in)
	}
	return x.program.One(ctx, in)
}

// test says whether a result is neither false nor null.
func (x *expression) test(ctx context.Context, in []byte) (bool, error) {
	if x.program == nil {
		raw, found, err := x.path.Get(in)
		return found && string(raw) != "null" && string(raw) != "false", err
	}
	return x.program.Test(ctx, in)
}

// isEmptyValue tells the values by which APIs say "nothing": null, false and the empty string.
func isEmptyValue(raw []byte) bool {
	switch string(raw) {
	case "null", "false", `""`:
		return true
	}
	return false
}

// lookup finds a value in an answer: in the page by jq, or in the header.
type lookup struct {
	src    string
	header string
	body   *expression
}

func newLookup(key, src string) (*lookup, error) {
	if name, ok := strings.CutPrefix(src, "header."); ok {
		if name == "" {
			return nil, fmt.Errorf("%s: header. needs a name, as in header.X-Next", key)
		}
		return &lookup{src: src, header: http.CanonicalHeaderKey(name)}, nil
	}
	x, err := compile(key, src)
	if err != nil {
		return nil, err
	}
	return &lookup{src: src, body: x}, nil
}

// find returns the value as raw JSON; found is false for what is absent, null, false or empty. Errors are *Error.
func (l *lookup) find(ctx context.Context, key string, p *page) (raw []byte, found bool, err error) {
	if l.header != "" {
		v := strings.TrimSpace(p.header.Get(l.header))
		if v == "" {
			return nil, false, nil
		}
		return jsonscan.AppendQuote(nil, v), true, nil
	}
	if p.envelope == nil && !p.ndjson { // skipped by its status, or without a body
		return nil, false, nil
	}
	if err := p.hasEnvelope(key, l.src); err != nil {
		return nil, false, err
	}
	raw, found, err = l.body.one(ctx, p.envelope)
	if err != nil {
		return nil, false, expressionError(ctx, key, l.src, err)
	}
	return raw, found && !isEmptyValue(raw), nil
}

func expressionError(ctx context.Context, key, src string, err error) *Error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if k := new(jsonscan.KindError); errors.As(err, &k) {
		return failf(KindContent, "the page does not fit %s %s: %v", key, src, err)
	}
	return failf(KindContent, "%s %s fails on the page: %v", key, src, err)
}

// plain says whether an expression is put together only from paths, constants, comparisons and "not", so that it looks
// at nothing of the page but at those paths, which it returns. Everything else may look anywhere.
func plain(src string) (paths [][]jsonscan.Step, ok bool) {
	if path, err := jq.ParsePath(src); err == nil {
		return [][]jsonscan.Step{path.Steps()}, true
	}
	for rest := strings.TrimSpace(src); rest != ""; rest = strings.TrimLeft(rest, " \t\n") {
		switch n := tokenLength(rest); {
		case n == 0:
			return nil, false
		case rest[0] == '.':
			path, err := jq.ParsePath(rest[:n])
			if err != nil {
				return nil, false
			}
			paths = append(paths, path.Steps())
			rest = rest[n:]
		default:
			rest = rest[n:]
		}
	}
	return paths, true
}

// tokenLength returns the length of the token that s begins with, of those that a plain expression may have, or 0.
func tokenLength(s string) int {
	for _, op := range []string{"==", "!=", "<=", ">=", "<", ">", "(", ")"} {
		if strings.HasPrefix(s, op) {
			return len(op)
		}
	}
	if not, ok := strings.CutPrefix(s, "|"); ok {
		not = strings.TrimLeft(not, " ")
		if strings.HasPrefix(not, "not") && (len(not) == 3 || !isWord(not[3])) {
			return len(s) - len(not) + 3
		}
		return 0
	}
	switch c := s[0]; {
	case c == '.':
		n := 1
		for n < len(s) && (isWord(s[n]) || s[n] == '.') {
			n++
		}
		return n
	case c == '"':
		end, err := jsonscan.SkipString([]byte(s), 0)
		if err != nil {
			return 0
		}
		return end
	case c >= '0' && c <= '9' || c == '-':
		end, err := jsonscan.Skip([]byte(s), 0, 0)
		if err != nil {
			return 0
		}
		return end
	}
	n := 0
	for n < len(s) && isWord(s[n]) {
		n++
	}
	switch s[:n] {
	case "true", "false", "null", "and", "or":
		return n
	}
	return 0
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// needsObject says whether an expression provably looks at nothing but members by their names.
func needsObject(src string) bool {
	paths, ok := plain(src)
	return ok && len(paths) > 0 && !slices.ContainsFunc(paths, fitsArray)
}

// fitsArray says whether a path makes sense where the page is an array.
func fitsArray(path []jsonscan.Step) bool {
	return len(path) == 0 || path[0].IsIndex || path[0].Each
}

// overlaps says whether what lies at path holds, or is part of, what lies at records.
func overlaps(path, records []jsonscan.Step) bool {
	for i := range min(len(path), len(records)) {
		a, b := path[i], records[i]
		if a.Each || b.Each || a.IsIndex || b.IsIndex {
			return true
		}
		if a.Key != b.Key {
			return false
		}
	}
	return true
}
