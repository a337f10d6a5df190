package source

import (
	"bytes"
	"encoding/json"
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
	body   map[string]any
}

// put writes a raw JSON value to the place: as it is into a body, as text elsewhere.
func (d *draft) put(p place, raw []byte) error {
	switch p.in {
	case "query":
		d.query.Set(p.name, textOf(raw))
	case "header":
		d.header.Set(p.name, textOf(raw))
	case "body":
		at := d.body
		for i, step := range p.path {
			if i == len(p.path)-1 {
				at[step] = json.RawMessage(raw)
				break
			}
			next, ok := at[step].(map[string]any)
			if !ok {
				if at[step] != nil {
					return fmt.Errorf("body.%s leads through a value that is not an object", strings.Join(p.path, "."))
				}
				next = make(map[string]any)
				at[step] = next
			}
			at = next
		}
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

func decodeBody(raw []byte) (map[string]any, error) {
	body := make(map[string]any)
	if len(raw) == 0 {
		return body, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // numbers are sent as they were typed
	if err := d.Decode(&body); err != nil || body == nil {
		return nil, errors.New("body: to carry body.PATH it must be a mapping")
	}
	return body, nil
}

func encodeBody(body map[string]any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, fmt.Errorf("encode request body: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
