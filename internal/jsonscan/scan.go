// Package jsonscan validates and walks raw JSON (RFC 8259) without decoding it: no allocation, no recursion that the
// text decides, and a limit on nesting (invariant 7). Beyond the grammar it demands valid UTF-8. Like encoding/json it
// lets a \u escape of half a surrogate pair pass, which the grammar allows.
//
// Everything works on positions in a byte slice, so that a caller who reads a stream can ask again from the same
// position once ErrIncomplete has said that the text ends too early.
package jsonscan

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"unicode/utf8"
)

// MaxDepth is the deepest nesting that any function here follows, whatever it is asked for.
const MaxDepth = 1024

var (
	// ErrIncomplete: the text is fine as far as it goes, but it ends inside a value.
	ErrIncomplete = errors.New("JSON ends in the middle of a value")
	// ErrDepth: arrays and objects lie deeper in each other than the limit.
	ErrDepth = errors.New("JSON is nested too deep")
)

// Kind is the kind of a JSON value, as its first byte tells.
type Kind uint8

// The kinds of JSON values.
const (
	Invalid Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String gives the name that jq's type has for the kind.
func (k Kind) String() string {
	return [...]string{"invalid", "null", "boolean", "number", "string", "array", "object"}[k]
}

// KindOf tells from its first byte what a value can only be, or Invalid.
func KindOf(c byte) Kind { return kinds[c] }

var kinds = [256]Kind{
	'n': Null, 't': Bool, 'f': Bool, '"': String, '[': Array, '{': Object, '-': Number,
	'0': Number, '1': Number, '2': Number, '3': Number, '4': Number, '5': Number, '6': Number, '7': Number, '8': Number,
	'9': Number,
}

// SkipSpace returns the position of the first byte at or after i that is not JSON white space, or len(b).
func SkipSpace(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

func isSpace(c byte) bool { return c <= ' ' && (c == ' ' || c == '\n' || c == '\r' || c == '\t') }

func isDigit(c byte) bool { return c-'0' <= 9 }

// Valid says whether b is exactly one JSON value with nothing but white space around it. Its errors are those of Skip;
// a text without a value is ErrIncomplete.
func Valid(b []byte, maxDepth int) error {
	end, err := Skip(b, 0, maxDepth)
	if err != nil {
		return err
	}
	return AtEnd(b, end)
}

// AtEnd returns an error unless only white space follows position i.
func AtEnd(b []byte, i int) error {
	if i = SkipSpace(b, i); i < len(b) {
		return unexpected(b, i, "the end")
	}
	return nil
}

// Skip validates the value that starts at b[i], after white space, and returns the position just behind it. The value
// may hold arrays and objects in each other maxDepth deep (at most MaxDepth); a number, string or word has depth 0.
//
// The error is ErrIncomplete, ErrDepth or a *SyntaxError; end is then meaningless. A number that runs up to the end of
// b is taken as complete: who reads a stream must read on when the value is a number and end == len(b).
func Skip(b []byte, i, maxDepth int) (end int, err error) {
	if i < len(b) { // most values are strings and numbers, and need none of what follows
		switch KindOf(b[i]) {
		case String:
			return SkipString(b, i)
		case Number:
			return skipNumber(b, i)
		}
	}
	var objects [MaxDepth / 64]uint64 // a bit for each open container: set for objects
	depth := 0
	maxDepth = min(maxDepth, MaxDepth)

value:
	i = SkipSpace(b, i)
	if i >= len(b) {
		return i, ErrIncomplete
	}
	switch c := b[i]; c {
	case '"':
		if i, err = SkipString(b, i); err != nil {
			return i, err
		}
	case '{':
		if depth >= maxDepth {
			return i, ErrDepth
		}
		objects[depth>>6] |= 1 << (depth & 63)
		depth++
		i = SkipSpace(b, i+1)
		if i < len(b) && b[i] == '}' {
			i++
			depth--
			break
		}
		goto key
	case '[':
		if depth >= maxDepth {
			return i, ErrDepth
		}
		objects[depth>>6] &^= 1 << (depth & 63)
		depth++
		i = SkipSpace(b, i+1)
		if i < len(b) && b[i] == ']' {
			i++
			depth--
			break
		}
		goto value
	case 't':
		if i, err = skipWord(b, i, "true"); err != nil {
			return i, err
		}
	case 'f':
		if i, err = skipWord(b, i, "false"); err != nil {
			return i, err
		}
	case 'n':
		if i, err = skipWord(b, i, "null"); err != nil {
			return i, err
		}
	default:
		if c != '-' && !isDigit(c) {
			return i, unexpected(b, i, "a value")
		}
		if i, err = skipNumber(b, i); err != nil {
			return i, err
		}
	}

after:
	if depth == 0 {
		return i, nil
	}
	if i = SkipSpace(b, i); i >= len(b) {
		return i, ErrIncomplete
	}
	if objects[(depth-1)>>6]&(1<<((depth-1)&63)) == 0 {
		switch b[i] {
		case ',':
			i++
			goto value
		case ']':
			i++
			depth--
			goto after
		}
		return i, unexpected(b, i, "a comma or ]")
	}
	switch b[i] {
	case ',':
		i = SkipSpace(b, i+1)
	case '}':
		i++
		depth--
		goto after
	default:
		return i, unexpected(b, i, "a comma or }")
	}

key:
	if i, err = SkipString(b, i); err != nil {
		return i, err
	}
	if i = SkipSpace(b, i); i >= len(b) {
		return i, ErrIncomplete
	}
	if b[i] != ':' {
		return i, unexpected(b, i, "a colon")
	}
	i++
	goto value
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// stops marks, in the high bit of each byte of w, the bytes that plain text in a string cannot go on over: controls,
// quotes, backslashes and bytes beyond ASCII. The lowest mark is exact; a borrow may add false ones above it.
func stops(w uint64) uint64 {
	return (w | ((w ^ ones*'"') - ones) | ((w ^ ones*'\\') - ones) | (w - ones*' ')) & highs
}

// plain returns the position of the first byte at or after i that stops marks, or one of the last seven before the end.
func plain(b []byte, i int) int {
	for i+8 <= len(b) {
		if m := stops(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	return i
}

// SkipString validates the string whose opening quote is b[i] and returns the position behind its closing quote. Errors
// are those of Skip; b[i] being no quote is a *SyntaxError.
func SkipString(b []byte, i int) (end int, err error) {
	if i >= len(b) {
		return i, ErrIncomplete
	}
	if b[i] != '"' {
		return i, unexpected(b, i, "a string")
	}
	i++
	for {
		if i = plain(b, i); i >= len(b) {
			return i, ErrIncomplete
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, nil
		case c == '\\':
			if i, err = skipEscape(b, i); err != nil {
				return i, err
			}
		case c >= utf8.RuneSelf:
			for i < len(b) && b[i] >= utf8.RuneSelf {
				r, n := utf8.DecodeRune(b[i:])
				if r == utf8.RuneError && n == 1 {
					if !utf8.FullRune(b[i:]) {
						return i, ErrIncomplete
					}
					return i, &SyntaxError{Offset: i, Msg: "invalid UTF-8 in a string"}
				}
				i += n
			}
		case c < ' ':
			return i, &SyntaxError{Offset: i, Msg: "control character in a string; it must be escaped"}
		default:
			i++
		}
	}
}

// skipEscape steps over the escape whose backslash is b[i].
func skipEscape(b []byte, i int) (int, error) {
	if i+1 >= len(b) {
		return i, ErrIncomplete
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, nil
	case 'u':
		for k := i + 2; k < i+6; k++ {
			if k >= len(b) {
				return i, ErrIncomplete
			}
			if c := b[k]; !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return i, unexpected(b, k, "four hex digits after \\u")
			}
		}
		return i + 6, nil
	}
	return i, unexpected(b, i+1, "one of \"\\/bfnrtu after a backslash")
}

func skipWord(b []byte, i int, word string) (int, error) {
	if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
		return i + len(word), nil
	}
	for k := range len(word) {
		if i+k >= len(b) {
			return i, ErrIncomplete
		}
		if b[i+k] != word[k] {
			return i, unexpected(b, i+k, word)
		}
	}
	return i + len(word), nil
}

func skipNumber(b []byte, i int) (int, error) {
	if b[i] == '-' {
		i++
	}
	if i >= len(b) {
		return i, ErrIncomplete
	}
	switch {
	case b[i] == '0':
		i++
		if i < len(b) && isDigit(b[i]) {
			return i, &SyntaxError{Offset: i, Msg: "a number must not begin with 0"}
		}
	case isDigit(b[i]):
		for i < len(b) && isDigit(b[i]) {
			i++
		}
	default:
		return i, unexpected(b, i, "a digit")
	}
	var err error
	if i < len(b) && b[i] == '.' {
		if i, err = skipDigits(b, i+1); err != nil {
			return i, err
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return skipDigits(b, i)
	}
	return i, nil
}

// skipDigits steps over one digit or more.
func skipDigits(b []byte, i int) (int, error) {
	if i >= len(b) {
		return i, ErrIncomplete
	}
	if !isDigit(b[i]) {
		return i, unexpected(b, i, "a digit")
	}
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	return i, nil
}
