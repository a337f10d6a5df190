package jq

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"ferry/internal/jsonscan"
)

// member is a member of an object that has been written, from its key's quote to its value's end.
type member struct {
	prefix     uint64 // the key's first eight bytes, so that most comparisons are one of numbers
	key        []byte // decoded
	start, end int    // in dst
}

func (m *member) compare(o *member) int {
	if c := cmp.Compare(m.prefix, o.prefix); c != 0 {
		return c
	}
	return bytes.Compare(m.key, o.key)
}

func keyPrefix(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
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
	if isCanonicalString(raw) {
		return append(dst, raw...)
	}
	return jsonscan.AppendQuote(dst, string(unescaped(raw)))
}

// isCanonicalString: no escape but those that AppendQuote would write too.
func isCanonicalString(raw []byte) bool {
	if bytes.IndexByte(raw, 0x7f) >= 0 {
		return false
	}
	for {
		k := bytes.IndexByte(raw, '\\')
		if k < 0 {
			return true
		}
		if c := raw[k+1]; c == 'u' || c == '/' {
			return false
		}
		raw = raw[k+2:]
	}
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
		m.prefix = keyPrefix(m.key)
		if n := len(e.members); sorted && n > base && e.members[n-1].compare(&m) >= 0 {
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
	e.order = e.order[:0]
	if len(members) <= 48 {
		for k := range members { // stable insertion, of small numbers instead of members
			e.order = append(e.order, int32(k))
			j := k
			for ; j > 0 && members[e.order[j-1]].compare(&members[k]) > 0; j-- {
				e.order[j] = e.order[j-1]
			}
			e.order[j] = int32(k)
		}
	} else {
		for k := range members {
			e.order = append(e.order, int32(k))
		}
		slices.SortStableFunc(e.order, func(a, b int32) int { return members[a].compare(&members[b]) })
	}
	e.scratch = append(e.scratch[:0], dst[start:]...)
	dst = dst[:start]
	for k, o := range e.order {
		m := &members[o]
		if k+1 < len(e.order) && m.compare(&members[e.order[k+1]]) == 0 {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, e.scratch[m.start-start:m.end-start]...)
	}
	return dst
}
