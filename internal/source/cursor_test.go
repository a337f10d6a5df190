package source

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/config"
	"ferry/internal/record"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The form of a cursor is a contract: cursors outlive the ferry that wrote them. A change needs a new version.
func TestCursorForm(t *testing.T) {
	n := int64(7)
	at := func(v string, ages ...uint32) *mark {
		return &mark{Value: json.RawMessage(v), IDs: boundary{ids: []uint64{1, 0xabcdef012345}, ages: ages}}
	}
	var trail *trail
	for _, token := range []string{"a", "b", "c"} {
		trail, _ = trail.step(token)
	}
	var out strings.Builder
	for _, p := range []*position{
		{},
		{Style: styleURL, URL: "/x?a=1&b=<2>", Pages: 3, Empty: 1, Loop: trail},
		{Style: styleCursor, Token: json.RawMessage(`"tok"`)},
		{Style: stylePage, Number: &n, Page: &progress{IDs: shortIDs{1, 0xfedcba9876543210}}},
		{Style: styleOffset, Number: &n, Page: &progress{Count: 5000, Sum: 0xabc}},
		{Style: styleNone, Since: at(`"2024-01-01T00:00:00Z"`), UpTo: at("1700000000", 0, 1<<31)},
		{Since: &mark{Value: json.RawMessage("5"), Full: true}},
	} {
		c := p.encode()
		out.Write(append(c, '\n'))
		back, err := decodeCursor(c)
		if err != nil {
			t.Errorf("%s: %v", c, err)
		} else if again := back.encode(); string(again) != string(c) {
			t.Errorf("%s comes back as %s", c, again)
		}
	}
	golden := filepath.Join("testdata", "cursors.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("cursors are written as\n%swant\n%s", out.String(), want)
	}
}

func TestCursorsThatDoNotFit(t *testing.T) {
	const form = "cursor: the saved cursor "
	page := config.Source{Paginate: config.Paginate{Page: &config.PagePaging{Start: 1}}}
	for _, c := range []struct {
		name   string
		cfg    config.Source
		cursor string
		want   string
	}{
		{"no JSON", page, `abc`, form + `is not one of this source's: it must be a JSON object with "v"; reset it, or set one that was saved before`},
		{"array", page, `[1]`, form + `is not one of this source's: it must be a JSON object with "v"; reset it, or set one that was saved before`},
		{"no version", page, `{"n":1}`, form + "has version 0, and this ferry reads version 1; use the ferry that wrote it, or reset the cursor"},
		{"newer", page, `{"v":2,"new":true}`, form + "has version 2, and this ferry reads version 1; use the ferry that wrote it, or reset the cursor"},
		{"unknown key", page, `{"v":1,"x":1}`, form + `cannot be read: json: unknown field "x"; reset it, or set one that was saved before`},
		{"negative", page, `{"v":1,"n":-1}`, form + "has a negative count; reset it"},
		{"another pagination", page, `{"v":1,"by":"cursor","token":"x"}`, form + "is in the middle of pages that follow each other by paginate: cursor, and the configuration says page; set it back, or reset the cursor"},
		{"half an id", page, `{"v":1,"by":"page","page":{"ids":"AAAA"}}`, form + "cannot be read: ids are not whole; reset it, or set one that was saved before"},
		{"large", page, `{"v":1,"url":"` + strings.Repeat("x", 100_000) + `"}`, form + "has 100016 bytes; reset it"},
		{"another type", config.Source{Incremental: inc(config.Incremental{Type: "date"})}, `{"v":1,"since":{"value":7}}`, "cursor: the saved mark 7 is not of incremental.type date; reset the cursor, or set the type back"},
		{"overlap of a number", config.Source{Incremental: inc(config.Incremental{Overlap: config.Duration(time.Hour)})}, `{"v":1,"since":{"value":7}}`, "cursor: incremental.overlap cannot be taken from 7, which is no time; say what it is with incremental.type, or leave overlap out"},
		{"another origin", page, `{"v":1,"by":"page","url":"http://evil.example/"}`, "blocked: the link to the next page leads to another origin, http://evil.example:80; if that is right, set base to it or add evil.example to allow.hosts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Base = "http://127.0.0.1:1"
			s := open(t, c.cfg, Options{})
			_, err := tryAll(t, s, record.Cursor(c.cursor))
			if err == nil || err.Error() != c.want {
				t.Errorf("error\n got %v\nwant %s", err, c.want)
			}
			if _, derr := s.Describe(record.Cursor(c.cursor)); derr == nil || derr.Error() != c.want {
				t.Errorf("Describe says %v", derr)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	cfg := config.Source{
		Base: "https://me:pass@api.example.com/v2/", Get: "orders?x=1", Query: config.Params{"status": "open", "access_token": "abcdefg"},
		Auth:     config.SourceAuth{APIKey: &config.Key{Value: "s3cr3t/&", Query: "k"}},
		Paginate: config.Paginate{Page: &config.PagePaging{Start: 1}},
	}
	got, err := open(t, cfg, Options{}).Describe(record.Cursor(`{"v":1,"n":5}`))
	if want := "GET https://api.example.com/v2/orders?access_token=[secret]&page=5&status=open&x=1&k=[secret]"; got != want || err != nil {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}

func FuzzCursor(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "cursors.txt"))
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(golden)) {
		f.Add([]byte(line))
	}
	f.Add([]byte(`{"v":1,"since":{"value":"2024-01-01T00:00:00Z","ids":":AAAAAAABAAAAAA"}}`))
	var sources []*Source
	for _, cfg := range []config.Source{
		{Incremental: inc(config.Incremental{Overlap: config.Duration(time.Hour)})},
		{Incremental: inc(config.Incremental{Type: "string"}), Paginate: config.Paginate{NextURL: ".n"}},
		{Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".n", Into: "query.t"}}},
		{Paginate: config.Paginate{Page: &config.PagePaging{}}},
	} {
		cfg.Base = "http://localhost"
		s, err := New(cfg, Options{Pipeline: "p"})
		if err != nil {
			f.Fatal(err)
		}
		sources = append(sources, s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range sources {
			pos, err := s.position(b)
			var e *Error
			if err != nil {
				if !errors.As(err, &e) || e.Kind != KindCursor {
					t.Fatalf("error %v is not of kind cursor", err)
				}
				continue
			}
			if _, err := s.build(pos); err != nil && !errors.As(err, &e) {
				t.Fatalf("error %v is no *Error", err)
			}
			c := pos.encode()
			if again, err := s.position(c); err != nil || string(again.encode()) != string(c) {
				t.Fatalf("%s comes back as %s, %v", b, c, err)
			}
		}
	})
}
