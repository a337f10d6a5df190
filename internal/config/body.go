package config

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// body makes compact JSON of what was typed, its keys in the order typed; a scalar stays a text.
func (d *decoder) body(n *node, path string) Body {
	d.hideBody(n)
	if n.kind == scalar {
		text, _, _ := d.text(n, path)
		return Body{Text: Secret(text)}
	}
	var b bytes.Buffer
	d.json(&b, n, path)
	return Body{JSON: b.Bytes()}
}

func (d *decoder) hideBody(n *node) {
	if n.kind == scalar {
		d.hideScalar(n)
	}
	for _, e := range n.entries {
		if soundsSecret(e.key) {
			d.hideAll(e.value)
		} else if e.value.kind != scalar {
			d.hideBody(e.value)
		}
	}
	for _, item := range n.items {
		if item.kind != scalar {
			d.hideBody(item)
		}
	}
}

func (d *decoder) json(b *bytes.Buffer, n *node, path string) {
	switch n.kind {
	case null:
		b.WriteString("null")
	case scalar:
		text, _, ok := d.text(n, path)
		if !ok {
			return
		}
		if number, ok := plainJSON(n, text); ok {
			b.WriteString(number)
			return
		}
		writeString(b, text)
	case sequence:
		b.WriteByte('[')
		for i, item := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			d.json(b, item, path+"["+strconv.Itoa(i)+"]")
		}
		b.WriteByte(']')
	case mapping:
		b.WriteByte('{')
		for i, e := range n.entries {
			if i > 0 {
				b.WriteByte(',')
			}
			writeString(b, e.key)
			b.WriteByte(':')
			d.json(b, e.value, join(path, e.key))
		}
		b.WriteByte('}')
	}
}

// plainJSON gives the JSON form of a scalar typed without quotes that is no text. A number keeps all its digits, and
// what is a number to YAML but not to JSON for its leading zeros (007) stays a text.
func plainJSON(n *node, text string) (string, bool) {
	if !n.plain {
		return "", false
	}
	switch text {
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return strings.ToLower(text), true
	}
	digits := strings.TrimPrefix(text, "+")
	if digits == "" || !strings.ContainsAny(digits[:1], "-0123456789") {
		return "", false
	}
	if json.Valid([]byte(digits)) {
		return digits, true
	}
	for _, base := range []string{"0x", "0o"} {
		if rest, ok := strings.CutPrefix(digits, base); ok {
			if whole, err := strconv.ParseUint(base+rest, 0, 64); err == nil {
				return strconv.FormatUint(whole, 10), true
			}
		}
	}
	return "", false
}

func writeString(b *bytes.Buffer, text string) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // a string always can be
	b.Truncate(b.Len() - 1)
}
