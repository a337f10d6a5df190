package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ferry/internal/config"
	"ferry/internal/record"
)

// rows are the records that the servers of these tests page through.
func rows(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		if i > from {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d}`, i)
	}
	return "[" + b.String() + "]"
}

func wantRows(t *testing.T, p pull, n int) {
	t.Helper()
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprintf(`{"id":%d}`, i)
	}
	wantData(t, p, want...)
}

func number(s string, def int) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return def
}

const total = 10

// Every way in which pages may follow each other leads through all of them, once and in order, and ends.
func TestPagination(t *testing.T) {
	upTo := func(n int) int { return min(n, total) }
	for _, c := range []struct {
		name  string
		cfg   config.Source
		pages int
		serve func(w http.ResponseWriter, r *http.Request)
	}{
		{"none", config.Source{Paginate: config.Paginate{Word: "none"}}, 1, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `</more>; rel="next"`)
			fmt.Fprint(w, rows(0, total))
		}},
		{"link_header", config.Source{Paginate: config.Paginate{Word: "link_header"}}, 4, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("at"), 0)
			if at+3 < total {
				w.Header().Add("Link", fmt.Sprintf(`<http://%s/x?at=0>; rel="first", <?at=%d>; rel=next`, r.Host, at+3))
			}
			fmt.Fprint(w, rows(at, upTo(at+3)))
		}},
		{"next_url", config.Source{Records: ".data[]", Paginate: config.Paginate{NextURL: ".links.next"}}, 4, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("at"), 0)
			next := "null"
			if at+3 < total {
				next = fmt.Sprintf(`"http://%s/other?x=a%%2Fb&at=%d"`, r.Host, at+3)
			}
			fmt.Fprintf(w, `{"links":{"next":%s},"data":%s}`, next, rows(at, upTo(at+3)))
		}},
		{"next_url with an empty step", config.Source{Records: ".data[]", Paginate: config.Paginate{NextURL: ".next"}}, 4, func(w http.ResponseWriter, r *http.Request) {
			at, next := number(r.FormValue("at"), 0), "null"
			if at+3 < total {
				next = fmt.Sprintf(`"http://%s//v1/things?at=%d"`, r.Host, at+3)
			}
			fmt.Fprintf(w, `{"next":%s,"data":%s}`, next, rows(at, upTo(at+3)))
		}},
		{"cursor in query, records before it", config.Source{Records: ".data[]", Query: config.Params{"limit": "4"}, Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".meta.next", Into: "query.after"}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("limit") != "4" {
				http.Error(w, "limit lost", 400)
				return
			}
			at := number(strings.TrimPrefix(r.FormValue("after"), "é&="), 0)
			next := ""
			if at+4 < total {
				next = fmt.Sprintf(`"next":"\u00e9&=%d"`, at+4)
			}
			fmt.Fprintf(w, `{"data":%s,"meta":{%s}}`, rows(at, upTo(at+4)), next)
		}},
		{"cursor in header", config.Source{Paginate: config.Paginate{Cursor: &config.CursorPaging{From: "header.x-next", Into: "header.x-page"}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.Header.Get("X-Page"), 0)
			if at+4 < total {
				w.Header().Set("X-Next", strconv.Itoa(at+4))
			}
			fmt.Fprint(w, rows(at, upTo(at+4)))
		}},
		{"cursor in body", config.Source{Post: "/search", Body: config.Body{JSON: []byte(`{"q":{"n":1.10},"page":{"size":4}}`)}, Records: ".hits[]", Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".next", Into: "body.page.after"}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			var q struct {
				Q    struct{ N json.Number }
				Page struct{ Size, After int }
			}
			if err := json.Unmarshal(body, &q); err != nil || r.Method != "POST" || q.Q.N != "1.10" || r.Header.Get("Content-Type") != "application/json" {
				http.Error(w, fmt.Sprint(err, r.Method, q), 400)
				return
			}
			at, next := q.Page.After, "null"
			if at+q.Page.Size < total {
				next = strconv.Itoa(at + q.Page.Size)
			}
			fmt.Fprintf(w, `{"hits":%s,"next":%s}`, rows(at, upTo(at+q.Page.Size)), next)
		}},
		{"page until empty", config.Source{Paginate: config.Paginate{Page: &config.PagePaging{Start: 1, Size: 4, SizeInto: "query.per_page"}}}, 4, func(w http.ResponseWriter, r *http.Request) {
			at, size := number(r.FormValue("page"), -1)-1, number(r.FormValue("per_page"), 0)
			fmt.Fprint(w, rows(upTo(at*size), upTo(at*size+size)))
		}},
		{"page with total", config.Source{Records: ".r[]", Paginate: config.Paginate{Page: &config.PagePaging{Into: "query.p", Start: 0, Total: ".pages"}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("p"), -1)
			fmt.Fprintf(w, `{"r":%s,"pages":"3"}`, rows(upTo(at*4), upTo(at*4+4)))
		}},
		{"page with total and an empty one", config.Source{Records: ".r[]", Paginate: config.Paginate{Page: &config.PagePaging{Start: 1, Total: ".pages"}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			switch r.FormValue("page") {
			case "1":
				fmt.Fprintf(w, `{"r":%s,"pages":3}`, rows(0, 5))
			case "2":
				fmt.Fprint(w, `{"r":[],"pages":3}`)
			case "3":
				fmt.Fprintf(w, `{"r":%s,"pages":3}`, rows(5, 10))
			}
		}},
		{"offset, fewer than asked for", config.Source{Paginate: config.Paginate{Offset: &config.OffsetPaging{Limit: 100, LimitInto: "query.limit"}}}, 5, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("offset"), -1)
			fmt.Fprint(w, rows(upTo(at), upTo(at+3)))
		}},
		{"offset with total", config.Source{Records: ".r[]", Paginate: config.Paginate{Offset: &config.OffsetPaging{Into: "query.skip", Total: ".total"}}}, 4, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("skip"), -1)
			fmt.Fprintf(w, `{"total":10,"r":%s}`, rows(upTo(at), upTo(at+3)))
		}},
		{"offset, of each a member", config.Source{Records: ".hits[].source", Paginate: config.Paginate{Offset: &config.OffsetPaging{}}}, 5, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("offset"), -1)
			fmt.Fprintf(w, `{"hits":%s}`, strings.ReplaceAll(strings.ReplaceAll(rows(upTo(at), upTo(at+3)), "{", `{"source":{`), "}", "}}"))
		}},
		{"page with total, of each several", config.Source{Records: ".groups[].r[]", Paginate: config.Paginate{Page: &config.PagePaging{Start: 1, Total: ".pages"}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			switch r.FormValue("page") {
			case "1":
				fmt.Fprintf(w, `{"groups":[{"r":%s},{"r":%s}],"pages":3}`, rows(0, 3), rows(3, 5))
			case "2":
				fmt.Fprint(w, `{"groups":[{"r":[]},{"r":[]}],"pages":3}`)
			case "3":
				fmt.Fprintf(w, `{"groups":[{"r":%s}],"pages":3}`, rows(5, 10))
			}
		}},
		{"offset from one", config.Source{Paginate: config.Paginate{Offset: &config.OffsetPaging{Start: 1}}}, 5, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("offset"), -1) - 1
			fmt.Fprint(w, rows(upTo(at), upTo(at+3)))
		}},
		{"auto by link", config.Source{}, 4, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("at"), 0)
			if at+3 < total {
				w.Header().Add("Link", fmt.Sprintf(`<?at=%d>; rel="next"`, at+3))
			}
			fmt.Fprint(w, rows(at, upTo(at+3)))
		}},
		{"auto by field", config.Source{}, 4, func(w http.ResponseWriter, r *http.Request) {
			at, next := number(r.FormValue("at"), 0), "null"
			if at+3 < total {
				next = fmt.Sprintf(`{"href":"/y?at=%d"}`, at+3)
			}
			fmt.Fprintf(w, `{"items":%s,"_links":{"next":%s}}`, rows(at, upTo(at+3)), next)
		}},
		{"the last id of an array", config.Source{Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".[-1].id", Into: "query.after"}}}, 5, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("after"), -1) + 1
			fmt.Fprint(w, rows(upTo(at), upTo(at+3)))
		}},
		{"stop", config.Source{Records: ".r[]", Stop: ".more == false", Paginate: config.Paginate{Page: &config.PagePaging{Start: 1}}}, 2, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("page"), 0) - 1
			fmt.Fprintf(w, `{"r":%s,"more":%t}`, rows(at*5, at*5+5), at == 0)
		}},
		{"stop looks at the records", config.Source{Records: ".r[]", Stop: ".r | length < 4", Paginate: config.Paginate{Page: &config.PagePaging{Start: 1}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("page"), 0) - 1
			fmt.Fprintf(w, `{"r":%s}`, rows(upTo(at*4), upTo(at*4+4)))
		}},
		{"stop looks at an array", config.Source{Stop: "length < 4", Paginate: config.Paginate{Page: &config.PagePaging{Start: 1}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("page"), 0) - 1
			fmt.Fprint(w, rows(upTo(at*4), upTo(at*4+4)))
		}},
		{"empty pages with a next token", config.Source{Records: ".r[]", Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".n", Into: "query.t"}}}, 23, func(w http.ResponseWriter, r *http.Request) {
			n := number(r.FormValue("t"), 0)
			at := 0
			switch n {
			case 20:
			case 22:
				fmt.Fprintf(w, `{"r":%s}`, rows(5, 10))
				return
			default:
				fmt.Fprintf(w, `{"r":[],"n":%d}`, n+1)
				return
			}
			fmt.Fprintf(w, `{"r":%s,"n":%d}`, rows(at, 5), n+1)
		}},
		{"end by status", config.Source{On: map[int]string{404: "end"}, Paginate: config.Paginate{Page: &config.PagePaging{Start: 0}}}, 3, func(w http.ResponseWriter, r *http.Request) {
			at := number(r.FormValue("page"), -1)
			if at > 1 {
				http.Error(w, "no more", 404)
				return
			}
			fmt.Fprint(w, rows(at*5, at*5+5))
		}},
		{"skip by status", config.Source{On: map[int]string{410: "skip"}, Paginate: config.Paginate{Page: &config.PagePaging{Start: 0}}}, 4, func(w http.ResponseWriter, r *http.Request) {
			switch at := number(r.FormValue("page"), -1); at {
			case 1:
				http.Error(w, "gone", 410)
			case 0, 2:
				fmt.Fprint(w, rows(at/2*5, at/2*5+5))
			default:
				fmt.Fprint(w, "[]")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", jsonType)
				c.serve(w, r)
			})
			cfg := c.cfg
			cfg.Base = url
			if cfg.Post == "" {
				cfg.Get = "/things"
			}
			p := readAll(t, open(t, cfg, Options{}), nil)
			wantRows(t, p, total)
			if p.pages != c.pages || len(p.warnings) > 0 {
				t.Errorf("%d pages, want %d; warnings %q", p.pages, c.pages, p.warnings)
			}
			if string(p.cursor) != `{"v":1}` {
				t.Errorf("the cursor at the end is %s", p.cursor)
			}

			// The same, page by page.
			s := open(t, cfg, Options{})
			var all pull
			for string(all.cursor) != `{"v":1}` {
				p, err := readPage(t, s, all.cursor)
				if err != nil || p.pages != 1 {
					t.Fatalf("%d pages, %v", p.pages, err)
				}
				all.data = append(all.data, p.data...)
				all.cursor = p.cursor
			}
			wantRows(t, all, total)
		})
	}
}

func TestLoopsFail(t *testing.T) {
	token := config.Paginate{Cursor: &config.CursorPaging{From: ".n", Into: "query.t"}}
	url := config.Paginate{NextURL: ".n"}
	// cycle answers page t with the token of the next, which from 10+k on leads back to 10.
	cycle := func(k int, form string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			n := number(r.FormValue("t"), 0) + 1
			if n == 10+k {
				n = 10
			}
			fmt.Fprintf(w, `{"r":[],"n":`+form+`}`, n)
		}
	}
	for _, c := range []struct {
		name  string
		cfg   config.Source
		serve http.HandlerFunc
		want  string
		most  int // pages
	}{
		{"the same token", config.Source{Paginate: token}, cycle(1, "%d"), "the page names its own token as that of the next page", 12},
		{"two tokens", config.Source{Paginate: token}, cycle(2, `"%d"`), "the token for the next page is the one of 2 pages ago", 13},
		{"sixteen tokens", config.Source{Paginate: token}, cycle(16, "%d"), "the token for the next page is the one of 16 pages ago", 27},
		{"a hundred tokens", config.Source{Paginate: token}, cycle(100, "%d"), "the token for the next page is the one of 100 pages ago", 330},
		{"two addresses", config.Source{Paginate: url}, cycle(2, `"/?t=%d"`), "the address of the next page is the one of 2 pages ago", 13},
		{"back to the first page", config.Source{Paginate: url}, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"r":[1],"n":"/?t=%d"}`, number(r.FormValue("t"), 0)^1)
		}, "the address of the next page is the one of 2 pages ago", 3},
		{"its own address", config.Source{Paginate: url}, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"r":[1],"n":"/?t=1"}`)
		}, "the page names its own address as that of the next page", 2},
		{"page not known", config.Source{Paginate: config.Paginate{Page: &config.PagePaging{Start: 1}}}, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"r":[1,2]}`)
		}, "the page at page 2 holds the same records as the one before; does the API know query.page?", 2},
		{"offset not known", config.Source{Paginate: config.Paginate{Offset: &config.OffsetPaging{}}}, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"r":[1,2]}`)
		}, "the page at offset 2 holds the same records as the one before; does the API know query.offset?", 2},
		{"empty for ever", config.Source{Paginate: token}, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"r":[],"n":%d}`, number(r.FormValue("t"), 0)+1)
		}, "1001 pages without records followed each other, each naming a next one", 1001},
		{"redirects", config.Source{}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/"+strconv.Itoa(number(r.URL.Path[1:], 0)+1), 302)
		}, "more than 10 redirects", 11},
	} {
		t.Run(c.name, func(t *testing.T) {
			requests := 0
			c.cfg.Base = serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests++
				if c.name != "redirects" {
					w.Header().Set("Content-Type", jsonType)
				}
				c.serve(w, r)
			})
			c.cfg.Records = ".r[]"
			_, err := tryAll(t, open(t, c.cfg, Options{}), nil)
			var e *Error
			if !errors.As(err, &e) || e.Kind != KindLoop || e.Detail != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if requests > c.most {
				t.Errorf("it took %d requests to see, want at most %d", requests, c.most)
			}
		})
	}
}

// What the places of pagination may hold.
func TestPaginationRefuses(t *testing.T) {
	for _, c := range []struct {
		name, page string
		paginate   config.Paginate
		want       string
	}{
		{"object as token", `{"r":[1],"n":{}}`, config.Paginate{Cursor: &config.CursorPaging{From: ".n", Into: "query.t"}}, "content: paginate.cursor.from .n is an object, which is no token, but into: body.NAME"},
		{"huge token", `{"r":[1],"n":"` + strings.Repeat("x", 5000) + `"}`, config.Paginate{Cursor: &config.CursorPaging{From: ".n", Into: "query.t"}}, "limit: the token for the next page has 5002 bytes; more than 4096 are not carried"},
		{"number as address", `{"r":[1],"n":7}`, config.Paginate{NextURL: ".n"}, "content: paginate.next_url .n is 7, which is no address"},
		{"broken address", `{"r":[1],"n":"http://[::1"}`, config.Paginate{NextURL: ".n"}, "content: the next page's address cannot be parsed: http://[::1"},
		{"another origin", `{"r":[1],"n":"https://evil.example/x"}`, config.Paginate{NextURL: ".n"}, "blocked: the link to the next page leads to another origin, https://evil.example:443; if that is right, set base to it or add evil.example to allow.hosts"},
		{"no http", `{"r":[1],"n":"file:///etc/passwd"}`, config.Paginate{NextURL: ".n"}, "blocked: the link to the next page leads to what is no http or https address"},
		{"userinfo", `{"r":[1],"n":"http://a:b@HOST/x"}`, config.Paginate{NextURL: ".n"}, "blocked: the link to the next page to http://HOST carries a user or password"},
		{"metadata", `{"r":[1],"n":"http://169.254.169.254/latest"}`, config.Paginate{NextURL: ".n"}, "blocked: the link to the next page to 169.254.169.254: " + errMetadata.Error()},
		{"place through an array", `{"r":[1],"m":[1]}`, config.Paginate{NextURL: ".m.n"}, "content: the page does not fit paginate.next_url .m.n: step 2 of the path needs an object but meets a value of type array"},
		{"total is no number", `{"r":[1],"t":"many"}`, config.Paginate{Page: &config.PagePaging{Start: 1, Total: ".t"}}, `content: paginate.page.total .t is "many", which is no number`},
		{"empty before the total", `{"r":[],"t":5}`, config.Paginate{Offset: &config.OffsetPaging{Total: ".t"}}, "content: the page at offset 0 has no records, although .t says that there are 5; leave total out if it is an estimate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := ""
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, strings.ReplaceAll(c.page, "HOST", host))
			})
			host = strings.TrimPrefix(url, "http://")
			_, err := tryAll(t, open(t, config.Source{Base: url, Records: ".r[]", Paginate: c.paginate}, Options{}), nil)
			if want := strings.ReplaceAll(c.want, "HOST", host) + " (GET " + url; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error\n got %v\nwant %s…", err, want)
			}
		})
	}
	for _, c := range []struct{ name, contentType, page, stop, want string }{
		{"array", jsonType, `[1]`, "", "content: the page is an array, which has no place for paginate.next_url .next"},
		{"array, stop", jsonType, `[1]`, ".more | not", "content: the page is an array, which has no place for stop .more | not"},
		{"lines", "application/x-ndjson", "1\n2", "", "content: the page is NDJSON, which has no place for paginate.next_url .next"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := serve(t, reply(c.contentType, c.page))
			_, err := tryAll(t, open(t, config.Source{Base: url, Stop: c.stop, Paginate: config.Paginate{NextURL: ".next"}}, Options{}), nil)
			if err == nil || err.Error() != c.want+" (GET "+url+")" {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

// A page that is skipped by its status may go on by its header. When it names no next page it is not the last of them all
// (invariant 9): only as the first, where nothing is looked for in its body.
func TestSkippedPageNamesTheNext(t *testing.T) {
	token := func(from string) config.Paginate {
		return config.Paginate{Cursor: &config.CursorPaging{From: from, Into: "query.p"}}
	}
	for _, c := range []struct {
		name     string
		paginate config.Paginate
		skipped  string // the page
		header   bool   // it names the next one
		good     bool
	}{
		{"cursor", token(".next"), "2", false, false},
		{"cursor, first page", token(".next"), "", false, false},
		{"cursor in the header", token("header.X-Next"), "2", true, true},
		{"cursor in the header, not there", token("header.X-Next"), "2", false, false},
		{"next_url", config.Paginate{NextURL: ".url"}, "2", false, false},
		{"link", config.Paginate{Word: "link_header"}, "2", true, true},
		{"link, not there", config.Paginate{Word: "link_header"}, "2", false, false},
		{"link, first page", config.Paginate{Word: "link_header"}, "", false, true},
		{"auto by link", config.Paginate{}, "2", true, true},
		{"auto", config.Paginate{}, "2", false, false},
		{"auto, first page", config.Paginate{}, "", false, true},
		{"none", config.Paginate{Word: "none"}, "", false, true},
	} {
		for name, read := range map[string]func(testing.TB, *Source, record.Cursor) (pull, error){"whole": tryAll, "page by page": readPage} {
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				p := r.FormValue("p")
				next := number(p, 1) + 1
				skipped := p == c.skipped
				if next < 4 && (!skipped || c.header) {
					w.Header().Set("X-Next", strconv.Itoa(next))
					w.Header().Set("Link", fmt.Sprintf(`<?p=%d>; rel="next"`, next))
				}
				switch {
				case skipped:
					w.WriteHeader(410)
				case next < 4:
					fmt.Fprintf(w, `{"items":[{}],"next":"%d","url":"/?p=%d"}`, next, next)
				default:
					fmt.Fprint(w, `{"items":[{}]}`)
				}
			})
			s := open(t, config.Source{Base: url, On: map[int]string{410: "skip"}, Paginate: c.paginate}, Options{})
			p, err := read(t, s, nil)
			for err == nil && string(p.cursor) != `{"v":1}` {
				p, err = read(t, s, p.cursor)
			}
			if c.good != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), "status: a page that is skipped by its status needs to name the next one in its header; ") {
				t.Errorf("%s, %s: %v", c.name, name, err)
			}
		}
	}
}

// A path to the next page that leads nowhere is the end, but is mentioned where the end is in doubt.
func TestPathAstray(t *testing.T) {
	nowhere := func(but string) string {
		return "the page has nothing where .meta.next would be, which was taken for the end of the pages, but it has " + but + "; check the path"
	}
	elsewhere := func(what, path string) string {
		return "the page has nothing at .meta.next, which was taken for the end of the pages, but " + what + " at " + path + "; check the path"
	}
	for page, want := range map[string]string{
		`{"r":[1]}`: "", // the whole object is left out at the end, perhaps
		`{"r":[1],"count":1,"rest":[],"ok":true}`:     "",
		`{"r":[1],"page":{"after":"abc"}}`:            nowhere(`"page"`),
		`{"total":1,"r":[1],"after":"abc"}`:           nowhere(`"after"`),
		`{"r":[1],"meta":{}}`:                         "",
		`{"r":[1],"meta":null}`:                       "",
		`{"r":[1],"meta":{"next":null}}`:              "",
		`{"r":[1],"meta":{"next_cursor":"abc"}}`:      elsewhere(`"abc"`, ".meta.next_cursor"),
		`{"r":[1],"next":"abc"}`:                      elsewhere(`"abc"`, ".next"),
		`{"r":[1],"meta":{},"has_more":true}`:         elsewhere("true", ".has_more"),
		`{"r":[1],"meta":{},"has_more":false}`:        "",
		`{"r":[1],"meta":{"next":""},"next":"abc"}`:   "",
		`{"r":[1],"meta":{"next":null},"next":"abc"}`: "",
	} {
		for _, by := range []config.Paginate{
			{NextURL: ".meta.next"},
			{Cursor: &config.CursorPaging{From: ".meta.next", Into: "query.after"}},
		} {
			s := open(t, config.Source{Base: serve(t, reply(jsonType, page)), Records: ".r[]", Paginate: by}, Options{})
			if p := readAll(t, s, nil); strings.Join(p.warnings, "") != want {
				t.Errorf("%s: warnings %q, want %q", page, p.warnings, want)
			}
		}
	}
}

// Where a later page leaves the whole object out, the path has shown that it leads somewhere.
func TestPathAstrayOnceFound(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		page := `{"kind":"list","r":[1],"paging":{"next":{"after":"2"}}}`
		if r.URL.Query().Get("after") == "2" {
			page = `{"kind":"list","r":[2]}`
		}
		reply(jsonType, page)(w, r)
	})
	by := config.Paginate{Cursor: &config.CursorPaging{From: ".paging.next.after", Into: "query.after"}}
	p := readAll(t, open(t, config.Source{Base: url, Records: ".r[]", Paginate: by}, Options{}), nil)
	if len(p.data) != 2 || len(p.warnings) != 0 {
		t.Errorf("%d records, warnings %q", len(p.data), p.warnings)
	}
}

// TestStructuredToken: a token that is an array or an object goes into a body as it is, as in Elasticsearch's search_after,
// and survives in the cursor; the same one twice is a loop.
func TestStructuredToken(t *testing.T) {
	var asked []string
	pages := map[string]string{
		`{"size":2}`:                                    `{"hits":[{"n":1,"sort":[1,"a"]},{"n":2,"sort":[2,"b"]}]}`,
		`{"size":2,"search_after":[2,"b"]}`:             `{"hits":[{"n":3,"sort":{"key":{"S":"<&>"}}}]}`,
		`{"size":2,"search_after":{"key":{"S":"<&>"}}}`: `{"hits":[]}`,
	}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, string(body))
		reply(jsonType, pages[string(body)])(w, r)
	})
	cfg := config.Source{
		Post: url, Body: config.Body{JSON: []byte(`{"size":2}`)}, Records: ".hits[]",
		Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".hits[-1].sort", Into: "body.search_after"}},
	}
	if p := readAll(t, open(t, cfg, Options{}), nil); len(p.data) != 3 || len(asked) != 3 {
		t.Errorf("%d records by %q", len(p.data), asked)
	}
	pages[`{"size":2,"search_after":{"key":{"S":"<&>"}}}`] = `{"hits":[{"n":4,"sort":[2,"b"]}]}`
	if _, err := tryAll(t, open(t, cfg, Options{}), nil); err == nil || !strings.Contains(err.Error(), "loop: the token for the next page is the one of 2 pages ago") {
		t.Errorf("a loop ends with %v", err)
	}
}

// auto says when it does not understand that there is more.
func TestAutoWarns(t *testing.T) {
	for page, want := range map[string]string{
		`{"items":[{}],"next":"abc"}`:                                           `the page has "abc" at .next, which does not look like an address; if it leads to the next page, set paginate: {cursor: {from: .next, into: query.NAME}}, or {next_url: .next}`,
		`{"items":[{}],"next_page_token":"abc"}`:                                `the page has "abc" at .next_page_token and so seems to have a next one; set paginate: {cursor: {from: .next_page_token, into: query.NAME}} to follow it, or to none`,
		`{"items":[{}],"has_more":true}`:                                        `the page has true at .has_more and so seems to have a next one; set paginate to follow it, or to none`,
		`{"items":[{}],"has_more":false,"next":""}`:                             "",
		`{"items":[{}],"page":1,"total_pages":7}`:                               `the page has 7 at .total_pages, and names no next one; set paginate: {page: {into: query.NAME, total: .total_pages}} to read all, or to none`,
		`{"items":[{}],"meta":{"pagination":{"total_pages":2}}}`:                `the page has 2 at .meta.pagination.total_pages, and names no next one; set paginate: {page: {into: query.NAME, total: .meta.pagination.total_pages}} to read all, or to none`,
		`{"items":[{},{}],"total":3}`:                                           `the page has 3 at .total and holds 2 records, and names no next one; set paginate: {offset: {into: query.NAME, total: .total}}, or page, to read all, or to none`,
		`{"items":[{},{}],"total":2,"total_pages":1,"pages":[1,2],"count":2.5}`: "",
		`{"items":[],"total":3}`:                                                "",
	} {
		p := readAll(t, open(t, config.Source{Base: serve(t, reply(jsonType, page))}, Options{}), nil)
		if got := strings.Join(p.warnings, "\n"); got != want {
			t.Errorf("%s: warning %q, want %q", page, got, want)
		}
	}
}

// What headers count is understood too, also beside a page that is an array.
func TestAutoWarnsByHeader(t *testing.T) {
	for name, want := range map[string]string{
		"X-WP-TotalPages": `the page has 5 at header.X-WP-TotalPages, and names no next one; set paginate: {page: {into: query.NAME, total: header.X-WP-TotalPages}} to read all, or to none`,
		"X-Total-Count":   `the page has 5 at header.X-Total-Count and holds 2 records, and names no next one; set paginate: {offset: {into: query.NAME, total: header.X-Total-Count}}, or page, to read all, or to none`,
	} {
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(name, "5")
			reply(jsonType, `[{"a":1},{"a":2}]`)(w, r)
		})
		p := readAll(t, open(t, config.Source{Base: url}, Options{}), nil)
		if got := strings.Join(p.warnings, "\n"); got != want {
			t.Errorf("%s: warning %q, want %q", name, got, want)
		}
	}
}

func TestOutline(t *testing.T) {
	got := string(outline(nil, []byte(`{"a":[1,[2]],"b":{"c":{"d":{"e":1},"f":[1]},"g":"[{"},"h" : null, "i":{}}`), 3))
	if want := `{"a":[],"b":{"c":{"d":{},"f":[]},"g":"[{"},"h":null,"i":{}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNextLink(t *testing.T) {
	for _, c := range []struct {
		lines  []string
		want   string
		unread string
	}{
		{nil, "", ""},
		{[]string{`<https://a/?p=2>; rel="next"`}, "https://a/?p=2", ""},
		{[]string{`<a>; rel=prev, <b>; rel=next`}, "b", ""},
		{[]string{`<a>; rel="prev"`, `<b>; rel="next"`}, "b", ""},
		{[]string{`<a>; title="x, <z>; rel=\"next\""; rel="last  NEXT"`}, "a", ""},
		{[]string{`<a,b;c>;rel=next`}, "a,b;c", ""},
		{[]string{`<a>; rel=prev; rel=next`}, "", ""},
		{[]string{`<a>; rel="next"; anchor="#foo", <b>; REL = next`}, "b", ""},
		{[]string{`<a>; rel`, `<b>; rel=`}, "", ""},
		{[]string{`a; rel=next`, `<a; rel=next`, `<a> rel=next`, `<a>; rel="next`}, "", `<a>; rel="next`},
		{[]string{`</x?page=2>; rel='next'`}, "/x?page=2", ""},
		{[]string{`<a>; rel="prev" <b>; rel="Next"`}, "", `<a>; rel="prev" <b>; rel="Next"`},
		{[]string{`<a>; rel="last" <b>; rel="prev"`}, "", ""},
		{[]string{`/x?page=2; rel="next"`, `<b>; rel=next`}, "b", ""},
		{[]string{` , <a> ; rel = "next" ; x`}, "a", ""},
	} {
		if got, unread := nextLink(c.lines); got != c.want || unread != c.unread {
			t.Errorf("nextLink(%q) = %q, %q; want %q, %q", c.lines, got, unread, c.want, c.unread)
		}
	}
}

func FuzzNextLink(f *testing.F) {
	f.Add(`<https://a/?p=2>; rel="next", <b>; title="\"x"; rel=next`)
	f.Add(`<a>;;=,"<`)
	f.Fuzz(func(t *testing.T, s string) {
		if got, unread := nextLink([]string{s}); !strings.Contains(s, got) || !strings.Contains(s, unread) {
			t.Errorf("nextLink(%q) = %q, %q; not in it", s, got, unread)
		}
	})
}

// Whatever a page says of the next one: it is followed within the origin, or refused with an *Error; and what goes into
// the cursor is bounded and can be read again.
func FuzzPaging(f *testing.F) {
	f.Add([]byte(`{"r":[],"n":"/x?a=1#b","t":3}`), `</y>; rel=next`, 2)
	f.Add([]byte(`{"n":"//evil.example/x","next":"http:\\\\evil"}`), "", 0)
	f.Add([]byte(`{"n":"\ud800","links":{"next":{"href":"?\u0000"}},"t":1e3}`), "x", 1)
	f.Add([]byte(`[]`), "", 1)
	f.Add([]byte(`{"n":"http://localhost:8080//x/y"}`), `<//LOCALHOST:8080//x>; rel=next`, 1)
	var sources []*Source
	for _, p := range []config.Paginate{
		{},
		{Word: "link_header"},
		{NextURL: ".n"},
		{Cursor: &config.CursorPaging{From: ".n", Into: "query.t"}},
		{Cursor: &config.CursorPaging{From: "header.Link", Into: "header.X-T"}},
		{Page: &config.PagePaging{Total: ".t"}},
		{Offset: &config.OffsetPaging{Total: ".t"}},
	} {
		s, err := New(config.Source{Base: "http://localhost:8080/v1", Paginate: p}, Options{Pipeline: "p"})
		if err != nil {
			f.Fatal(err)
		}
		sources = append(sources, s)
	}
	f.Fuzz(func(t *testing.T, envelope []byte, header string, records int) {
		if !json.Valid(envelope) {
			return
		}
		for _, s := range sources {
			from := &position{}
			for range 3 {
				pg := &page{header: http.Header{"Link": {header}}, url: s.template.url, envelope: envelope, records: records & 7, ids: digest(records)}
				to, more, _, err := s.next(t.Context(), from, pg)
				var e *Error
				if err != nil && !errors.As(err, &e) {
					t.Fatalf("%s: %v is no *Error", s.paging.style, err)
				}
				if err != nil || !more {
					break
				}
				c := to.encode()
				if len(c) > maxCursor {
					t.Fatalf("%s: a cursor of %d bytes", s.paging.style, len(c))
				}
				back, err := s.position(c)
				if err != nil {
					t.Fatalf("%s: %s: %v", s.paging.style, c, err)
				}
				r, err := s.build(back)
				if err != nil {
					t.Fatalf("%s: %s: %v", s.paging.style, c, err)
				}
				if !s.client.isOwn(r.url) || r.url.Hostname() != "localhost" || r.url.Port() != "8080" {
					t.Fatalf("%s: led to %s", s.paging.style, r.url)
				}
				from = back
			}
		}
	})
}

// TestRemaining: how many records come behind a page, where a total says it.
func TestRemaining(t *testing.T) {
	for name, c := range map[string]struct {
		paginate config.Paginate
		total    string
		want     []int64
	}{
		"offset":             {config.Paginate{Offset: &config.OffsetPaging{Total: ".t"}}, "10", []int64{6, 2, 0}},
		"offset from one":    {config.Paginate{Offset: &config.OffsetPaging{Start: 1, Total: ".t"}}, "10", []int64{6, 2, 0}},
		"pages, about":       {config.Paginate{Page: &config.PagePaging{Total: ".t"}}, "3", []int64{8, 4, 0}},
		"nobody says":        {config.Paginate{Page: &config.PagePaging{}}, "10", []int64{0, 0, 0, 0}},
		"more than there is": {config.Paginate{Page: &config.PagePaging{Total: ".t"}}, "9223372036854775807", []int64{4 << 40, 4 << 40, 2 << 40}},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				at := 4 * calls
				calls++
				w.Header().Set("Content-Type", jsonType)
				fmt.Fprintf(w, `{"t":%s,"r":%s}`, c.total, rows(min(at, 10), min(at+4, 10)))
			})
			s := open(t, config.Source{Base: url, Get: "/things", Records: ".r[]", Paginate: c.paginate}, Options{})
			var cursor record.Cursor
			for page, want := range c.want {
				for part, err := range s.Read(t.Context(), cursor) {
					if err != nil {
						t.Fatal(err)
					}
					if part.Remaining != want {
						t.Errorf("page %d: %d records come behind it, want %d", page, part.Remaining, want)
					}
					cursor = part.After(len(part.Records))
				}
			}
		})
	}
}

// A Link header that cannot be read may name a next page: it is not taken for the end of the data (invariant 9).
func TestUnreadLink(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", `/x?page=2; rel="next"`)
		fmt.Fprint(w, `[1]`)
	})
	const want = `the Link header cannot be read, and may name a next page: /x?page=2; rel="next"`
	_, err := tryAll(t, open(t, config.Source{Base: url, Paginate: config.Paginate{Word: "link_header"}}, Options{}), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "content: "+want+" (GET ") {
		t.Errorf("link_header: %v", err)
	}
	if p := readAll(t, open(t, config.Source{Base: url}, Options{}), nil); len(p.data) != 1 || !slices.Equal(p.warnings, []string{want}) {
		t.Errorf("auto: %v, warnings %q", p.data, p.warnings)
	}
}

// A space in the address of the next page, or of a redirect, would end the request line.
func TestNextLinkWithSpace(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("filter") == "a gt 3" {
			if r.URL.Path == "/" {
				w.Header().Set("Location", "/y z?filter=a gt 3")
				w.WriteHeader(http.StatusFound)
			}
			fmt.Fprint(w, `{"data":[2]}`)
			return
		}
		fmt.Fprint(w, `{"data":[1],"next":"/?filter=a gt 3&page=2"}`)
	})
	s := open(t, config.Source{Base: url, Records: ".data[]", Paginate: config.Paginate{NextURL: ".next"}}, Options{})
	if p := readAll(t, s, nil); strings.Join(p.data, " ") != "1 2" {
		t.Errorf("got %v", p.data)
	}
}

// An address that the page before has given out may last no longer than the run.
func TestExpiredPage(t *testing.T) {
	const hint = "status: status 410 Gone; the page before named this one: if that has expired since, begin this pull again with ferry cursor "
	for _, c := range []struct {
		code int
		from string
		want string
	}{
		{410, ``, hint + "reset p"},
		{410, `{"v":1,"since":{"value":7,"ids":"AAAAAAAA"}}`, hint + `set p '{"v":1,"since":{"value":7}}'`},
		{403, ``, "status: status 403 Forbidden"},
	} {
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("after") == "" {
				fmt.Fprint(w, `{"data":[{"at":8}],"next":"x"}`)
				return
			}
			w.WriteHeader(c.code)
		})
		s := open(t, config.Source{Base: url, Records: ".data[]", Incremental: inc(config.Incremental{}), Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".next", Into: "query.after"}}}, Options{Pipeline: "p"})
		if _, err := tryAll(t, s, record.Cursor(c.from)); err == nil || !strings.HasPrefix(err.Error(), c.want+" (GET ") {
			t.Errorf("%d: %v", c.code, err)
		}
		if _, cursor, ok := strings.Cut(c.want, "'"); ok {
			if _, err := s.Describe(record.Cursor(strings.TrimSuffix(cursor, "'"))); err != nil {
				t.Errorf("the cursor that is advised: %v", err)
			}
		}
	}
}

func TestTotalOfNone(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"total":0,"items":[1,2]}`) })
	for want, paginate := range map[string]config.Paginate{
		"content: the page at offset 0 has records, although .total says that there are none; leave total out": {Offset: &config.OffsetPaging{Total: ".total"}},
		"content: the page at page 1 has records, although .total says that there are none; leave total out":   {Page: &config.PagePaging{Start: 1, Total: ".total"}},
	} {
		s := open(t, config.Source{Base: url, Records: ".items[]", Paginate: paginate}, Options{})
		if _, err := tryAll(t, s, nil); err == nil || !strings.HasPrefix(err.Error(), want+" (GET ") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// What is put into a body leaves the order of its members as it is.
func TestSetIn(t *testing.T) {
	for _, c := range []struct{ object, path, raw, want string }{
		{`{"z":1,"a":{"zz":1.0,"aa":2}}`, "m", `[1, 2]`, `{"z":1,"a":{"zz":1.0,"aa":2},"m":[1, 2]}`},
		{`{"z":1,"a":{"zz":1,"aa":2},"b":3}`, "a.zz", `"x"`, `{"z":1,"a":{"zz":"x","aa":2},"b":3}`},
		{`{"z":1}`, "a.b.c", `7`, `{"z":1,"a":{"b":{"c":7}}}`},
		{`{"a":null, "\u0061" : 2}`, "a.b", `7`, `{"a":{"b":7}}`},
		{`{}`, `x"y`, `7`, `{"x\"y":7}`},
		{`{"a":[1]}`, "a.b", `7`, ``},
	} {
		got, err := setIn([]byte(c.object), strings.Split(c.path, "."), []byte(c.raw))
		if string(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s of %s: %s, %v; want %s", c.path, c.object, got, err, c.want)
		}
	}
}

// GraphQL gives what it has beside its errors, and then names no next page.
func TestErrorBesideTheLastRecords(t *testing.T) {
	url := serve(t, reply(jsonType, `{"data":{"orders":[{"id":1}],"page":null},"errors":[{"message":"timeout"}]}`))
	by := config.Paginate{Cursor: &config.CursorPaging{From: ".data.page.end", Into: "query.after"}}
	p := readAll(t, open(t, config.Source{Base: url, Records: ".data.orders[]", Paginate: by}, Options{}), nil)
	if len(p.data) != 1 || !strings.Contains(strings.Join(p.warnings, "; "), "the last page tells of an error beside its records, so there may be more of them") {
		t.Errorf("%v, warnings %q", p.data, p.warnings)
	}
}
