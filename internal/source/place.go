package source

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"ferry/internal/jsonscan"
)

// place is where a value goes in a request: query.NAME, header.NAME or body.PATH.
type place struct {
	in   string // query, header or body
	name string
	path []string // of a body
}

func parsePlace(key, s string) (place, error) {
	in, name, _ := strings.Cut(s, ".")
	p := place{in: in, name: name}
	switch {
	case name == "":
	case in == "query":
		return p, nil
	case in == "header":
		p.name = http.CanonicalHeaderKey(name)
		return p, nil
	case in == "body":
		p.path = strings.Split(name, ".")
		if slices.Contains(p.path, "") {
			return place{}, fmt.Errorf("%s: %q has an empty step; write body.a.b", key, s)
		}
		return p, nil
	}
	return place{}, fmt.Errorf("%s: %q is none of query.NAME, header.NAME and body.PATH", key, s)
}

// draft is a request in the making.
type draft struct {
	query  url.Values
	header http.Header
	body   []byte // an object; nil when nothing is put into it
}

// put writes a raw JSON value to the place: as it is into a body, as text elsewhere.
func (d *draft) put(p place, raw []byte) error {
	switch p.in {
	case "query":
		d.query.Set(p.name, textOf(raw))
	case "header":
		d.header.Set(p.name, textOf(raw))
	case "body":
		body, err := setIn(d.body, p.path, raw)
		if err != nil {
			return fmt.Errorf("body.%s leads through a value that is not an object", strings.Join(p.path, "."))
		}
		d.body = body
	}
	return nil
}

// textOf is a raw JSON value as text: what a string stands for, anything else as it is written.
func textOf(raw []byte) string {
	if len(raw) > 0 && raw[0] == '"' {
		if s, err := jsonscan.Unquote(raw); err == nil {
			return s
		}
	}
	return string(raw)
}

// mapping is a body that members can be put into.
func mapping(raw []byte) ([]byte, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return []byte("{}"), nil
	}
	if end, err := jsonscan.Skip(raw, 0, jsonscan.MaxDepth); err != nil || end != len(raw) || raw[0] != '{' {
		return nil, errors.New("body: to carry body.PATH it must be a mapping")
	}
	return raw, nil
}

var errNoObject = errors.New("a value on the way is not an object")

// setIn gives the object with a raw JSON value at the path, and the order of its members as it was: some APIs go by it.
func setIn(object []byte, path []string, raw []byte) ([]byte, error) {
	out := []byte{'{'}
	add := func(key, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), value...)
	}
	inner := func(value []byte) ([]byte, error) {
		switch {
		case len(path) == 1:
			return raw, nil
		case string(value) == "null":
			return setIn([]byte("{}"), path[1:], raw)
		case value[0] != '{':
			return nil, errNoObject
		}
		return setIn(value, path[1:], raw)
	}
	found := false
	w := jsonscan.Walk(object, 0, jsonscan.MaxDepth)
	for w.Next() {
		value := w.Value()
		if jsonscan.KeyIs(w.Key(), path[0]) {
			if found { // a second one of the name would count instead
				continue
			}
			found = true
			var err error
			if value, err = inner(value); err != nil {
				return nil, err
			}
		}
		add(w.Key(), value)
	}
	if !found {
		value, err := inner([]byte("null"))
		if err != nil {
			return nil, err
		}
		add(jsonscan.AppendQuote(nil, path[0]), value)
	}
	return append(out, '}'), nil
}
