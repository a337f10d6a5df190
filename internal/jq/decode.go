package jq

import (
	"encoding/json"
	"fmt"
	"strings"

	"ferry/internal/jsonscan"
)

// decoder turns JSON text into gojq's values: nil, bool, int, json.Number, string, []any and map[string]any.
type decoder struct {
	b       []byte
	s       string // the same text; strings and numbers are parts of it
	i       int
	values  []any // elements and members of the containers that are open
	keys    []string
	longest int // digits of the longest number
}

// decode decodes one valid JSON value, with or without space around it. What it returns does not alias b.
func (d *decoder) decode(b []byte) any {
	d.b, d.s, d.i, d.longest = b, string(b), 0, 0
	return d.value()
}

// MaxNumber is how many bytes a number may have that is worked with, which takes time that grows with their square. One that
// is only copied may be longer.
const MaxNumber = 10_000

// fit is an error when the value that was decoded last holds a number too long to work with.
func (d *decoder) fit() error {
	if d.longest > MaxNumber {
		return &RunError{Msg: fmt.Sprintf("a number of %d digits is too long to work with; at most 10,000 are taken", d.longest)}
	}
	return nil
}

// reset forgets the record and, when it was an uncommonly large one, the memory for it.
func (d *decoder) reset() {
	d.b, d.s = nil, ""
	if cap(d.values) > keepEntries {
		d.values, d.keys = nil, nil
	}
}

// keepEntries is how large a stack may be to be kept for the next run.
const keepEntries = 4096

// value decodes the value at the present position. It recurses as deep as the text is nested, which the scan before has
// limited.
func (d *decoder) value() any {
	d.space()
	switch d.b[d.i] {
	case '"':
		return d.string()
	case '{':
		return d.object()
	case '[':
		return d.array()
	case 't':
		d.i += len("true")
		return true
	case 'f':
		d.i += len("false")
		return false
	case 'n':
		d.i += len("null")
		return nil
	}
	return d.number()
}

func (d *decoder) space() { d.i = jsonscan.SkipSpace(d.b, d.i) }

func (d *decoder) string() string {
	start := d.i + 1
	end, _ := jsonscan.SkipString(d.b, d.i)
	d.i = end
	if s := d.s[start : end-1]; strings.IndexByte(s, '\\') < 0 {
		return s
	}
	return string(jsonscan.AppendUnescaped(make([]byte, 0, end-1-start), d.b[start:end-1]))
}

// number decodes an integer that fits to an int and anything else to a json.Number, which keeps its text. Zero is such,
// since an int has no sign for it: gojq negates the text 0 to -0.
func (d *decoder) number() any {
	start := d.i
	i := start
	negative := d.b[i] == '-'
	if negative {
		i++
	}
	digits := i
	n := 0
	for ; i < len(d.b) && d.b[i]-'0' <= 9; i++ {
		if i-digits < 18 {
			n = n*10 + int(d.b[i]-'0')
		}
	}
	if i-digits <= 18 && n != 0 && (i >= len(d.b) || d.b[i] != '.' && d.b[i]|0x20 != 'e') {
		d.i = i
		if negative {
			return -n
		}
		return n
	}
	for i < len(d.b) && isNumberByte(d.b[i]) {
		i++
	}
	d.i = i
	d.longest = max(d.longest, i-start)
	return json.Number(d.s[start:i])
}

func isNumberByte(c byte) bool {
	return c-'0' <= 9 || c == '.' || c|0x20 == 'e' || c == '+' || c == '-'
}

func (d *decoder) array() []any {
	base := len(d.values)
	d.i++
	if d.space(); d.b[d.i] == ']' {
		d.i++
		return []any{}
	}
	for {
		v := d.value()
		d.values = append(d.values, v)
		d.space()
		d.i++
		if d.b[d.i-1] == ']' {
			break
		}
	}
	a := append([]any(nil), d.values[base:]...)
	clear(d.values[base:])
	d.values = d.values[:base]
	return a
}

func (d *decoder) object() map[string]any {
	base, keys := len(d.values), len(d.keys)
	d.i++
	if d.space(); d.b[d.i] == '}' {
		d.i++
		return map[string]any{}
	}
	for {
		d.space()
		d.keys = append(d.keys, d.string())
		d.space()
		d.i++ // the colon
		v := d.value()
		d.values = append(d.values, v)
		d.space()
		d.i++
		if d.b[d.i-1] == '}' {
			break
		}
	}
	m := make(map[string]any, len(d.values)-base)
	for k, v := range d.values[base:] {
		m[d.keys[keys+k]] = v
	}
	clear(d.values[base:])
	clear(d.keys[keys:])
	d.values, d.keys = d.values[:base], d.keys[:keys]
	return m
}

// Decode decodes one JSON value into nil, bool, int, json.Number, string, []any and map[string]any. Integers of up to 18
// digits are ints, but for 0; every other number keeps its text. Errors are those of jsonscan.Valid.
func Decode(b []byte) (any, error) {
	if err := jsonscan.Valid(b, jsonscan.MaxDepth); err != nil {
		return nil, err
	}
	var d decoder
	return d.decode(b), nil
}
