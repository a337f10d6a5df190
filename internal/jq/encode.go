package jq

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"ferry/internal/jsonscan"
)

// encoder writes gojq's values as gojq.Marshal does, and refuses what is too large or too deep.
type encoder struct {
	limit   int // of the length of dst
	entries []entry
	members []member
	order   []int32
	scratch []byte
}

type entry struct {
	key   string
	value any
}

// reset forgets the record and, when it was an uncommonly large one, the memory for it.
func (e *encoder) reset() {
	clear(e.entries) // what an error has left
	e.entries = e.entries[:0]
	if cap(e.entries) > keepEntries {
		e.entries = nil
	}
	if cap(e.members) > keepEntries {
		e.members, e.order = nil, nil
	}
	if cap(e.scratch) > 64<<10 {
		e.scratch = nil
	}
}

// value appends v to dst. The error is ErrTooLarge or ErrTooDeep; a value may hold the same part many times, so the
// limit is watched while writing.
func (e *encoder) value(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		dst = append(dst, "null"...)
	case bool:
		dst = strconv.AppendBool(dst, v)
	case int:
		dst = strconv.AppendInt(dst, int64(v), 10)
	case float64:
		dst = appendFloat(dst, v)
	case *big.Int:
		dst = v.Append(dst, 10)
	case json.Number:
		dst = append(dst, v...)
	case string:
		if len(dst)+len(v) > e.limit {
			return dst, ErrTooLarge
		}
		dst = jsonscan.AppendQuote(dst, v)
	case []any:
		return e.array(dst, v, depth+1)
	case map[string]any:
		return e.object(dst, v, depth+1)
	default:
		return dst, &RunError{Msg: fmt.Sprintf("the jq engine gave a value of the unknown type %T", v)}
	}
	return dst, nil
}

func (e *encoder) check(dst []byte, depth int) error {
	if depth > jsonscan.MaxDepth {
		return ErrTooDeep
	}
	if len(dst) > e.limit {
		return ErrTooLarge
	}
	return nil
}

func (e *encoder) array(dst []byte, a []any, depth int) (_ []byte, err error) {
	dst = append(dst, '[')
	for i, v := range a {
		if err := e.check(dst, depth); err != nil {
			return dst, err
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = e.value(dst, v, depth); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

func (e *encoder) object(dst []byte, m map[string]any, depth int) (_ []byte, err error) {
	base := len(e.entries)
	for k, v := range m {
		e.entries = append(e.entries, entry{k, v})
	}
	entries := e.entries[base:]
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	dst = append(dst, '{')
	for i := range entries {
		if err := e.check(dst, depth); err != nil {
			return dst, err
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsonscan.AppendQuote(dst, entries[i].key)
		dst = append(dst, ':')
		if dst, err = e.value(dst, entries[i].value, depth); err != nil {
			return dst, err
		}
	}
	clear(e.entries[base:])
	e.entries = e.entries[:base]
	return append(dst, '}'), nil
}

// appendFloat writes a computed number as jq does: NaN is null, infinities are the largest numbers there are, and the
// exponent has no needless zero.
func appendFloat(dst []byte, f float64) []byte {
	if math.IsNaN(f) {
		return append(dst, "null"...)
	}
	f = min(max(f, -math.MaxFloat64), math.MaxFloat64)
	if x := math.Abs(f); x == 0 || x >= 1e-6 && x < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}
