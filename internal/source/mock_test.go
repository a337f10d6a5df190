package source

import (
	"errors"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"ferry/internal/config"
	"ferry/internal/mockapi"
)

func mock(t *testing.T, orders int) (*mockapi.Server, string) {
	t.Helper()
	m := mockapi.New(mockapi.Options{Seed: 7, Orders: orders})
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	return m, srv.URL
}

// styles are the simulated API's listings and how each is read.
var styles = map[string]config.Source{
	"v1":      {Records: ".data[]", Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".meta.next", Into: "query.after"}}},
	"link":    {Paginate: config.Paginate{Word: "link_header"}},
	"nexturl": {Records: ".results[]", Paginate: config.Paginate{NextURL: ".links.next"}},
	"page":    {Records: ".items[]", Paginate: config.Paginate{Page: &config.PagePaging{Start: 1, Total: ".total_pages", Size: 100, SizeInto: "query.per_page"}}},
	"offset":  {Records: ".items[]", Paginate: config.Paginate{Offset: &config.OffsetPaging{Total: ".total", Limit: 100, LimitInto: "query.limit"}}},
	"header":  {Paginate: config.Paginate{Cursor: &config.CursorPaging{From: "header.X-Next-Token", Into: "header.X-Page-Token"}}},
	"body":    {Post: "/body/orders", Body: config.Body{JSON: []byte(`{"page":{"size":100}}`)}, Records: ".data[]", Paginate: config.Paginate{Cursor: &config.CursorPaging{From: ".page.next", Into: "body.page.token"}}},
	"none":    {Paginate: config.Paginate{Word: "none"}},
	"ndjson":  {Paginate: config.Paginate{Word: "link_header"}},
	"auto":    {},
}

func styled(base, style string) config.Source {
	cfg := styles[style]
	cfg.Base, cfg.Key, cfg.Retries, cfg.RetryMax = base, ".id", 3, config.Duration(time.Millisecond)
	if style == "auto" {
		style = "nexturl"
	}
	if cfg.Post == "" {
		cfg.Get = "/" + style + "/orders"
	}
	return cfg
}

// Whatever the style, and whatever passing fault befalls a request: all records come once, in order, and what came is
// what the API says it has served.
func TestMockStylesAndPassingFaults(t *testing.T) {
	for style := range styles {
		for _, fault := range []string{"", "503,nth=2,retry_after=0", "429,nth=1,retry_after=0", "hangup,nth=2", "reset,nth=2,bytes=5000", "cut,nth=1,bytes=3000", "cut_length,nth=1,bytes=3000", "cut_chunked,nth=2,bytes=3000", "status,status=500,every=2,count=3", "latency,wait=1ms,every=3"} {
			t.Run(style+" "+fault, func(t *testing.T) {
				const n = 450
				m, base := mock(t, n)
				if fault != "" {
					f, err := mockapi.ParseFault(fault)
					if err != nil {
						t.Fatal(err)
					}
					if err := m.Inject(f); err != nil {
						t.Fatal(err)
					}
				}
				p := readAll(t, open(t, styled(base, style), Options{}), nil)
				if len(p.data) != n || p.seen != 0 || len(p.bad) != 0 || len(p.warnings) != 0 {
					t.Fatalf("%d records, %d seen, bad %q, warnings %q", len(p.data), p.seen, p.bad, p.warnings)
				}
				unique := map[string]bool{}
				for _, id := range p.ids {
					unique[id] = true
				}
				if sum := m.Ledger().Set("orders"); len(unique) != n || sum.Distinct != n {
					t.Errorf("%d ids; the API has served %d records", len(unique), sum.Distinct)
				}
			})
		}
	}
}

// Faults that do not pass fail the run with their reason; none is the end of the data (invariant 9).
func TestMockLastingFaults(t *testing.T) {
	for _, c := range []struct {
		style, fault string
		kind         Kind
	}{
		{"v1", "html,nth=2", KindContent},
		{"v1", "empty,every=1", KindContent},
		{"v1", "content_type,nth=2", KindContent},
		{"v1", "invalid_json,every=1", KindContent},
		{"v1", "wrong_length", KindContent},
		{"ndjson", "cut_length,every=1,bytes=2000", KindContent},
		{"ndjson", "cut,every=1,bytes=2000", KindContent},
		{"v1", "bomb,nth=2,size=64MiB", KindLimit},
		{"v1", "huge_header,nth=1", KindLimit},
		{"v1", "stall,bytes=100", KindTimeout},
		{"v1", "redirect,nth=1", KindBlocked},
		{"v1", "redirect,to=self", KindLoop},
		{"nexturl", "next_host,nth=1", KindBlocked},
		{"link", "next_host,nth=1", KindBlocked},
		{"v1", "loop_token,nth=2", KindLoop},
		{"v1", "loop_cycle,size=3", KindLoop},
		{"nexturl", "loop_cycle,size=3", KindLoop},
		{"page", "same_page", KindLoop},
		{"v1", "429,nth=1,retry_after=3600", KindRateLimited},
		{"v1", "status,status=404,nth=1", KindStatus},
		{"auto", "hangup", KindNetwork},
	} {
		t.Run(c.style+" "+c.fault, func(t *testing.T) {
			m, base := mock(t, 450)
			f, err := mockapi.ParseFault(c.fault)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Inject(f); err != nil {
				t.Fatal(err)
			}
			cfg := styled(base, c.style)
			cfg.Retries = 1
			cfg.Limits.Inflated = 16 << 20
			cfg.Timeouts.Idle = config.Duration(300 * time.Millisecond)
			_, err = tryAll(t, open(t, cfg, Options{}), nil)
			var e *Error
			if !errors.As(err, &e) || e.Kind != c.kind {
				t.Errorf("error %v, want one of kind %s", err, c.kind)
			}
		})
	}
}

// A record that is broken is bad, whatever the way, and the others arrive.
func TestMockSpoiledRecords(t *testing.T) {
	for _, fault := range []string{"poison,nth=2,at=3,as=no_key", "poison,nth=2,at=3,as=null_key", "poison,nth=2,at=3,as=wrong_type", "oversize,nth=2,at=3,size=9MiB", "deep,nth=1,at=0,size=1000"} {
		t.Run(fault, func(t *testing.T) {
			m, base := mock(t, 450)
			f, err := mockapi.ParseFault(fault)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Inject(f); err != nil {
				t.Fatal(err)
			}
			p := readAll(t, open(t, styled(base, "v1"), Options{}), nil)
			if len(p.data) != 450 || len(p.bad) != 1 || m.Ledger().Set("orders").Spoiled != 1 {
				t.Errorf("%d records, bad %q", len(p.data), p.bad)
			}
		})
	}
}

// Incremental pulls of data that grows and changes, with every notation of time: each version of each record once.
func TestMockIncremental(t *testing.T) {
	for _, form := range []string{"rfc3339", "rfc3339_zone", "rfc3339_ms", "unix", "unix_ms", "date"} {
		for _, order := range []string{"", "order=desc", "shuffle=1"} {
			t.Run(form+" "+order, func(t *testing.T) {
				m, base := mock(t, 450)
				cfg := styled(base, "v1")
				cfg.Query = config.Params{"time": form}
				if name, value, ok := strings.Cut(order, "="); ok {
					cfg.Query[name] = value
				}
				cfg.Incremental = &config.Incremental{Field: ".updated_at", Into: "query.since"}
				s := open(t, cfg, Options{})
				p := readAll(t, s, nil)
				ids := map[string]bool{}
				for _, id := range p.ids {
					ids[id] = true
				}
				if len(p.data) != 450 || len(ids) != 450 {
					t.Fatalf("%d records with %d ids", len(p.data), len(ids))
				}
				for round := range 3 {
					m.Grow("orders", 10)
					m.Touch("orders", round, round+100)
					p = readAll(t, s, p.cursor)
					fresh := 0
					for _, id := range p.ids {
						if ids[id] {
							t.Errorf("round %d: a record comes twice", round)
						}
						ids[id] = true
						fresh++
					}
					if want := 12; fresh != want && form != "date" { // of a date, changes within the day have the same version
						t.Errorf("round %d: %d new, want %d", round, fresh, want)
					}
				}
				p = readAll(t, s, p.cursor)
				if len(p.data) != 0 || p.seen == 0 {
					t.Errorf("then %d new, %d seen", len(p.data), p.seen)
				}
			})
		}
	}
}

func TestMockLogins(t *testing.T) {
	_, base := mock(t, 450)
	for kind, auth := range map[string]config.SourceAuth{
		"bearer": {Bearer: mockapi.BearerToken},
		"basic":  {Basic: &config.Basic{User: mockapi.BasicUser, Password: mockapi.BasicPass}},
		"apikey": {APIKey: &config.Key{Value: mockapi.APIKey, Query: "api_key"}},
		"oauth2": {OAuth2: &config.OAuth2{TokenURL: base + "/oauth/token?expires_in=3600", ClientID: mockapi.ClientID, ClientSecret: mockapi.ClientSecret}},
	} {
		for _, style := range []string{"v1", "nexturl", "link"} {
			cfg := styled(base, style)
			cfg.Get = "/auth/" + kind + cfg.Get
			if _, err := tryAll(t, open(t, cfg, Options{}), nil); err == nil || !strings.HasPrefix(err.Error(), "auth: status 401") {
				t.Errorf("%s %s without a login: %v", kind, style, err)
			}
			cfg.Auth = auth
			if p, err := tryAll(t, open(t, cfg, Options{}), nil); err != nil || len(p.data) != 450 {
				t.Errorf("%s %s: %d records, %v", kind, style, len(p.data), err)
			}
		}
	}
}

func TestMockEmptyAndRaggedPages(t *testing.T) {
	for style := range styles {
		if style == "none" || style == "offset" || style == "page" || style == "ndjson" {
			continue
		}
		_, base := mock(t, 450)
		cfg := styled(base, style)
		cfg.Query = config.Params{"empty_every": "3", "ragged": "1", "limit": strconv.Itoa(40)}
		p := readAll(t, open(t, cfg, Options{}), nil)
		if len(p.data) != 450 || p.pages < 8 {
			t.Errorf("%s: %d records in %d pages", style, len(p.data), p.pages)
		}
	}
}
