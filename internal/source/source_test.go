package source

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/config"
	"ferry/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server for the test and returns its address.
func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// open makes a source for the test, in a pipeline named "p".
func open(t testing.TB, cfg config.Source, opt Options) *Source {
	t.Helper()
	opt.Pipeline = "p"
	s, err := New(cfg, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// pull is what reading to the end gave.
type pull struct {
	data     []string
	ids      []string
	bad      []string
	sizes    []string // HeaderDeadSize of each in bad
	seen     int
	pages    int
	parts    int
	warnings []string
	cursor   record.Cursor // behind the last part
}

// readAll reads from the cursor until a part has End. It fails on an error.
func readAll(t testing.TB, s *Source, from record.Cursor) pull {
	t.Helper()
	p, err := tryAll(t, s, from)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tryAll reads until End or an error; the cursor is then that behind the last part.
func tryAll(t testing.TB, s *Source, from record.Cursor) (pull, error) {
	t.Helper()
	p := pull{cursor: from}
	for range 5000 {
		ended, pageEnd := false, false
		for part, err := range s.Read(t.Context(), p.cursor) {
			if err != nil {
				return p, err
			}
			if pageEnd {
				t.Fatal("a part follows the end of its page")
			}
			p.take(t, part)
			ended, pageEnd = part.End, part.PageEnd
		}
		if !pageEnd {
			t.Fatal("a page has no end")
		}
		if ended {
			return p, nil
		}
	}
	t.Fatal("the data has no end")
	return p, nil
}

// readPage reads one page.
func readPage(t testing.TB, s *Source, from record.Cursor) (pull, error) {
	t.Helper()
	p := pull{cursor: from}
	for part, err := range s.Read(t.Context(), from) {
		if err != nil {
			return p, err
		}
		p.take(t, part)
	}
	return p, nil
}

func (p *pull) take(t testing.TB, part record.Part) {
	t.Helper()
	for i, r := range part.Records {
		p.data = append(p.data, string(r.Data))
		p.ids = append(p.ids, r.ID)
		if !json.Valid(r.Data) {
			t.Errorf("record %q is not JSON", r.Data)
		}
		if err := part.Bad[i]; err != nil {
			p.bad = append(p.bad, err.Error())
			p.sizes = append(p.sizes, r.Header(record.HeaderDeadSize))
		}
	}
	p.seen += part.Seen
	p.parts++
	if part.PageEnd {
		p.pages++
	}
	if part.End && !part.PageEnd {
		t.Error("End without PageEnd")
	}
	if part.Warning != "" {
		p.warnings = append(p.warnings, part.Warning)
	}
	p.cursor = part.After(len(part.Records))
	if len(p.cursor) > maxCursor {
		t.Errorf("the cursor has %d bytes", len(p.cursor))
	}
}

func wantData(t testing.TB, p pull, want ...string) {
	t.Helper()
	if !slices.Equal(p.data, want) {
		t.Errorf("records:\n got %v\nwant %v", p.data, want)
	}
}

// watchdog records what an observer hears.
type watchdog struct {
	mu       sync.Mutex
	requests []string
	retries  []string
	wire     int64
}

func (w *watchdog) Request(_ string, status int, _ time.Duration, wire int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = append(w.requests, fmt.Sprint(status))
	w.wire += wire
}

func (w *watchdog) Retry(_, reason string, _ time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retries = append(w.retries, reason)
}

// quick makes retries fast.
func quick(cfg config.Source) config.Source {
	cfg.RetryMax = config.Duration(time.Millisecond)
	return cfg
}

// fakeNet is a network of pipes, on which time can be faked.
type fakeNet struct {
	conns chan net.Conn
	done  chan struct{}
}

func newFakeNet(t *testing.T, h http.HandlerFunc) *fakeNet {
	n := &fakeNet{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() { _ = srv.Serve(n); close(served) }()
	t.Cleanup(func() { _ = srv.Close(); <-served })
	return n
}

func (n *fakeNet) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case n.conns <- b:
		return a, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (n *fakeNet) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}
func (n *fakeNet) Close() error   { close(n.done); return nil }
func (n *fakeNet) Addr() net.Addr { return &net.TCPAddr{} }

func TestReadFindsRecords(t *testing.T) {
	for _, c := range []struct {
		name, records, body string
		want                string
	}{
		{"array", "", `[{"id":1}, {"id":2}]`, `{"id":1} {"id":2}`},
		{"the only array of objects", "", `{"n":[1],"rows":[{"a":1}],"x":{}}`, `{"a":1}`},
		{"the one with a common name", "", `{"included":[{"a":1}],"data":[{"b":1}]}`, `{"b":1}`},
		{"an empty one with a common name", "", `{"tags":[],"items":[]}`, ``},
		{"an empty one beside others", "", `{"items":[],"links":[{"rel":"self"}]}`, ``},
		{"an empty one beside several", "", `{"data":[],"included":[{"a":1}],"links":[{}]}`, ``},
		{"a full one beside an empty one", "", `{"items":[],"data":[{"a":1}]}`, `{"a":1}`},
		{"the object itself", "", `{"id":1,"tags":[]}`, `{"id":1,"tags":[]}`},
		{"an object with an error", "", `{"id":1,"error":"disk full"}`, `{"id":1,"error":"disk full"}`},
		{"an object without an error", "", `{"error":null,"errors":[]}`, `{"error":null,"errors":[]}`},
		{"records beside errors", "", `{"data":[{"a":1}],"errors":[{"b":1}]}`, `{"a":1}`},
		{"errors, as said", ".errors[]", `{"errors":[{"a":1}]}`, `{"a":1}`},
		{"an error, as said", ".", `{"error":{"a":1}}`, `{"error":{"a":1}}`},
		{"two arrays, neither common", "", `{"a":[{}],"b":[{}]}`, `{"a":[{}],"b":[{}]}`},
		{"a number", "", ` 12 `, `12`},
		{"path", ".data[]", `{"meta":{"n":1},"data":[1,"two",null],"z":0}`, `1 "two" null`},
		{"path without brackets", ".data", `{"data":[1,2]}`, `1 2`},
		{"path to an object", ".data", `{"data":{"a":[1]}}`, `{"a":[1]}`},
		{"deep path", ".a.b[]", `{"a":{"x":1,"b":[{"c":1}]}}`, `{"c":1}`},
		{"quoted key", `.["x y"][]`, `{"x\u0020y":[7]}`, `7`},
		{"top", ".[]", `[1,2]`, `1 2`},
		{"identity", ".", `{"a":1}`, `{"a":1}`},
		{"null for none", ".data[]", `{"data":null}`, ``},
		{"null and no error", ".data[]", `{"error":0,"data":null,"errors":[ ]}`, ``},
		{"null and an error, as said", ".data[]?", `{"error":"x","data":null}`, ``},
		{"empty", ".data[]", `{"data":[]}`, ``},
		{"program", `.groups[] | .items[] | {id}`, `{"groups":[{"items":[{"id":1,"x":0}]},{"items":[{"id":2}]}]}`, `{"id":1} {"id":2}`},
		{"program by index", `.a[0].b[]`, `{"a":[{"b":[5]}]}`, `5`},
		{"byte order mark", "", "\xef\xbb\xbf[1]", `1`},
		{"space within", "", "\n[ {\"a\" : 1}\n, 2 ]\n", `{"a" : 1} 2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				fmt.Fprint(w, c.body)
			})
			s := open(t, config.Source{Base: url, Records: c.records}, Options{})
			p := readAll(t, s, nil)
			if got := strings.Join(p.data, " "); got != c.want || p.parts != 1 || p.pages != 1 {
				t.Errorf("got %s in %d parts, want %s", got, p.parts, c.want)
			}
			part, err := s.Fetch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var f pull
			f.take(t, part)
			if !slices.Equal(f.data, p.data) || !slices.Equal(f.ids, p.ids) || !part.End || part.After(0) != nil {
				t.Errorf("Fetch gives %v", f.data)
			}
		})
	}
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}

// Records without a key that are equal are as many as there are, wherever the page is gone on with.
func TestEqualRecords(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `[{"t":20},{"t":21},{"t":20},{"t":20},{"t":21}]`)
	})
	s := open(t, config.Source{Base: url, Paginate: config.Paginate{Word: "none"}}, Options{})
	whole := readAll(t, s, nil)
	for k := range whole.data {
		for part, err := range s.Read(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			rest := readAll(t, s, part.After(k))
			if got := slices.Concat(whole.data[:k], rest.data); !sameSet(got, whole.data) || rest.seen != k {
				t.Errorf("after %d: %v, seen %d", k, rest.data, rest.seen)
			}
			break
		}
	}
}

// sameSet compares without the order: of equal records the first ones are taken for those that were committed.
func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// The same when the connection breaks behind the first part of a page.
func TestEqualRecordsOfABrokenPage(t *testing.T) {
	filler := strings.Repeat("x", 2000)
	rows := make([]string, 1500)
	for i := range rows {
		rows[i] = fmt.Sprintf(`{"v":%d,"p":%q}`, i%700, filler)
	}
	body := "[" + strings.Join(rows, ",") + "]"
	broken := false
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if !broken {
			broken = true
			fmt.Fprint(w, body[:len(body)-1000])
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, body)
	})
	s := open(t, config.Source{Base: url, Retries: 2, RetryMax: config.Duration(time.Millisecond), Paginate: config.Paginate{Word: "none"}}, Options{})
	if p := readAll(t, s, nil); !sameSet(p.data, rows) || p.seen != 0 {
		t.Errorf("%d records of 1500, seen %d", len(p.data), p.seen)
	}
}
