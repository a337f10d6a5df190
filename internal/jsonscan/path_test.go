package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

func key(k string) Step { return Step{Key: k} }
func at(i int) Step     { return Step{Index: i, IsIndex: true} }

func TestGet(t *testing.T) {
	each := Step{Each: true}
	for _, c := range []struct {
		in    string
		path  []Step
		want  string // "" for not found
		error string
	}{
		{` {"a": 1} `, nil, `{"a": 1}`, ""},
		{`{"a":1,"b":2}`, []Step{key("b")}, `2`, ""},
		{`{"a":{"b":[10,20]}}`, []Step{key("a"), key("b"), at(1)}, `20`, ""},
		{`{"a":{"b":[10,20]}}`, []Step{key("a"), key("b"), at(-2)}, `10`, ""},
		{`[10,20]`, []Step{at(-3)}, ``, ""},
		{`[10,20]`, []Step{at(2)}, ``, ""},
		{`[ {"a" : 5} ]`, []Step{each, key("a")}, `5`, ""},
		{`[]`, []Step{each}, ``, ""},
		{`{"a":null}`, []Step{key("a"), key("b"), at(0)}, ``, ""},
		{`{"a":null}`, []Step{key("a")}, `null`, ""},
		{`{"a":1,"a":2}`, []Step{key("a")}, `2`, ""},
		{`{"a":{"b":1},"a":{}}`, []Step{key("a"), key("b")}, ``, ""},
		{`{"a":7,"a":{"b":1}}`, []Step{key("a"), key("b")}, `1`, ""},
		{`{"\u0061\n":1}`, []Step{key("a\n")}, `1`, ""},
		{`{"é":1}`, []Step{key("é")}, `1`, ""},
		{`{"\u00e9":1}`, []Step{key("é")}, `1`, ""},
		{`{"":1}`, []Step{key("")}, `1`, ""},
		{`{"a":1}`, []Step{key("a"), key("b")}, ``, "step 2 of the path needs an object but meets a value of type number"},
		{`{"a":[]}`, []Step{key("a"), key("b")}, ``, "step 2 of the path needs an object but meets a value of type array"},
		{`{"a":{}}`, []Step{key("a"), at(0)}, ``, "step 2 of the path needs an array but meets a value of type object"},
		{`"x"`, []Step{each}, ``, "step 1 of the path needs an array but meets a value of type string"},
		{`{"a":1} x`, []Step{key("a")}, ``, "invalid JSON at byte 8: expected the end, found 'x'"},
		{`{"a":1,"b":}`, []Step{key("a")}, ``, "invalid JSON at byte 11: expected a value, found '}'"},
		{`{"a":1`, []Step{key("a")}, ``, ErrIncomplete.Error()},
		{``, []Step{key("a")}, ``, ErrIncomplete.Error()},
		{`[`, []Step{at(-1)}, ``, ErrIncomplete.Error()},
	} {
		got, found, err := Get([]byte(c.in), c.path)
		if c.error != "" {
			if err == nil || err.Error() != c.error {
				t.Errorf("Get(%s, %v): error %v, want %s", c.in, c.path, err, c.error)
			}
			continue
		}
		if err != nil || string(got) != c.want || found != (c.want != "") {
			t.Errorf("Get(%s, %v) = %q, %v, %v, want %q", c.in, c.path, got, found, err, c.want)
		}
	}
}

// Get finds what encoding/json finds.
func FuzzGet(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,{"c":2}]},"\u0061":[]}`), "a", "b", 1)
	f.Add([]byte(`[[{"a":1,"a":[2]}]]`), "a", "", -1)
	f.Add([]byte(`{"\ud800":{"":[null]}}`), "\ufffd", "", 0)
	f.Fuzz(func(t *testing.T, b []byte, k1, k2 string, index int) {
		if Valid(b, MaxDepth) != nil {
			return
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		for _, path := range [][]Step{{key(k1)}, {key(k1), key(k2)}, {key(k1), at(index)}, {at(index)}, {at(index), key(k1)}, {key(k1), key(k2), at(index)}} {
			want, wantFound, wantKind := reference(v, path)
			raw, found, err := Get(b, path)
			if kind := new(KindError); errors.As(err, &kind) != wantKind || !wantKind && err != nil || found != wantFound {
				t.Fatalf("Get(%s, %v) = %s, %v, %v; want %v, %v", b, path, raw, found, err, want, wantFound)
			}
			if !found {
				continue
			}
			var got any
			d := json.NewDecoder(bytes.NewReader(raw))
			d.UseNumber()
			if err := d.Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("Get(%s, %v) = %s, want %v", b, path, raw, want)
			}
		}
	})
}

func reference(v any, path []Step) (value any, found, wrongKind bool) {
	for _, s := range path {
		switch x := v.(type) {
		case nil:
			return nil, false, false
		case map[string]any:
			if s.IsIndex {
				return nil, false, true
			}
			var ok bool
			if v, ok = x[s.Key]; !ok {
				return nil, false, false
			}
		case []any:
			if !s.IsIndex {
				return nil, false, true
			}
			i := s.Index
			if i < 0 {
				i += len(x)
			}
			if i < 0 || i >= len(x) {
				return nil, false, false
			}
			v = x[i]
		default:
			return nil, false, true
		}
	}
	return v, true, false
}

func TestUnquote(t *testing.T) {
	for in, want := range map[string]string{
		`""`: "", `"a"`: "a", `"\"\\\/\b\f\n\r\t"`: "\"\\/\b\f\n\r\t", `"\u00e9\u20AC"`: "é€", `"\ud83d\ude00!"`: "😀!",
		`"\ud83d"`: "\ufffd", `"\ud83dx"`: "\ufffdx", `"\ud83d\n"`: "\ufffd\n", `"\ud83d\u0041"`: "\ufffdA", `"\ude00\ud83d"`: "\ufffd\ufffd",
	} {
		got, err := Unquote([]byte(in))
		var std string
		if e := json.Unmarshal([]byte(in), &std); err != nil || e != nil || got != want || std != want {
			t.Errorf("Unquote(%s) = %q, %v, want %q, encoding/json %q", in, got, err, want, std)
		}
	}
	for _, in := range []string{``, `"`, `a`, `"a"b`, `"\x"`} {
		if got, err := Unquote([]byte(in)); err == nil {
			t.Errorf("Unquote(%s) = %q, want an error", in, got)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("a\"\\\b\f\n\r\t\x00\x1f\x7fé😀\u2028")
	f.Add("\xff\xed\xa0\x80")
	f.Fuzz(func(t *testing.T, s string) {
		q := AppendQuote(nil, s)
		var std string
		if err := json.Unmarshal(q, &std); err != nil {
			t.Fatalf("AppendQuote(%q) = %s: %v", s, q, err)
		}
		if got, err := Unquote(q); err != nil || got != std || got != string(bytes.ToValidUTF8([]byte(s), []byte("\ufffd"))) && !bytes.Contains(q, []byte(`\ufffd\ufffd`)) {
			t.Fatalf("Unquote(%s) = %q, %v, want %q", q, got, err, std)
		}
	})
}
