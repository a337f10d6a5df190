package mockapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// walker reads a listing to its end, as a client of its style would.
type walker struct {
	style, set, params string
	maxPages           int
	between            func() // called after each page
}

var linkNext = regexp.MustCompile(`<([^>]*)>; rel="next"`)

// walk gives the records in the order served and the number of pages.
func (w walker) walk(t *testing.T, base string) ([]json.RawMessage, int) {
	t.Helper()
	if w.maxPages == 0 {
		w.maxPages = 2000
	}
	address := base + "/" + w.style + "/" + w.set
	next := address + "?" + w.params
	token, number, offset := "", 1, 0
	var all []json.RawMessage
	for pages := 1; pages <= w.maxPages; pages++ {
		var r reply
		switch w.style {
		case "page":
			r = get(t, fmt.Sprintf("%s&page=%d", next, number))
		case "offset":
			r = get(t, fmt.Sprintf("%s&offset=%d", next, offset))
		case "header":
			r = get(t, next, "X-Page-Token", token)
		case "body":
			body := map[string]any{"page": map[string]any{"token": token, "size": 7}}
			b, _ := json.Marshal(body)
			r = do(t, http.MethodPost, next, string(b))
		case "v1":
			r = get(t, next+"&after="+url.QueryEscape(token))
		default:
			r = get(t, next)
		}
		b := ok(t, r)
		records, more := []json.RawMessage(nil), false
		switch w.style {
		case "v1", "body":
			v := decode[struct {
				Data       []json.RawMessage
				HasMore    *bool `json:"has_more"`
				Meta, Page struct{ Next string }
			}](t, b)
			records, token = v.Data, v.Meta.Next+v.Page.Next
			more = token != ""
			if v.HasMore != nil && *v.HasMore != more {
				t.Fatalf("has_more is %v beside next %q", *v.HasMore, token)
			}
		case "link", "ndjson":
			if w.style == "link" {
				records = decode[[]json.RawMessage](t, b)
			} else {
				for line := range bytes.Lines(b) {
					records = append(records, bytes.TrimSuffix(line, []byte("\n")))
				}
			}
			if m := linkNext.FindStringSubmatch(r.header.Get("Link")); m != nil {
				next, more = resolve(t, next, m[1]), true
			}
		case "nexturl":
			v := decode[struct {
				Results []json.RawMessage
				Links   struct{ Next string }
			}](t, b)
			if records = v.Results; v.Links.Next != "" {
				next, more = resolve(t, next, v.Links.Next), true
			}
		case "header":
			records = decode[[]json.RawMessage](t, b)
			token = r.header.Get("X-Next-Token")
			more = token != ""
		case "page":
			v := decode[struct {
				Items []json.RawMessage
				Pages *int `json:"total_pages"`
			}](t, b)
			records = v.Items
			number++
			more = v.Pages != nil && number <= *v.Pages || v.Pages == nil && len(records) > 0
		case "offset":
			v := decode[struct {
				Items []json.RawMessage
				Total *int
			}](t, b)
			records = v.Items
			offset += len(records)
			more = v.Total != nil && offset < *v.Total || v.Total == nil && len(records) > 0
		default:
			records = decode[[]json.RawMessage](t, b)
		}
		all = append(all, records...)
		if w.between != nil {
			w.between()
		}
		if !more {
			return all, pages
		}
	}
	return all, w.maxPages
}

func resolve(t *testing.T, base, ref string) string {
	t.Helper()
	b, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	u, err := b.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	return u.String()
}

func TestEveryStyleWalksTheWholeSetOnce(t *testing.T) {
	const n = 53
	every := []string{"", "count=53", "relative=1", "meta_first=1", "order=desc", "shuffle=1", "pad=870", "gzip=0"}
	tokens := []string{"ragged=1", "empty_every=3", "empty_every=2", "ragged=1&empty_every=2", "end=empty", "end=absent", "no_total=1"}
	more := map[string][]string{
		"v1": tokens, "link": tokens, "nexturl": tokens, "header": tokens, "body": tokens, "ndjson": append(tokens, "newline=0"),
		"page": {"empty_every=3", "empty_every=2", "no_total=1", "per_page=53", "per_page=1"}, "offset": {"ragged=1", "no_total=1", "limit=53"},
	}
	for style := range styles {
		for _, set := range []string{"orders", "users", "events"} {
			r := start(t, Options{Seed: 3, Orders: n, Users: n, Events: n})
			params := append(slices.Clone(every), more[style]...)
			if set != "orders" {
				params = params[:2] // the sets differ in their records only
			}
			for _, params := range params {
				t.Run(strings.Join([]string{style, set, params}, " "), func(t *testing.T) {
					r.Server.Reset()
					size := "limit=7&per_page=7"
					if strings.Contains(params, "limit=") || strings.Contains(params, "per_page=") {
						size = ""
					}
					records, pages := walker{style: style, set: set, params: size + "&" + params}.walk(t, r.URL)
					if len(records) != n {
						t.Fatalf("%d records, want %d", len(records), n)
					}
					if style == "none" && pages != 1 || style != "none" && size != "" && pages < 8 {
						t.Errorf("%d pages", pages)
					}
					want := map[string]bool{}
					for i := range n {
						b := r.Server.Record(set, i)
						if strings.Contains(params, "pad=") {
							b = r.Server.set(set).append(nil, row{i, i}, form{pad: 870})
						}
						want[string(b)] = true
					}
					for i, b := range records {
						if !want[string(b)] {
							t.Fatalf("record %d came twice or is none of the set: %s", i, b)
						}
						delete(want, string(b))
					}
					if got := string(records[0]); params == "" && got != string(r.Server.Record(set, 0)) {
						t.Errorf("the first one is %s", got)
					}
					c := r.Server.Ledger().Set(set)
					if c.Records != n || c.Distinct != n || c.Versions != n || len(c.Ranges) != 1 || c.Ranges[0] != [2]int{0, n - 1} {
						t.Errorf("the ledger says %+v", c)
					}
					route := r.Server.Summary().Routes["/"+style+"/"+set]
					if route.Status[200] != pages || route.Broken != 0 {
						t.Errorf("the ledger says %+v of %d pages", route, pages)
					}
				})
			}
		}
	}
}

func TestEmptySets(t *testing.T) {
	r := start(t, Options{Orders: -1})
	for style := range styles {
		records, pages := walker{style: style, set: "orders"}.walk(t, r.URL)
		if len(records) != 0 || pages != 1 {
			t.Errorf("%s: %d records on %d pages", style, len(records), pages)
		}
		if records, _ = (walker{style: style, set: "users", params: "count=0&shuffle=1"}).walk(t, r.URL); len(records) != 0 {
			t.Errorf("%s with count=0: %d records", style, len(records))
		}
	}
}

func TestVirtualSetsHoldNothing(t *testing.T) {
	r := start(t, Options{})
	b := ok(t, get(t, r.URL+"/offset/orders?count=1000000000&offset=999999990&limit=50"))
	v := decode[struct {
		Items []json.RawMessage
		Total int
	}](t, b)
	if v.Total != 1_000_000_000 || len(v.Items) != 10 || !bytes.Equal(v.Items[9], r.Server.Record("orders", 999_999_999)) {
		t.Errorf("%d records of %d", len(v.Items), v.Total)
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 10 || c.Beyond != 10 {
		t.Errorf("the ledger says %+v", c)
	}
}

func TestLargeBodiesStream(t *testing.T) {
	r := start(t, Options{})
	for _, accept := range []string{"identity", "gzip"} {
		res := get(t, r.URL+"/none/orders?count=5200&pad=870", "Accept-Encoding", accept)
		if res.err != nil || res.header.Get("Content-Length") != "" {
			t.Fatalf("error %v, length %q", res.err, res.header.Get("Content-Length"))
		}
		b := res.body
		if accept == "gzip" {
			b = gunzip(t, b)
		}
		if got := decode[[]json.RawMessage](t, b); len(got) != 5200 {
			t.Errorf("%s: %d records", accept, len(got))
		}
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 10_400 || c.Distinct != 5200 || r.Server.Ledger().Times("orders", 7) != 2 {
		t.Errorf("the ledger says %+v", c)
	}
}

func TestSince(t *testing.T) {
	const n = 540
	r := start(t, Options{Orders: n})
	type order struct {
		ID      int `json:"id"`
		Updated any `json:"updated_at"`
	}
	boundary := seconds(500) // shared by the keys 500 to 503, since 500%16 is 4
	if seconds(499) == boundary || seconds(503) != boundary || seconds(504) == boundary {
		t.Fatal("the ties have moved")
	}
	for _, c := range []struct {
		form, since string
		first       int // index of the oldest one
		exclusive   int
	}{
		{"rfc3339", "2024-01-01T10:28:09Z", 500, 504},
		{"rfc3339", "2024-01-01T12:28:09+02:00", 500, 504},
		{"rfc3339", "2024-01-01T10:28:08.5Z", 500, 500},
		{"rfc3339_ms", "2024-01-01T10:28:09.000Z", 500, 504},
		{"rfc3339_zone", "2024-01-01T12:28:09+02:00", 500, 504},
		{"unix", fmt.Sprint(boundary), 500, 504},
		{"unix_ms", fmt.Sprint(boundary * 1000), 500, 504},
		{"date", "2024-01-01", 0, n},
		{"rfc3339", "2023-01-01T00:00:00Z", 0, 0},
		{"rfc3339", "2033-01-01T00:00:00Z", n, n},
	} {
		for exclusive, first := range []int{c.first, c.exclusive} {
			for _, order_ := range []string{"", "&shuffle=1", "&order=desc"} {
				params := fmt.Sprintf("time=%s&since=%s&since_exclusive=%d%s", c.form, url.QueryEscape(c.since), exclusive, order_)
				b := ok(t, get(t, r.URL+"/none/orders?"+params))
				got := decode[[]order](t, b)
				ids := make([]int, 0, len(got))
				for _, o := range got {
					ids = append(ids, o.ID-1)
				}
				slices.Sort(ids)
				if len(ids) != n-first || len(ids) > 0 && (ids[0] != first || ids[len(ids)-1] != n-1) {
					t.Errorf("%s: %d records, want those from index %d", params, len(ids), first)
				}
				// The field reads back as what since= takes.
				if len(got) > 0 && order_ == "" {
					again := get(t, r.URL+"/none/orders?time="+c.form+"&since="+url.QueryEscape(fmt.Sprint(got[0].Updated)))
					if n := len(decode[[]order](t, ok(t, again))); n != len(got) {
						t.Errorf("%s: since= with the first one's own time gives %d records, not %d", params, n, len(got))
					}
				}
			}
		}
	}
}

func TestDataEndpoint(t *testing.T) {
	r := start(t, Options{Seed: 1})
	for i, c := range []struct{ query, want string }{
		{"", `{"id":1,"name":"Sample Data","value":` + goldenValue + `}`},
		{"?fixed=1", `{"id":1,"name":"Sample Data","value":` + goldenValue + `}`},
		{"?fixed=1&x=1", `{"id":1,"name":"Sample Data","value":` + goldenValue + `}`},
	} {
		res := get(t, r.URL+"/v1/data"+c.query)
		if got := string(ok(t, res)); got != c.want || res.header.Get("Content-Type") != "application/json" {
			t.Errorf("%d: %s as %s, want %s", i, got, res.header.Get("Content-Type"), c.want)
		}
	}
	if b := ok(t, get(t, r.URL+"/v1/data?x=1")); !bytes.HasPrefix(b, []byte(`{"id":2,`)) {
		t.Errorf("the id did not grow: %s", b)
	}
	if sum := r.Server.Summary(); sum.Data != 4 || sum.Routes["/v1/data"].Status[200] != 4 || sum.Requests != 4 {
		t.Errorf("the ledger says %+v", sum)
	}
}

func TestOneRecord(t *testing.T) {
	r := start(t, Options{Orders: 5})
	if b := ok(t, get(t, r.URL+"/v1/orders/5")); !bytes.Equal(b, r.Server.Record("orders", 4)) {
		t.Errorf("got %s", b)
	}
	for _, id := range []string{"0", "6", "x", "-1"} {
		if res := get(t, r.URL+"/v1/orders/"+id); res.status != 404 {
			t.Errorf("%s: status %d", id, res.status)
		}
	}
	if got := r.Server.Ledger().Indices("orders"); !slices.Equal(got, []int{4}) {
		t.Errorf("the ledger says %v", got)
	}
}

func TestWrongRequestsAreRefused(t *testing.T) {
	r := start(t, Options{})
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/nothing", "", 404, "no such route"},
		{"GET", "/v1/nothing", "", 404, "no such route"},
		{"GET", "/auth/auth/v1/orders", "", 404, "no such login"},
		{"GET", "/auth/bearer/auth/bearer/v1/data", "", 404, "no such route"},
		{"POST", "/v1/orders", "", 405, "answers GET"},
		{"GET", "/body/orders", "", 405, "answers POST"},
		{"GET", "/oauth/token", "", 405, "answers POST"},
		{"POST", "/body/orders", "{", 400, "read the body"},
		{"POST", "/body/orders", `{"page":{"size":0}}`, 400, "page.size is 0"},
		{"POST", "/body/orders", strings.Repeat("x", 2<<20), 400, "too large"},
		{"GET", "/v1/orders?limit=0", "", 400, "limit is"},
		{"GET", "/v1/orders?limit=many", "", 400, "say a number from 1"},
		{"GET", "/v1/orders?after=many", "", 400, "no token of orders"},
		{"GET", "/v1/orders?after=" + url.QueryEscape(token{1, 1, true}.text("users")), "", 400, "no token of orders"},
		{"GET", "/v1/orders?since=yesterday", "", 400, "not in the form time=rfc3339"},
		{"GET", "/v1/orders?since=2024-01-01T00:00:00Z&time=unix", "", 400, "not in the form time=unix"},
		{"GET", "/v1/orders?since=2024-01-01T00:00:00+02:00", "", 400, "not in the form"}, // + is a space
		{"GET", "/v1/orders?time=sundial", "", 400, "say rfc3339"},
		{"GET", "/v1/orders?shuffle=perhaps", "", 400, "say 1 or 0"},
		{"GET", "/page/orders?ragged=1", "", 400, "do not go with page"},
		{"GET", "/offset/orders?empty_every=3", "", 400, "do not go with offset"},
		{"GET", "/v1/orders?fault=nonsense", "", 400, "there is no fault"},
		{"GET", "/v1/orders?fault=latency,weight=3", "", 400, "there is no parameter"},
		{"GET", "/_control/nothing", "", 404, "no such control"},
	} {
		res := do(t, c.method, r.URL+c.path, c.body)
		if res.status != c.status || !strings.Contains(string(res.body), c.says) {
			t.Errorf("%s %s: status %d, %s; want %d, %s", c.method, c.path, res.status, res.body, c.status, c.says)
		}
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 0 {
		t.Errorf("refused requests served records: %+v", c)
	}
}

func TestIndexNamesEverything(t *testing.T) {
	r := start(t, Options{})
	text := string(ok(t, get(t, r.URL+"/")))
	for style := range styles {
		if !strings.Contains(text, "\n  "+style+" ") {
			t.Errorf("style %s is missing", style)
		}
	}
	for _, k := range kinds {
		if !strings.Contains(text, string(k.kind)) {
			t.Errorf("fault %s is missing", k.kind)
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add(token{3, 1000, true}.text("orders"))
	f.Add("")
	f.Add("b3JkZXJzOjE6MQ==")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := parseToken(text, "orders")
		if err != nil {
			return
		}
		again, err := parseToken(tok.text("orders"), "orders")
		if err != nil || again != tok {
			t.Errorf("%q is %+v, and that is %+v, %v", text, tok, again, err)
		}
	})
}
