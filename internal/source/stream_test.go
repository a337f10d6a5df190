package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"ferry/internal/config"
	"ferry/internal/record"
)

// wide is a record with an id and a weight of about 1 KB.
func wide(id int) string {
	return fmt.Sprintf(`{"id":%d,"pad":%q}`, id, strings.Repeat("x", 1000))
}

func widePage(from, to int) string {
	var b strings.Builder
	b.WriteString(`{"before":{"a":[1,2]},"data":[`)
	for i := from; i < to; i++ {
		if i > from {
			b.WriteString(" ,\n")
		}
		b.WriteString(wide(i))
	}
	b.WriteString(`],"after":{"next":null}}`)
	return b.String()
}

// slowly writes in pieces that end anywhere, to show that no boundary matters.
func slowly(w io.Writer, s string, piece int) {
	for len(s) > 0 {
		n := min(piece, len(s))
		_, _ = io.WriteString(w, s[:n])
		s = s[n:]
	}
}

func TestLargePageComesInParts(t *testing.T) {
	const n = 5000
	body := widePage(0, n)
	for _, known := range []bool{true, false} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", jsonType)
			if known {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			slowly(w, body, 77_777)
		})
		s := open(t, config.Source{Base: url, Records: ".data[]", Key: ".id", Paginate: config.Paginate{NextURL: ".after.next"}}, Options{})
		p := readAll(t, s, nil)
		if len(p.data) != n || p.pages != 1 || p.parts < 4 || p.parts > 6 {
			t.Fatalf("known length %t: %d records in %d parts", known, len(p.data), p.parts)
		}
		for i, d := range p.data {
			if d != wide(i) {
				t.Fatalf("record %d is %.40s", i, d)
			}
		}
	}
}

func TestPageOfKnownSizeIsOnePart(t *testing.T) {
	body := widePage(0, 1800) // more than a part, less than two
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = io.WriteString(w, body)
	})
	p := readAll(t, open(t, config.Source{Base: url, Records: ".data[]"}, Options{}), nil)
	if len(p.data) != 1800 || p.parts != 1 {
		t.Errorf("%d records in %d parts, want 1800 in 1", len(p.data), p.parts)
	}
}

func TestManySmallRecordsComeInParts(t *testing.T) {
	url := serve(t, reply(jsonType, "["+strings.Repeat("1,", 99_999)+"1]"))
	for part, err := range open(t, config.Source{Base: url}, Options{}).Read(t.Context(), nil) {
		if err != nil || len(part.Records) > partRecords || part.Bytes < 100*len(part.Records) {
			t.Fatalf("%d records, %d bytes, %v", len(part.Records), part.Bytes, err)
		}
	}
}

// Wherever the pieces of a body end, its records are the same.
func TestPiecesDoNotMatter(t *testing.T) {
	bodies := map[string]string{
		jsonType:               ` {"a" : "x\u0041\\\"" , "data":[ {"id":1,"s":"é\ud83d\ude00"}, -12.5e+3 ,"[{", [ ] , true, null , 7 ] , "b":[{}] } `,
		"application/x-ndjson": "{\"id\":1}\n-12.5\n\"é\\\"\"\n{\"x\":tru}\n[]{}true\n null \n12",
	}
	for contentType, body := range bodies {
		want := []string(nil)
		for piece := len(body); piece > 0; piece-- {
			s := open(t, config.Source{Base: "http://localhost", Records: ".data[]", Paginate: config.Paginate{NextURL: ".zz"}}, Options{})
			if contentType != jsonType {
				s = open(t, config.Source{Base: "http://localhost"}, Options{})
			}
			p := &splitter{s: s}
			p.src = &pieces{s: body, n: piece}
			p.read = func(err error) error { return err }
			if err := p.split(t.Context(), contentType); err != nil {
				t.Fatalf("pieces of %d: %v", piece, err)
			}
			var got []string
			for _, sp := range p.spans {
				r := p.at(sp)
				got = append(got, fmt.Sprint(string(r.data), r.odd == nil, p.s.identify(t.Context(), r).ID))
			}
			got = append(got, string(p.envelope))
			if want == nil {
				want = got
				if len(want) != 8 && len(want) != 10 {
					t.Fatalf("got %q", got)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("pieces of %d:\n got %q\nwant %q", piece, got, want)
			}
		}
	}
}

// What is wrong with a record, and where it ends, does not depend on how much of the body has arrived (invariant 3), and it
// takes no other record along (invariant 5).
func TestArrivalDoesNotMatter(t *testing.T) {
	const (
		lines    = "application/x-ndjson"
		large    = "the record is larger than limits.record (64 bytes)"
		deep     = "the record is nested deeper than limits.depth (4)"
		ends     = "content: the body ends in the middle of its JSON, after %d bytes"
		control  = "content: the body is not valid JSON: in a record that is passed over, a string has a control character"
		brackets = "content: the body is not valid JSON: in a record that is passed over, brackets do not fit"
	)
	xs, mebis := strings.Repeat("x", 400), strings.Repeat("x", 3<<20)
	line := func(s string) string {
		return `{"id":1}` + "\n" + s + "\n" + `{"id":3,"y":"}"}` + "\n" + `{"id":4}` + "\n"
	}
	page := func(s string) string { return `{"data":[{"id":1},` + s + `,{"id":3,"y":"}"},{"id":4}]}` }
	bad := func(reason string, size int) string {
		return fmt.Sprintf(`{"id":1} [%s: %d] {"id":3,"y":"}"} {"id":4}`, reason, size)
	}
	for _, c := range []struct {
		name, contentType, body, want string
		record                        int // limits.record, when it is not 64
	}{
		// Lines
		{"open string", lines, line(`{"id":2,"x":"` + xs), bad(large, 414), 0},
		{"open string, short", lines, line(`{"id":2,"x":"x`), bad("the line is not valid JSON: control character in a string; it must be escaped", 15), 0},
		{"open string, long", lines, line(`{"id":2,"x":"` + mebis), bad("the record is larger than limits.record (1048576 bytes)", 14+3<<20), 1 << 20},
		{"open string, plain line behind", lines, `{"id":1}` + "\n" + `{"id":2,"x":"` + xs + "\n" + `{"id":3}` + "\n", `{"id":1} [` + large + `: 414] {"id":3}`, 0},
		{"string open by its escape", lines, line(`{"id":2,"x":"` + xs + `\`), bad(large, 415), 0},
		{"open array", lines, line(`{"id":2,"x":[` + strings.Repeat("1,", 200)), bad(large, 414), 0},
		{"wrong bracket", lines, line(`{"id":2,"x":"` + xs + `"]`), bad(large, 416), 0},
		{"control character", lines, line(`{"id":2,"x":"` + xs + "\t" + xs), bad(large, 815), 0},
		{"wrong behind the limit", lines, line(`{"id":2,"x":"` + xs + `",tru}`), bad(large, 419), 0},
		{"wrong by a character beyond ASCII", lines, line("\u05e3"), bad("the line is not valid JSON: expected a value, found '\u05e3'", 3), 0},
		{"wrong before it", lines, line(`{"id":2,tru,"x":"` + xs), bad("the line is not valid JSON: expected a string, found 't'", 418), 0},
		{"bytes beyond ASCII at the limit", lines, line(`{"id":2,"x":"` + xs[:50] + "\xf0\x90\x80" + xs), bad(large, 467), 0},
		{"too deep", lines, line(`[[[[["]"]]]]]`), bad(deep, 13), 0},
		{"too deep and open", lines, line(`[[[[["]"]]]`), bad(deep, 12), 0},
		{"too deep for all", lines, line(strings.Repeat("[", 20_000)), bad(deep, 20_001), 0},
		{"large and valid", lines, line(`{"id":2,"x":"` + xs + `"}`), bad(large, 415), 0},
		{"large and valid in one line", lines, `{"id":1}{"id":2,"x":"` + xs + `"}{"id":3,"y":"}"}{"id":4}`, bad(large, 415), 0},
		{"large and valid at the end", lines, `{"id":1}` + "\n" + `{"id":2,"x":"` + xs + `"}`, `{"id":1} [` + large + `: 415]`, 0},
		{"large and open at the end", lines, `{"id":1}` + "\n" + `{"id":2,"x":"` + xs, fmt.Sprintf(ends, 422), 0},
		{"large text", lines, line(`"` + xs), bad(large, 402), 0},
		{"large number", lines, line(strings.Repeat("7", 400)), bad(large, 400), 0},
		{"first line open", lines, `{"id":1,"x":"` + xs + "\n" + `{"id":2}` + "\n", control, 0},
		{"first value over lines", lines, `{"id":1,` + "\n" + `"x":"` + xs + `"}` + "\n" + `{"id":2}` + "\n", `[` + large + `: 416] {"id":2}`, 0},
		// One value
		{"page, wrong behind the limit", jsonType, page(`{"id":2,"x":"` + xs + `",tru}`), bad(large, 419), 0},
		{"page, wrong at the limit", jsonType, page(`{"id":2,"x":"` + xs[:50] + `"!` + xs + `}`), "content: the body is not valid JSON: expected a comma or }, found '!' at byte 82", 0},
		{"page, wrong one behind", jsonType, page(`{"id":2,"x":"` + xs[:51] + `"!` + xs + `}`), bad(large, 467), 0},
		{"page, control character", jsonType, page(`{"id":2,"x":"` + xs + "\n" + `"}`), control, 0},
		{"page, control character escaped", jsonType, page(`{"id":2,"x":"` + xs + "\\\n" + `"}`), control, 0},
		{"page, wrong bracket", jsonType, page(`{"id":2,"x":"` + xs + `"]`), brackets, 0},
		{"page, too deep and too large", jsonType, page(`["` + xs + `",[[[[]]]]]`), bad(large, 413), 0},
		{"page, too deep before it", jsonType, page(`[[[[["` + xs + `"]]]]]`), bad(deep, 412), 0},
		{"page, over lines", jsonType, page(`{"id":2,` + "\n" + `"x":"` + xs + `"}`), bad(large, 416), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config.Source{Base: "http://localhost", Records: ".data[]", Key: ".id", Limits: config.SourceLimits{Record: config.Bytes(c.record), Depth: 4}}
			if c.record == 0 {
				cfg.Limits.Record = 64
			}
			if c.contentType == lines {
				cfg.Records = ""
			}
			s := open(t, cfg, Options{})
			ids := ""
			for _, piece := range []int{0, 1, 7, 64 << 10} {
				p := &splitter{s: s}
				p.read = func(err error) error { return err }
				if p.src = (&pieces{c.body, piece}); piece == 0 {
					p.buf, p.eof = []byte(c.body), true
				}
				err := p.split(t.Context(), c.contentType)
				var got, gotIDs []string
				for _, sp := range p.spans {
					e := p.at(sp)
					r := s.identify(t.Context(), e)
					gotIDs = append(gotIDs, r.ID)
					if e.odd == nil {
						got = append(got, string(r.Data))
					} else {
						got = append(got, fmt.Sprintf("[%v: %d]", r.bad, e.odd.size))
						gotIDs = append(gotIDs, string(r.Data))
					}
				}
				if err != nil {
					got = []string{err.Error()}
				}
				if strings.Join(got, " ") != c.want {
					t.Errorf("pieces of %d:\n got %s\nwant %s", piece, got, c.want)
				}
				if now := fmt.Sprint(gotIDs); piece == 0 {
					ids = now
				} else if now != ids {
					t.Errorf("pieces of %d: other ids", piece)
				}
			}
		})
	}
}

// pieces gives a text n bytes at a time.
type pieces struct {
	s string
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.s == "" {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.n)], p.s)
	p.s = p.s[n:]
	return n, nil
}

// A record beyond the limit is passed over in a stream: neither it nor the page is held.
func TestHugeRecordIsPassedOver(t *testing.T) {
	const huge = 24 << 20
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"data":[{"id":0},{"id":1,"x":["\"]}`)
		chunk := []byte(strings.Repeat(`{}[]\\\",`, 8000))
		for n := 0; n < huge; n += len(chunk) {
			_, _ = w.Write(chunk)
		}
		_, _ = io.WriteString(w, `"]},{"id":2}]}`)
	})
	s := open(t, config.Source{Base: url, Records: ".data[]", Key: ".id", Limits: config.SourceLimits{Record: 1 << 20}}, Options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p := readAll(t, s, nil)
	runtime.ReadMemStats(&after)
	if len(p.data) != 3 || p.data[0] != `{"id":0}` || p.data[2] != `{"id":2}` || len(p.bad) != 1 {
		t.Fatalf("%d records, bad %q", len(p.data), p.bad)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > huge/2 {
		t.Errorf("%d bytes were allocated for a record of %d that is thrown away", grown, huge)
	}
}

// A page of any size costs a bounded amount of memory (invariant 7).
func TestMemoryIsBounded(t *testing.T) {
	const size = 48 << 20
	line := []byte("," + wide(1))
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"data":[1`)
		for n := 0; n < size; n += len(line) {
			_, _ = w.Write(line)
		}
		_, _ = io.WriteString(w, `]}`)
	})
	s := open(t, config.Source{Base: url, Records: ".data[]"}, Options{})
	var m runtime.MemStats
	most, parts := uint64(0), 0
	for part, err := range s.Read(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if part.Bytes > 4<<20 {
			t.Fatalf("a part of %d bytes", part.Bytes)
		}
		if parts++; parts%10 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
	if most > 20<<20 {
		t.Errorf("%d bytes of heap are in use while reading", most)
	}
}

// What is kept of records that cannot go on is six times as large at worst, and bounded all the same (invariant 7).
func TestOddRecordsComeInParts(t *testing.T) {
	const n = 1000
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"id":1}`+"\n"+strings.Repeat(strings.Repeat("\x01", sampleBytes-1)+"\n", n))
	})
	s := open(t, config.Source{Base: url, Format: "ndjson"}, Options{})
	records, bad := 0, 0
	for part, err := range s.Read(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if part.Bytes > 3<<20 {
			t.Fatalf("a part of %d records and %d bytes", len(part.Records), part.Bytes)
		}
		records, bad = records+len(part.Records), bad+len(part.Bad)
	}
	if records != n+1 || bad != n {
		t.Errorf("%d records, %d of them bad", records, bad)
	}
}

// spacious gives a text with 8 MiB of white space in the place of each _, and notes how the window stands at each read: how
// large it is, and how much of what it has read it will look at again.
type spacious struct {
	text          string
	spaces        int // of the present _, given
	w             *window
	large, behind int
}

func (r *spacious) Read(b []byte) (int, error) {
	r.large, r.behind = max(r.large, cap(r.w.buf)), max(r.behind, len(r.w.buf)-r.w.pos)
	if r.text == "" {
		return 0, io.EOF
	}
	n := 1
	if b[0] = r.text[0]; b[0] == '_' {
		n = copy(b, bytes.Repeat([]byte{' '}, min(len(b), 32<<10)))
		if r.spaces += n; r.spaces < 8<<20 {
			return n, nil
		}
	}
	r.text, r.spaces = r.text[1:], 0
	return n, nil
}

// White space between tokens, which packs to next to nothing, costs neither memory nor a second look (invariant 7).
func TestSpaceIsLeftBehind(t *testing.T) {
	s := open(t, config.Source{Base: "http://localhost", Records: ".data[]"}, Options{})
	p := &splitter{s: s}
	src := &spacious{text: `_{_"x":1_,_"data":[_1_,_[]_]_,_"y":{}_}_`, w: &p.window}
	p.src = src
	p.read = func(err error) error { return err }
	p.hand = func() error { p.reset(); return nil }
	if err := p.split(t.Context(), jsonType); err != nil || p.count != 2 {
		t.Errorf("%d records, %v", p.count, err)
	}
	if src.large > 2*partBytes || src.behind > 64<<10 {
		t.Errorf("a window of %d bytes, of which %d are looked at again", src.large, src.behind)
	}
}

// broken serves a page of records and cuts it after each of the given lengths, one after the other; then it serves all.
func broken(body string, cuts ...int) http.HandlerFunc {
	var tries atomic.Int64
	return func(w http.ResponseWriter, _ *http.Request) {
		try, body := int(tries.Add(1))-1, body
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if try < len(cuts) {
			body = body[:cuts[try]]
		}
		_, _ = io.WriteString(w, body)
	}
}

// A page whose connection breaks is asked for again, and goes on behind the parts that were handed over: within one Read,
// with each record once and in order (invariants 3, 4), and counted once (invariant 5).
func TestReadGoesOnAfterABreak(t *testing.T) {
	for _, n := range []int{4000, 9000} { // by ids, and by count and digest
		s := open(t, quick(config.Source{Base: serve(t, broken(widePage(0, n), 2_500_000, 3_600_000, 100)), Records: ".data[]", Retries: 5}), Options{})
		p := readAll(t, s, nil)
		if len(p.data) != n || p.seen != 0 || p.pages != 1 || len(p.warnings) != 0 {
			t.Fatalf("%d records, %d seen, %d pages, warnings %q", len(p.data), p.seen, p.pages, p.warnings)
		}
		for i, d := range p.data {
			if d != wide(i) {
				t.Fatalf("record %d is %.40s", i, d)
			}
		}
	}
}

// A crash in the middle of a page, after any number of its records: the next run reads the page again and gives the rest.
func TestPartCommittedPage(t *testing.T) {
	const n = 7000
	page := widePage(0, n)
	url := serve(t, reply(jsonType, page))
	s := open(t, config.Source{Base: url, Records: ".data[]"}, Options{})
	for _, commits := range []int{1, 3999, 4001, n - 1} {
		cursor := commitSome(t, s, nil, commits)
		p := readAll(t, s, cursor)
		if p.seen != commits || len(p.data) != n-commits || p.data[0] != wide(commits) || len(p.warnings) != 0 {
			t.Errorf("after %d: %d seen, %d records, warnings %q", commits, p.seen, len(p.data), p.warnings)
		}
		// And a crash in that run too.
		more := min(700, n-commits-1)
		cursor = commitSome(t, s, cursor, more)
		p = readAll(t, s, cursor)
		if p.seen != commits+more || len(p.data) != n-commits-more {
			t.Errorf("after %d and %d: %d seen, %d records, warnings %q", commits, more, p.seen, len(p.data), p.warnings)
		}
	}
}

// commitSome reads from the cursor and stops once n records are committed; it returns the cursor of that moment.
func commitSome(t *testing.T, s *Source, from record.Cursor, n int) record.Cursor {
	t.Helper()
	for part, err := range s.Read(t.Context(), from) {
		if err != nil {
			t.Fatal(err)
		}
		if n <= len(part.Records) {
			c := part.After(n)
			if len(c) > maxCursor {
				t.Errorf("the cursor has %d bytes", len(c))
			}
			return c
		}
		n -= len(part.Records)
	}
	t.Fatal("there are not so many records")
	return nil
}

// A page that has moved since a part of it was committed loses nothing. While the committed ids are known one by one
// nothing comes twice either; by count and digest the whole page comes again, and says so.
func TestPartCommittedPageMoves(t *testing.T) {
	page := ""
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) })
	s := open(t, config.Source{Base: url, Records: ".data[]"}, Options{})

	page = widePage(0, 3000)
	cursor := commitSome(t, s, nil, 2000)
	page = strings.Replace(widePage(500, 3000), `"data":[`, `"data":[{"id":-1},`, 1) // some gone, one new in front
	p := readAll(t, s, cursor)
	if len(p.data) != 1001 || p.data[0] != `{"id":-1}` || p.data[1] != wide(2000) || p.seen != 1500 || len(p.warnings) != 0 {
		t.Errorf("%d records, %d seen, warnings %q", len(p.data), p.seen, p.warnings)
	}

	page = widePage(0, 6000)
	cursor = commitSome(t, s, nil, 5000)
	page = widePage(1, 6000)
	p = readAll(t, s, cursor)
	if len(p.data) != 5999 || p.seen != 0 || strings.Join(p.warnings, "") != "the page changed while it was being committed; up to 5000 records come twice, with the same ids" {
		t.Errorf("%d records, %d seen, warnings %q", len(p.data), p.seen, p.warnings)
	}

	page = widePage(0, 3) // shrunk below what was committed
	p = readAll(t, s, cursor)
	if len(p.data) != 3 || len(p.warnings) != 1 {
		t.Errorf("%d records, %d seen, warnings %q", len(p.data), p.seen, p.warnings)
	}
}

func TestCallerMayStop(t *testing.T) {
	url := serve(t, reply(jsonType, widePage(0, 5000)))
	s := open(t, config.Source{Base: url, Records: ".data[]", Retries: 3}, Options{})
	parts := 0
	for _, err := range s.Read(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		parts++
		break
	}
	if parts != 1 {
		t.Errorf("%d parts after a break", parts)
	}
}

func TestSplitPushedBodies(t *testing.T) {
	t.Run("beside reading", func(t *testing.T) {
		splitPushedBodies(t, config.Source{Base: "http://localhost", Records: ".data[]", Key: ".id"})
	})
	t.Run("alone", func(t *testing.T) { splitPushedBodies(t, config.Source{Push: true, Key: ".id"}) })
}

func splitPushedBodies(t *testing.T, cfg config.Source) {
	t.Helper()
	s := open(t, cfg, Options{})
	for _, c := range []struct{ contentType, body, want, err string }{
		{jsonType, ` {"id":1,"data":[2]} `, `{"id":1,"data":[2]}`, ""},
		{jsonType, `[{"id":1},{"id":2}]`, `{"id":1} {"id":2}`, ""},
		{jsonType, `[]`, ``, ""},
		{jsonType, ` null `, `null`, ""}, // a value as any other, which here lacks the key
		{jsonType, `[null]`, `null`, ""},
		{"application/x-ndjson", "null\n", `null`, ""},
		{jsonType, `7`, `7`, ""},
		{"application/x-ndjson", "{\"id\":1}\n{\"id\":2}\n", `{"id":1} {"id":2}`, ""},
		{"", `{"id":1}`, `{"id":1}`, ""},
		{"text/html", `<p>`, ``, "content: the body is text/html, not JSON; it begins with: <p>"},
		{jsonType, ``, ``, "content: the body is empty"},
		{jsonType, `{"id":1`, ``, "content: the body ends in the middle of its JSON, after 7 bytes"},
		{jsonType, `{"id":1}{}`, ``, "content: something follows the body's JSON at byte 8: {}"},
	} {
		part, err := s.Split(c.contentType, []byte(c.body))
		if c.want == "null" && len(part.Bad) != 1 {
			t.Errorf("%s: nobody says that it has no key", c.body)
		}
		var p pull
		if p.take(t, record.Part{Records: part.Records, Bad: part.Bad, After: func(int) record.Cursor { return nil }}); strings.Join(p.data, " ") != c.want {
			t.Errorf("%s: got %v", c.body, p.data)
		}
		if (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: error %v, want %s", c.body, err, c.err)
		}
	}
	// The same record has the same id, pushed or read.
	part, err := s.Split(jsonType, []byte(`{"id":7,"a":1}`))
	if err != nil || part.Records[0].ID != record.ID("p", "7", []byte(`{"id":7,"a":1}`)) || part.Records[0].Key != "7" {
		t.Errorf("%+v, %v", part.Records, err)
	}
}

// TestPush: a source without an API splits what is pushed as any other does, and says of everything else why not.
func TestPush(t *testing.T) {
	s := open(t, config.Source{Push: true, Key: ".id"}, Options{})
	part, err := s.Split(jsonType, []byte(`[{"id":7,"a":1},{"a":2}]`))
	if err != nil || len(part.Records) != 2 || part.Records[0].ID != record.ID("p", "7", []byte(`{"id":7,"a":1}`)) {
		t.Errorf("split: %+v, %v", part.Records, err)
	}
	const want = "push: pipeline p reads no API (source.push): send its records to POST /v1/pipelines/p/records"
	said := func(what string, err error) {
		t.Helper()
		var e *Error
		if !errors.As(err, &e) || e.Kind != KindPush || e.Error() != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	_, err = s.Fetch(t.Context())
	said("fetch", err)
	_, err = s.Describe(nil)
	said("describe", err)
	reads := 0
	for _, err := range s.Read(t.Context(), nil) {
		reads++
		said("read", err)
	}
	if reads != 1 {
		t.Errorf("read yields %d times", reads)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n[2]\n\"x\"\n"), 3)
	f.Add([]byte("{\"a\":1}\nnope\n{\"a\":"), 1)
	f.Add([]byte("1{}[[[[[[1]]]]]]\n\xff\n2"), 2)
	f.Add([]byte("1\n{\"x\":\""+strings.Repeat("x", 70)+"\n{\"y\":\"}\"}\n[["+strings.Repeat("1,", 40)+"}]\n2\n"), 2)
	s, err := New(config.Source{Base: "http://localhost", Format: "ndjson", Limits: config.SourceLimits{Record: 64, Depth: 4}}, Options{Pipeline: "p"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, piece int) {
		// In pieces or at once: the same records or the same kind of failure.
		run := func(src io.Reader) (records [][]byte, kind Kind) {
			p := &splitter{s: s}
			p.src = src
			p.read = func(err error) error { return err }
			err := p.split(t.Context(), "")
			var e *Error
			if errors.As(err, &e) {
				return nil, e.Kind
			} else if err != nil {
				t.Fatalf("%v is no *Error", err)
			}
			for _, sp := range p.spans {
				r := p.at(sp)
				if records = append(records, r.data); r.odd != nil {
					records = append(records, r.odd.version, fmt.Append(nil, r.odd.size, r.odd.reason))
				}
			}
			return records, ""
		}
		all, kind := run(bytes.NewReader(body))
		some, kind2 := run(&pieces{s: string(body), n: max(1, piece%50)})
		if kind != kind2 || fmt.Sprintf("%q", all) != fmt.Sprintf("%q", some) {
			t.Fatalf("%q: %q %s, in pieces %q %s", body, all, kind, some, kind2)
		}
	})
}

// Lines that end where the connection is closed may be cut off behind any of them.
func TestLinesWithoutAnEnd(t *testing.T) {
	const warning = "nothing says that the lines are all there: the server marks their end by closing the connection, as a broken one does"
	for answer, want := range map[string]string{
		"HTTP/1.0 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n1\n2\n":                                                 warning,
		"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n1\n2\n":                            warning,
		"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 4\r\n\r\n1\n2\n":                            "",
		"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n0\r\n\r\n": "",
		"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n[1,2]":                                                      "",
	} {
		s := open(t, config.Source{Base: serve(t, raw(answer))}, Options{})
		if p := readAll(t, s, nil); strings.Join(p.data, " ") != "1 2" || strings.Join(p.warnings, "; ") != want {
			t.Errorf("%q: %v, warnings %q", answer, p.data, p.warnings)
		}
	}
}
