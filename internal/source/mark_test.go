package source

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/config"
	"ferry/internal/record"
)

func inc(c config.Incremental) *config.Incremental {
	if c.Field == "" {
		c.Field = ".at"
	}
	if c.Into == "" {
		c.Into = "query.since"
	}
	return &c
}

// What a pull has reached goes into the next requests: in the notation in which it came, less the overlap.
func TestMarkNotation(t *testing.T) {
	const hour = config.Duration(time.Hour)
	for _, c := range []struct {
		name string
		inc  config.Incremental
		at   string // values, as JSON, in any order
		want string
	}{
		{"rfc3339", config.Incremental{Type: "rfc3339"}, `"2024-01-01T10:00:00Z" "2024-01-01T12:00:00+02:00" "2024-01-01T09:59:59.999Z"`, "2024-01-01T10:00:00Z"},
		{"rfc3339 by zone", config.Incremental{}, `"2024-01-01T10:00:00Z" "2024-01-01T12:00:01+02:00" "2024-01-01T13:00:00+05:00"`, "2024-01-01T12:00:01+02:00"},
		{"rfc3339 by fraction", config.Incremental{}, `"2024-01-01T10:00:00.100Z" "2024-01-01T10:00:00.09Z" "2024-01-01T10:00:00Z"`, "2024-01-01T10:00:00.100Z"},
		{"rfc3339 with overlap", config.Incremental{Overlap: hour}, `"2024-01-01T00:30:00.100+02:00"`, "2023-12-31T23:30:00.100+02:00"},
		{"rfc3339 without fraction, with overlap", config.Incremental{Overlap: hour}, `"2024-01-01T00:30:00Z"`, "2023-12-31T23:30:00Z"},
		{"time with a space", config.Incremental{Overlap: hour}, `"2024-01-01 10:00:00" "2024-01-01 10:00:01"`, "2024-01-01 09:00:01"},
		{"unix", config.Incremental{Type: "unix"}, `1700000000 1700000001.5 999`, "1700000001.5"},
		{"unix with overlap", config.Incremental{Type: "unix", Overlap: hour}, `1700000000 1699999999`, "1699996400"},
		{"unix fraction with overlap", config.Incremental{Type: "unix", Overlap: hour}, `1700000000.5`, "1699996400.500000000"},
		{"unix as text", config.Incremental{Type: "unix", Overlap: hour}, `"1700000000"`, "1699996400"},
		{"unix_ms with overlap", config.Incremental{Type: "unix_ms", Overlap: config.Duration(1500 * time.Millisecond)}, `1700000000000`, "1699999998500"},
		{"date", config.Incremental{Type: "date"}, `"2024-01-31" "2024-02-01" "2023-12-31"`, "2024-02-01"},
		{"date with overlap", config.Incremental{Type: "date", Overlap: hour}, `"2024-03-01"`, "2024-02-29"},
		{"number", config.Incremental{Type: "number"}, `9 10 9007199254740993 9007199254740992`, "9007199254740993"},
		{"large numbers", config.Incremental{}, `12345678901234567890123 12345678901234567890124 1e3`, "12345678901234567890124"},
		{"text", config.Incremental{Type: "string"}, `"b" "ab" "B"`, "b"},
		{"auto, whole numbers as text", config.Incremental{}, `"98" "99" "100" "-5" "0101" "012"`, "0101"},
		{"auto, text", config.Incremental{}, `"b" "12a" "9" "100" "ab"`, "b"},
		{"auto, text that may be a number", config.Incremental{}, `"9" "12a" "100" "0f"`, "12a"},
		{"text of digits, type said", config.Incremental{Type: "string"}, `"98" "99" "100"`, "99"},
		{"auto unix", config.Incremental{Overlap: hour}, `1700000000 1700003600`, "1700000000"},
		{"auto unix_ms", config.Incremental{Overlap: hour}, `1700000000000`, "1699996400000"},
		{"what has no place moves nothing", config.Incremental{Type: "rfc3339"}, `"2024-01-01T10:00:00Z" "zzz" null {} 7 true "2024-13-01T10:00:00Z"`, "2024-01-01T10:00:00Z"},
		{"numbers too long to be written out", config.Incremental{Type: "number"}, `5 1e999999999`, "5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked []string
			var page []string
			for i, v := range strings.Fields(strings.ReplaceAll(c.at, "01 10", "01_10")) {
				page = append(page, fmt.Sprintf(`{"id":%d,"at":%s}`, i, strings.ReplaceAll(v, "_", " ")))
			}
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.FormValue("since"))
				fmt.Fprintf(w, `[%s]`, strings.Join(page, ","))
			})
			s := open(t, config.Source{Base: url, Key: ".id", Incremental: inc(c.inc)}, Options{})
			p := readAll(t, s, nil)
			if len(p.data) != len(page) || len(p.bad) > 0 {
				t.Errorf("%d records of %d, bad %v", len(p.data), len(page), p.bad)
			}
			readAll(t, s, p.cursor)
			if want := []string{"", c.want}; !slices.Equal(asked, want) {
				t.Errorf("asked since %q, want %q", asked, want)
			}
		})
	}
}

func TestMarkStart(t *testing.T) {
	for _, c := range []struct {
		into, start, want string
	}{
		{"query.since", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"},
		{"header.X-Since", "1700000000", "1700000000"},
		{"body.filter.since", "2024-01-01", `"2024-01-01"`},
		{"body.filter.since", "1700000000", `1700000000`},
	} {
		got := ""
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			got = r.URL.Query().Get("since") + r.Header.Get("X-Since")
			if r.Method == "POST" {
				var body struct {
					Filter struct{ Since json.RawMessage }
				}
				_ = json.NewDecoder(r.Body).Decode(&body)
				got += string(body.Filter.Since)
			}
			fmt.Fprint(w, "[]")
		})
		cfg := config.Source{Base: url, Incremental: inc(config.Incremental{Into: c.into, Start: c.start, Overlap: config.Duration(time.Hour)})}
		if strings.HasPrefix(c.into, "body") {
			cfg.Post = "/"
		}
		s := open(t, cfg, Options{})
		p := readAll(t, s, nil)
		if got != c.want {
			t.Errorf("%s: asked %s, want %s", c.into, got, c.want)
		}
		if readAll(t, s, p.cursor); got != c.want {
			t.Errorf("%s: a pull that met nothing changes the start to %s", c.into, got)
		}
	}
}

// api is an API with rows that change, whose filter is inclusive.
type api struct {
	rows    []row
	perPage int
	fail    int // the request that fails, counted down
}

type row struct{ id, at int }

func (a *api) serve(w http.ResponseWriter, r *http.Request) {
	if a.fail--; a.fail == 0 {
		http.Error(w, "no", 400)
		return
	}
	since := number(r.FormValue("since"), 0)
	var found []string
	for _, row := range a.rows {
		if row.at >= since {
			found = append(found, fmt.Sprintf(`{"id":%d,"at":%d}`, row.id, row.at))
		}
	}
	at := min(len(found), (number(r.FormValue("page"), 1)-1)*a.perPage)
	fmt.Fprintf(w, `{"r":[%s]}`, strings.Join(found[at:min(len(found), at+a.perPage)], ","))
}

func (a *api) source(t *testing.T, i config.Incremental) *Source {
	return open(t, config.Source{
		Base: serve(t, a.serve), Records: ".r[]", Key: ".id", Incremental: inc(i),
		Paginate: config.Paginate{Page: &config.PagePaging{Start: 1}},
	}, Options{})
}

// Ties at the boundary: nothing comes twice, and nothing that shows up later with the same value is missed.
func TestMarkTies(t *testing.T) {
	a := &api{perPage: 2, rows: []row{{1, 10}, {2, 20}, {3, 20}, {4, 20}, {5, 5}}} // not sorted
	s := a.source(t, config.Incremental{Type: "number"})
	p := readAll(t, s, nil)
	if len(p.data) != 5 || p.seen != 0 {
		t.Fatalf("first pull: %v", p.data)
	}
	p = readAll(t, s, p.cursor)
	if len(p.data) != 0 || p.seen != 3 {
		t.Errorf("second pull: %v, %d seen; want nothing new and 3 seen", p.data, p.seen)
	}
	a.rows = append([]row{{6, 20}}, a.rows...)
	p = readAll(t, s, p.cursor)
	if len(p.data) != 1 || p.data[0] != `{"id":6,"at":20}` || p.seen != 3 {
		t.Errorf("a late tie: %v, %d seen", p.data, p.seen)
	}
	a.rows = append(a.rows, row{2, 30}) // changed
	p = readAll(t, s, p.cursor)
	if len(p.data) != 1 || p.data[0] != `{"id":2,"at":30}` || p.seen != 4 {
		t.Errorf("a change: %v, %d seen", p.data, p.seen)
	}
	p = readAll(t, s, p.cursor)
	if len(p.data) != 0 || p.seen != 1 {
		t.Errorf("after the change: %v, %d seen", p.data, p.seen)
	}
}

// The mark moves only at the end of a complete pull: one that fails asks for the same again.
func TestMarkMovesAtTheEnd(t *testing.T) {
	a := &api{perPage: 1, rows: []row{{1, 30}, {2, 10}, {3, 20}}}
	s := a.source(t, config.Incremental{Type: "number"})
	a.fail = 3
	p, err := tryAll(t, s, nil)
	if err == nil || len(p.data) != 2 {
		t.Fatalf("%v, %v", p.data, err)
	}
	// It goes on at the third page, with the same filter.
	p = readAll(t, s, p.cursor)
	if len(p.data) != 1 || p.data[0] != `{"id":3,"at":20}` {
		t.Errorf("went on with %v", p.data)
	}
	if p = readAll(t, s, p.cursor); len(p.data) != 0 || p.seen != 1 {
		t.Errorf("then %v, %d seen", p.data, p.seen)
	}
}

// Overlap asks for a stretch again; what was committed of it is known, what shows up late in it is not missed.
func TestMarkOverlap(t *testing.T) {
	a := &api{perPage: 3}
	for i := range 100 {
		a.rows = append(a.rows, row{i, 1_700_000_000 + i})
	}
	s := a.source(t, config.Incremental{Overlap: config.Duration(10 * time.Second)})
	p := readAll(t, s, nil)
	if len(p.data) != 100 {
		t.Fatal(len(p.data))
	}
	a.rows = append(a.rows, row{1000, 1_700_000_092}, row{1001, 1_700_000_080}) // late: within the overlap, and too late for it
	p = readAll(t, s, p.cursor)
	if len(p.data) != 1 || p.data[0] != `{"id":1000,"at":1700000092}` || p.seen != 11 {
		t.Errorf("%v, %d seen", p.data, p.seen)
	}
	// The mark rises a little: what still lies in the overlap stays known.
	a.rows = append(a.rows, row{1002, 1_700_000_104})
	p = readAll(t, s, p.cursor)
	if len(p.data) != 1 || p.seen != 12 {
		t.Errorf("%v, %d seen", p.data, p.seen)
	}
	for range 2 {
		p = readAll(t, s, p.cursor)
		if len(p.data) != 0 || p.seen != 7 { // 94 to 99, and 104
			t.Errorf("%v, %d seen", p.data, p.seen)
		}
	}
}

// Numbers that are written as text grow as numbers: what is new is published once.
func TestMarkNumbersAsText(t *testing.T) {
	most := 99
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var page []string
		for at := number(r.FormValue("since"), 98); at <= most; at++ {
			page = append(page, fmt.Sprintf(`{"id":%d,"at":"%d"}`, at, at))
		}
		fmt.Fprintf(w, `[%s]`, strings.Join(page, ","))
	})
	s := open(t, config.Source{Base: url, Key: ".id", Incremental: inc(config.Incremental{})}, Options{})
	p := readAll(t, s, nil)
	for _, want := range []int{2, 0} {
		most = 101
		if p = readAll(t, s, p.cursor); len(p.data) != want || p.seen != 1 {
			t.Errorf("%v, %d seen; want %d new", p.data, p.seen, want)
		}
	}
}

// Values of one order are in one order, however a field mixes them.
func TestMarkOrderIsTotal(t *testing.T) {
	n := &incremental{kind: "auto"}
	sorted := []string{"-5", "0", "7", "007", "12", "9223372036854775807", "0x10", "1.5", "12a", "7a", "9223372036854775808", "a"}
	for i, a := range sorted {
		for j, b := range sorted {
			v, _ := n.decode(quote(a))
			w, _ := n.decode(quote(b))
			want := max(-1, min(i-j, 1))
			if strings.TrimLeft(a, "0") == strings.TrimLeft(b, "0") {
				want = 0
			}
			if got := v.compare(&w); got != want {
				t.Errorf("%s and %s compare as %d, want %d", a, b, got, want)
			}
		}
	}
}

// More ties than a cursor can name: they come again, with the same ids, and the run says so.
func TestMarkFull(t *testing.T) {
	a := &api{perPage: 1000}
	for i := range 4000 {
		a.rows = append(a.rows, row{i, 7})
	}
	s := a.source(t, config.Incremental{Type: "number"})
	first := readAll(t, s, nil)
	if len(first.warnings) != 1 || !strings.HasPrefix(first.warnings[0], "more than 1500 records lie at the boundary") {
		t.Errorf("warnings %q", first.warnings)
	}
	p := readAll(t, s, first.cursor)
	if p.seen != maxBoundary || len(p.data) != 4000-maxBoundary || !slices.Equal(p.ids, first.ids[maxBoundary:]) {
		t.Errorf("%d seen, %d again", p.seen, len(p.data))
	}
	a.rows = append(a.rows, row{1, 8})
	p = readAll(t, s, p.cursor)
	if p = readAll(t, s, p.cursor); len(p.data) != 0 || p.seen != 1 || len(p.warnings) != 0 {
		t.Errorf("once the mark has risen: %v, %d seen, %q", p.data, p.seen, p.warnings)
	}
}

// A field that no record has, as when its path is misspelt, keeps nothing from coming again, and the run says so.
func TestMarkAstray(t *testing.T) {
	for name, c := range map[string]struct {
		field  string
		rows   []row
		warned bool
	}{
		"misspelt":                 {".att", []row{{1, 10}, {2, 20}, {3, 30}}, true},
		"an empty page at the end": {".att", []row{{1, 10}, {2, 20}}, true},
		"no records":               {".att", nil, false},
		"as it should be":          {".at", []row{{1, 10}, {2, 20}, {3, 30}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &api{perPage: 2, rows: c.rows}
			s := a.source(t, config.Incremental{Field: c.field, Type: "number"})
			p := readAll(t, s, nil)
			want := ""
			if c.warned {
				want = "no record has a value to go by at incremental.field " + c.field + ", so the next run asks for everything again; check the path"
			}
			if got := strings.Join(p.warnings, "\n"); got != want || len(p.data) != len(c.rows) {
				t.Errorf("%d records, warnings %q, want %q", len(p.data), got, want)
			}
		})
	}
}

// The largest cursor there can be stays within its bound.
func TestCursorIsBounded(t *testing.T) {
	var page strings.Builder
	for i := range 9000 {
		fmt.Fprintf(&page, `{"id":%d,"at":%d,"pad":"%0300d"},`, i, 1_700_000_000+i%2, i)
	}
	token := strings.Repeat("t", maxToken-2)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"r":[%s],"n":"%s"}`, strings.TrimSuffix(page.String(), ","), token[:len(token)-len(r.FormValue("t"))%7])
	})
	s := open(t, config.Source{
		Base: url, Records: ".r[]", Key: ".id", Incremental: inc(config.Incremental{Overlap: config.Duration(time.Minute)}),
		Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".n", Into: "query.t"}},
	}, Options{})
	most := 0
	var cursor record.Cursor
	for range 2 {
		for part, err := range s.Read(t.Context(), cursor) {
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range []int{0, 1, 500, 1000, len(part.Records)} {
				c := part.After(k)
				most = max(most, len(c))
				if _, err := s.position(c); err != nil {
					t.Fatal(err)
				}
			}
			cursor = part.After(len(part.Records))
		}
	}
	if most > maxCursor || most < maxCursor/2 {
		t.Errorf("the largest cursor has %d bytes; it must have at most %d, and the test must come near", most, maxCursor)
	}
}

// Ids: the same whenever a record is pulled again, and different for a new version (invariant 3).
func TestIDs(t *testing.T) {
	id := func(cfg config.Source, body string) string {
		cfg.Base = "http://localhost"
		part, err := open(t, cfg, Options{}).Split(jsonType, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return part.Records[0].ID
	}
	keyed := config.Source{Key: ".id"}
	dated := config.Source{Key: ".id", Incremental: inc(config.Incremental{})}
	for _, c := range []struct {
		name string
		cfg  config.Source
		a, b string
		same bool
	}{
		{"content, place does not matter", config.Source{}, `{"a":1}`, ` [ {"a":1} , 2 ] `, true},
		{"content differs", config.Source{}, `{"a":1}`, `{"a":2}`, false},
		{"key and content", keyed, `{"id":1,"a":1}`, `{"id":1,"a":2}`, false},
		{"key differs", keyed, `{"id":1}`, `{"id":2}`, false},
		{"version counts, not content", dated, `{"id":1,"at":"2024-01-01T00:00:00Z","views":1}`, `{"id":1,"at":"2024-01-01T00:00:00Z","views":2}`, true},
		{"version differs", dated, `{"id":1,"at":"2024-01-01T00:00:00Z"}`, `{"id":1,"at":"2024-01-01T00:00:01Z"}`, false},
		{"without a version the content counts", dated, `{"id":1,"a":1}`, `{"id":1,"a":2}`, false},
		{"a version that is none does not count", dated, `{"id":1,"at":null,"a":1}`, `{"id":1,"at":null,"a":2}`, false},
		{"without a key the version is not enough", config.Source{Incremental: inc(config.Incremental{})}, `{"at":"2024-01-01T00:00:00Z","a":1}`, `{"at":"2024-01-01T00:00:00Z","a":2}`, false},
	} {
		if got := id(c.cfg, c.a) == id(c.cfg, c.b); got != c.same {
			t.Errorf("%s: same id %t, want %t", c.name, got, c.same)
		}
	}
}

// What is no time and comes before the first time keeps no mark from rising; nor does text before the first number.
func TestMarkOfMixedValues(t *testing.T) {
	for values, want := range map[string]string{
		`"0000-00-00 00:00:00" "2024-01-01 10:00:00" "2024-01-02 10:00:00"`: "2024-01-02 10:00:00",
		`0 "2024-01-01T10:00:00Z" 7`:                                        "2024-01-01T10:00:00Z",
		`"n/a" 1700000000 1700000001`:                                       "1700000001",
		`"100" 200 "300"`:                                                   "200",
	} {
		var asked []string
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.FormValue("since"))
			v := regexp.MustCompile(`"[^"]*"|\d+`).FindAllString(values, -1)
			fmt.Fprintf(w, `[{"id":0,"at":%s},{"id":1,"at":%s},{"id":2,"at":%s}]`, v[0], v[1], v[2])
		})
		s := open(t, config.Source{Base: url, Key: ".id", Incremental: inc(config.Incremental{})}, Options{})
		first := readAll(t, s, nil)
		readAll(t, s, first.cursor)
		if len(first.data) != 3 || strings.Join(asked, ",") != ","+want {
			t.Errorf("%s: %d records, asked %q", values, len(first.data), asked)
		}
	}
}

// What is asked for is rounded down to what the value is counted in, and what comes by that is known too.
func TestOverlapOfCoarseValues(t *testing.T) {
	for _, c := range []struct {
		kind    string
		overlap time.Duration
		values  string
	}{
		{"date", time.Hour, `"2024-01-01" "2024-01-02" "2024-01-02" "2024-01-03"`},
		{"", 5 * time.Minute, `"2024-01-01" "2024-01-02" "2024-01-03"`},
		{"", 30 * time.Second, `"2024-01-01T00:18Z" "2024-01-01T00:19Z" "2024-01-01T00:20Z"`},
		{"", 1500 * time.Microsecond, `"2024-01-01T00:00:00.001Z" "2024-01-01T00:00:00.002Z" "2024-01-01T00:00:00.003Z"`},
		{"unix", 1500 * time.Millisecond, `1700000000 1700000001 1700000002 1700000003`},
		{"unix_ms", 90 * time.Second, `1700000000000 1700000001000 1700000091000`},
	} {
		values := strings.Fields(c.values)
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			since := r.FormValue("since")
			var rows []string
			for i, v := range values {
				if strings.Trim(v, `"`) >= since {
					rows = append(rows, fmt.Sprintf(`{"id":%d,"at":%s}`, i, v))
				}
			}
			fmt.Fprintf(w, "[%s]", strings.Join(rows, ","))
		})
		s := open(t, config.Source{Base: url, Key: ".id", Incremental: inc(config.Incremental{Type: c.kind, Overlap: config.Duration(c.overlap)})}, Options{})
		first := readAll(t, s, nil)
		again := readAll(t, s, first.cursor)
		third := readAll(t, s, again.cursor)
		if len(first.data) != len(values) || len(again.data) != 0 || again.seen < 2 || len(third.data) != 0 || third.seen != again.seen {
			t.Errorf("%s less %s: %d records, then %d (seen %d), then %d (seen %d)", c.values, c.overlap, len(first.data), len(again.data), again.seen, len(third.data), third.seen)
		}
	}
}

// A mark in the future keeps away what is new, which is said.
func TestMarkInTheFuture(t *testing.T) {
	for _, c := range []struct {
		at     string
		warned bool
	}{
		{`"2099-12-31T00:00:00Z"`, true},
		{`4070908800`, true},
		{`4070908800000`, true},
		{`"2024-01-01"`, false},
		{`1704067200`, false},
		{`7`, false},
		{`"x"`, false},
	} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `[{"id":1,"at":%s}]`, c.at) })
		s := open(t, config.Source{Base: url, Key: ".id", Incremental: inc(config.Incremental{})}, Options{})
		want := ""
		if c.warned {
			want = "the greatest value at incremental.field .at is " + c.at + ", in the future: the next runs ask only for what comes after it; leave such records out of the request, and set the cursor back"
		}
		if got := strings.Join(readAll(t, s, nil).warnings, "; "); got != want {
			t.Errorf("%s: warned %q", c.at, got)
		}
	}
}
