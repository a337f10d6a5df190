package jsonscan

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// Unquote decodes a raw JSON string, quotes included. Half a surrogate pair becomes U+FFFD, as in encoding/json. What is
// not exactly one valid string is an error of Skip's.
func Unquote(b []byte) (string, error) {
	end, err := SkipString(b, 0)
	if err != nil {
		return "", err
	}
	if end != len(b) {
		return "", unexpected(b, end, "the end")
	}
	body := b[1 : end-1]
	if bytes.IndexByte(body, '\\') < 0 {
		return string(body), nil
	}
	return string(AppendUnescaped(make([]byte, 0, len(body)), body)), nil
}

// AppendUnescaped appends what the inside of a valid raw string, without its quotes, stands for.
func AppendUnescaped(dst, body []byte) []byte {
	for {
		k := bytes.IndexByte(body, '\\')
		if k < 0 || k+1 >= len(body) {
			return append(dst, body...)
		}
		dst = append(dst, body[:k]...)
		c := body[k+1]
		body = body[k+2:]
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			if len(body) < 4 {
				return dst
			}
			r := hex4(body)
			body = body[4:]
			if utf16.IsSurrogate(r) {
				low := rune(utf8.RuneError)
				if len(body) >= 6 && body[0] == '\\' && body[1] == 'u' {
					low = hex4(body[2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					body = body[6:]
				}
			}
			dst = utf8.AppendRune(dst, r)
		default: // " \ /
			dst = append(dst, c)
		}
	}
}

// hex4 reads four valid hex digits.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		if !isDigit(c) {
			c = c&^0x20 - 'A' + '9' + 1
		}
		r = r<<4 | rune(c-'0')
	}
	return r
}

// KeyIs says whether the raw key, quotes included, stands for name, whatever escapes it is written with.
func KeyIs(raw []byte, name string) bool {
	body := raw[1 : len(raw)-1]
	if bytes.IndexByte(body, '\\') < 0 {
		return string(body) == name
	}
	var stack [64]byte
	return string(AppendUnescaped(stack[:0], body)) == name
}

// AppendQuote appends s as a JSON string. It escapes quotes, backslashes, controls and DEL, writes everything else as it
// is, and \ufffd for bytes that are not UTF-8: what jq writes.
func AppendQuote(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		n := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, n = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			if c >= utf8.RuneSelf {
				dst = append(dst, `\ufffd`...)
			} else {
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
		}
		i += n
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// Compact appends the valid JSON text b without the white space between its tokens.
func Compact(dst, b []byte) []byte {
	start := 0
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			end, err := SkipString(b, i)
			if err != nil { // not valid, against the contract: copy the rest as it is
				return append(dst, b[start:]...)
			}
			i = end
		case isSpace(c):
			dst = append(dst, b[start:i]...)
			i = SkipSpace(b, i)
			start = i
		default:
			i++
		}
	}
	return append(dst, b[start:]...)
}
