package jq

import (
	"bytes"
	"slices"

	"ferry/internal/jsonscan"
)

// member is a member of an object that has been written, from its key's quote to its value's end.
type member struct {
	key        []byte // decoded
	start, end int    // in dst
}

// canonical appends the valid JSON value b, with or without space around it, in the form that value would give it after
// decoding: compact, keys sorted, of equal keys the last, strings with the escapes of jsonscan.AppendQuote, numbers as
// they are.
func (e *encoder) canonical(dst, b []byte) []byte {
	dst, _ = e.canonicalValue(dst, b, jsonscan.SkipSpace(b, 0))
	return dst
}

// canonicalValue appends the value that begins at b[i] and returns its end too. It recurses as deep as the text is
// nested, which the scan before has limited.
func (e *encoder) canonicalValue(dst, b []byte, i int) ([]byte, int) {
	switch b[i] {
	case '{':
		return e.canonicalObject(dst, b, i)
	case '[':
		dst = append(dst, '[')
		i, empty, _ := jsonscan.Enter(b, i)
		for more := !empty; more; {
			dst, i = e.canonicalValue(dst, b, i)
			if i, more, _ = jsonscan.Leave(b, i, ']'); more {
				dst = append(dst, ',')
			}
		}
		return append(dst, ']'), i
	case '"':
		end, _ := jsonscan.SkipString(b, i)
		return appendString(dst, b[i:end]), end
	}
	end, _ := jsonscan.Skip(b, i, 0)
	return append(dst, b[i:end]...), end
}

// appendString appends a raw string, quotes included.
func appendString(dst, raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 && bytes.IndexByte(raw, 0x7f) < 0 {
		return append(dst, raw...)
	}
	return jsonscan.AppendQuote(dst, string(unescaped(raw)))
}

// unescaped decodes a raw string; the result aliases it when it holds no escape.
func unescaped(raw []byte) []byte {
	body := raw[1 : len(raw)-1]
	if bytes.IndexByte(body, '\\') < 0 {
		return body
	}
	return jsonscan.AppendUnescaped(nil, body)
}

// canonicalObject writes the members in the order in which they come, and puts them into the right one afterwards when
// that was not it. Most objects of one source have the same order, and many are sorted already.
func (e *encoder) canonicalObject(dst, b []byte, i int) ([]byte, int) {
	dst = append(dst, '{')
	base, start := len(e.members), len(dst)
	sorted := true
	i, empty, _ := jsonscan.Enter(b, i)
	for more := !empty; more; {
		raw, value, _ := jsonscan.Member(b, i)
		m := member{key: unescaped(raw), start: len(dst)}
		if n := len(e.members); n > base && bytes.Compare(e.members[n-1].key, m.key) >= 0 {
			sorted = false
		}
		dst = append(appendString(dst, raw), ':')
		dst, i = e.canonicalValue(dst, b, value)
		m.end = len(dst)
		e.members = append(e.members, m)
		if i, more, _ = jsonscan.Leave(b, i, '}'); more {
			dst = append(dst, ',')
		}
	}
	if !sorted {
		dst = e.sortMembers(dst, start, e.members[base:])
	}
	clear(e.members[base:])
	e.members = e.members[:base]
	return append(dst, '}'), i
}

// sortMembers rewrites dst[start:], which holds the members, in the order of their keys, and drops all but the last of
// those with equal keys.
func (e *encoder) sortMembers(dst []byte, start int, members []member) []byte {
	slices.SortStableFunc(members, func(a, b member) int { return bytes.Compare(a.key, b.key) })
	e.scratch = append(e.scratch[:0], dst[start:]...)
	dst = dst[:start]
	for k, m := range members {
		if k+1 < len(members) && bytes.Equal(m.key, members[k+1].key) {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, e.scratch[m.start-start:m.end-start]...)
	}
	return dst
}
