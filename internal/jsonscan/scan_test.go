package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

var valid = []string{
	`null`, `true`, `false`, `0`, `-0`, `-0.0`, `1e400`, `1E-9`, `12345678901234567890`, `1.10`, `""`, `"a"`, `"é"`, `"😀"`,
	`"\u0041\ud83d\ude00\ud800"`, `"\"\\\/\b\f\n\r\t"`, "\"\x7f\"", `[]`, `{}`, `[ ]`, `{ }`, `[1,2,[3,{"a":[]}]]`,
	`{"a":1,"a":2,"":null}`, " \t\r\n [ 1 , { \"a\" : \"b\" } ] \n", `"12345678"`, `"1234567\n12345678901"`,
}

func TestValid(t *testing.T) {
	for _, s := range valid {
		if err := Valid([]byte(s), MaxDepth); err != nil {
			t.Errorf("Valid(%q): %v", s, err)
		}
		if !json.Valid([]byte(s)) {
			t.Errorf("the case %q is not JSON", s)
		}
	}
}

func TestInvalid(t *testing.T) {
	for _, c := range []struct {
		in     string
		offset int
		msg    string
	}{
		{`x`, 0, "expected a value, found 'x'"},
		{`nulL`, 3, "expected null, found 'L'"},
		{`trux`, 3, "expected true, found 'x'"},
		{`01`, 1, "a number must not begin with 0"},
		{`-x`, 1, "expected a digit, found 'x'"},
		{`+1`, 0, "expected a value, found '+'"},
		{`1.x`, 2, "expected a digit, found 'x'"},
		{`1e+x`, 3, "expected a digit, found 'x'"},
		{`.5`, 0, "expected a value, found '.'"},
		{`[1,]`, 3, "expected a value, found ']'"},
		{`[1}`, 2, "expected a comma or ], found '}'"},
		{`[1 2]`, 3, "expected a comma or ], found '2'"},
		{`{"a":1,}`, 7, "expected a string, found '}'"},
		{`{"a" 1}`, 5, "expected a colon, found '1'"},
		{`{"a":1]`, 6, "expected a comma or }, found ']'"},
		{`{a:1}`, 1, "expected a string, found 'a'"},
		{`"\x"`, 2, `expected one of "\/bfnrtu after a backslash, found 'x'`},
		{`"\u12g4"`, 5, `expected four hex digits after \u, found 'g'`},
		{"\"a\nb\"", 2, "control character in a string; it must be escaped"},
		{"\"a\xffb\"", 2, "invalid UTF-8 in a string"},
		{"\"\xed\xa0\x80\"", 1, "invalid UTF-8 in a string"},
		{"\xff", 0, "expected a value, found byte 0xff"},
		{`1 2`, 2, "expected the end, found '2'"},
		{`{}}`, 2, "expected the end, found '}'"},
		{"\v1", 0, `expected a value, found '\v'`},
	} {
		var se *SyntaxError
		if err := Valid([]byte(c.in), MaxDepth); !errors.As(err, &se) || se.Offset != c.offset || se.Msg != c.msg {
			t.Errorf("Valid(%q) = %v, want byte %d: %s", c.in, err, c.offset, c.msg)
		}
	}
}

// Every proper beginning of a text is incomplete, unless it is a whole number already.
func TestIncomplete(t *testing.T) {
	for _, s := range valid {
		s = strings.TrimSpace(s)
		for n := range len(s) {
			end, err := Skip([]byte(s[:n]), 0, MaxDepth)
			if err == nil && end == n && KindOf(s[0]) == Number {
				continue
			}
			if err != ErrIncomplete {
				t.Errorf("Skip(%q) = %d, %v, want ErrIncomplete", s[:n], end, err)
			}
		}
	}
}

func TestSkipStopsBehindTheValue(t *testing.T) {
	for _, s := range valid {
		if end, err := Skip([]byte(s+" ,1"), 0, MaxDepth); err != nil || end != len(strings.TrimRight(s, " \n")) {
			t.Errorf("Skip(%q) = %d, %v", s, end, err)
		}
	}
	if end, err := Skip([]byte(`[1,{"a":2}]`), 3, 1); err != nil || end != 10 {
		t.Errorf("Skip from within = %d, %v", end, err)
	}
}

func TestDepth(t *testing.T) {
	nest := func(n int) []byte {
		return []byte(strings.Repeat(`[{"a":`, n/2) + strings.Repeat("[", n%2) + "1" + strings.Repeat("]", n%2) + strings.Repeat("}]", n/2))
	}
	for _, c := range []struct {
		depth, limit int
		want         error
	}{{0, 0, nil}, {1, 0, ErrDepth}, {1, 1, nil}, {65, 65, nil}, {66, 65, ErrDepth}, {MaxDepth, MaxDepth, nil}, {MaxDepth + 1, 1 << 30, ErrDepth}} {
		if err := Valid(nest(c.depth), c.limit); err != c.want {
			t.Errorf("depth %d, limit %d: %v, want %v", c.depth, c.limit, err, c.want)
		}
	}
}

func TestWalk(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`[]x`, ``}, {` { } `, ``}, {`[1, "a" ,[2] ]`, `1|"a"|[2]|`}, {`{"a" : 1,"b":{"c":[]}}`, `"a"=1|"b"={"c":[]}|`},
	} {
		w := Walk([]byte(c.in), 0, MaxDepth)
		got := ""
		for w.Next() {
			if w.Key() != nil {
				got += string(w.Key()) + "="
			}
			got += string(w.Value()) + "|"
		}
		end, _ := Skip([]byte(c.in), 0, MaxDepth)
		if got != c.want || w.Err() != nil || w.End() != end {
			t.Errorf("Walk(%q) = %q, end %d, %v; want %q, end %d", c.in, got, w.End(), w.Err(), c.want, end)
		}
	}
	for in, want := range map[string]string{
		`1`: "an array or object", `[1 2]`: "a comma or ]", `{"a" 1}`: "a colon", `{"a":x}`: "a value", `[1`: "middle", `{"a":1`: "middle",
	} {
		w := Walk([]byte(in), 0, MaxDepth)
		for w.Next() {
		}
		if w.Err() == nil || !strings.Contains(w.Err().Error(), want) {
			t.Errorf("Walk(%q): %v, want %q", in, w.Err(), want)
		}
	}
	if w := Walk([]byte(`[[1]]`), 0, 1); w.Next() || w.Err() != ErrDepth {
		t.Errorf("depth: %v", w.Err())
	}
}

func TestNothingIsAllocated(t *testing.T) {
	page := []byte(`{"data":[{"id":1,"name":"a\nb"},{"id":2,"na\u006de":"é"}],"next":null}`)
	path := []Step{{Key: "data"}, {Index: -1, IsIndex: true}, {Key: "name"}}
	dst := make([]byte, 0, 1000)
	n := testing.AllocsPerRun(100, func() {
		w := Walk(page, 0, 10)
		for w.Next() {
			KeyIs(w.Key(), "next")
		}
		if got, found, err := Get(page, path); err != nil || !found || string(got) != `"é"` {
			t.Fatal(string(got), found, err)
		}
		dst = AppendQuote(Compact(dst[:0], page), "a\nb")
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzSkip(f *testing.F) {
	for _, s := range valid {
		f.Add([]byte(s))
	}
	for _, s := range []string{`[1,]`, `01`, "\"\xff\"", `{"a"`, `"\ud8`, `1.`, `tru`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := Valid(b, MaxDepth)
		if err == ErrDepth {
			return
		}
		if want := json.Valid(b) && utf8.Valid(b); (err == nil) != want {
			t.Fatalf("Valid(%q) = %v, encoding/json says %v", b, err, want)
		}
		var se *SyntaxError
		if errors.As(err, &se) && (se.Offset < 0 || se.Offset >= len(b)) {
			t.Fatalf("Valid(%q): offset %d", b, se.Offset)
		}
		if err == ErrIncomplete && len(b) > 0 {
			for n := range b {
				if e := Valid(b[:n], MaxDepth); errors.As(e, &se) {
					t.Fatalf("%q is incomplete, but its beginning %q has %v", b, b[:n], e)
				}
			}
		}
		if err != nil {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, b); err != nil {
			t.Fatal(err)
		}
		if got := Compact(nil, b); !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("Compact(%q) = %q, want %q", b, got, want.Bytes())
		}
	})
}

func BenchmarkSkip(b *testing.B) {
	page := benchPage()
	b.Run("jsonscan", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		for b.Loop() {
			if err := Valid(page, MaxDepth); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		for b.Loop() {
			if !json.Valid(page) {
				b.Fatal("invalid")
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	page := benchPage()
	record, _, err := Get(page, []Step{{Key: "data"}, {Index: 1, IsIndex: true}})
	if err != nil {
		b.Fatal(err)
	}
	path := []Step{{Key: "customer"}, {Key: "email"}}
	b.SetBytes(int64(len(record)))
	for b.Loop() {
		if _, found, err := Get(record, path); err != nil || !found {
			b.Fatal(found, err)
		}
	}
}

func benchPage() []byte {
	const record = `{"id":1000001,"number":"ORD-2024-000001","url":"https://api.example.com/v2/shops/17/orders/1000001",` +
		`"customer":{"id":7,"name":"Ana Müller","email":"user7@example.com","address":{"street":"alpha str. 12","city":"Köln",` +
		`"geo":{"lat":50.937531,"lng":6.960279}}},"price":12.5,"currency":"EUR","tags":["VIP","EU-Region"],"lines":[` +
		`{"sku":"sku-00017","title":"alpha beta","price":99.95,"qty":2},{"sku":"sku-00018","title":"gamma","price":1.05,"qty":4}],` +
		`"status":"open","created_at":"2024-01-02T03:04:05Z","note":"please call before delivery \"urgent\"\nsecond floor, left at the door, handle with care",` +
		`"score":0.123456,"flags":{"gift":true,"express":false},"assignee":null}`
	return []byte(`{"data":[` + strings.Repeat(record+",", 999) + record + `],"next":null}`)
}
