package mockapi

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func gunzip(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wire sends a request by hand and reads until the connection ends.
func wire(t *testing.T, base, path string) (header, body string, err error) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: mock\r\n\r\n", path)
	b, err := io.ReadAll(conn)
	header, body, _ = strings.Cut(string(b), "\r\n\r\n")
	return header, body, err
}

func TestFaultsOfTheFraming(t *testing.T) {
	r := start(t, Options{Orders: 20})
	whole := string(ok(t, get(t, r.URL+"/none/orders")))
	half, length := whole[:len(whole)/2], fmt.Sprintf("Content-Length: %d", len(whole))
	reset := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	end := func(err error) bool { return err == nil }
	for _, c := range []struct {
		fault        string
		has, hasNot  string // of the header
		body         string
		ends         func(error) bool
		client       string // the error that net/http's client sees; empty for none
		clientGetsIt string
	}{
		{"reset", length, "close", half, reset, "connection reset by peer", half},
		{"reset,bytes=0", length, "close", "", reset, "connection reset by peer", ""},
		{"cut", "Connection: close", "Content-Length", half, end, "", half},
		{"cut,bytes=10", "Connection: close", "Content-Length", whole[:10], end, "", whole[:10]},
		{"cut_length", length, "chunked", half, end, "unexpected EOF", half},
		{"cut_chunked", "Transfer-Encoding: chunked", "Content-Length", fmt.Sprintf("%x\r\n%s\r\n", len(half), half), end, "unexpected EOF", half},
		{"wrong_length,bytes=100", "Content-Length: 100", "close", whole, end, "", whole[:100]},
		{"hangup", "", "HTTP", "", end, "EOF", ""},
	} {
		t.Run(c.fault, func(t *testing.T) {
			header, body, err := wire(t, r.URL, "/none/orders?fault="+c.fault)
			if !strings.Contains(header, c.has) || strings.Contains(header, c.hasNot) {
				t.Errorf("header %s", header)
			}
			// A reset may overtake what was sent before it on some systems.
			early := strings.HasPrefix(c.fault, "reset") && strings.HasPrefix(c.body, body)
			if body != c.body && !early {
				t.Errorf("%d bytes of body, want %d", len(body), len(c.body))
			}
			if !c.ends(err) {
				t.Errorf("the connection ends with %v", err)
			}
			res := get(t, r.URL+"/none/orders?fault="+c.fault, "Accept-Encoding", "identity", "Connection", "close")
			if got := fmt.Sprint(res.err); c.client == "" && res.err != nil || !strings.Contains(got, c.client) && c.client != "" {
				t.Errorf("the client sees %v", res.err)
			}
			if string(res.body) != c.clientGetsIt && !early {
				t.Errorf("the client gets %d bytes, want %d", len(res.body), len(c.clientGetsIt))
			}
		})
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 20 {
		t.Errorf("broken answers count as served: %+v", c)
	}
	if c := r.Server.Summary().Routes["/none/orders"]; c.Broken != 16 {
		t.Errorf("%d broken answers, want 16", c.Broken)
	}
}

func TestFaultsInPlaceOfTheAnswer(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	r := start(t, Options{Orders: 20, Now: func() time.Time { return now }})
	host := strings.TrimPrefix(r.URL, "http://")
	_, port, _ := net.SplitHostPort(host)
	for _, c := range []struct {
		fault  string
		status int
		header string
		value  string
		body   string
	}{
		{"status", 500, "Retry-After", "", "internal server error"},
		{"502", 502, "Retry-After", "", "bad gateway"},
		{"503,retry_after=7", 503, "Retry-After", "7", "service unavailable"},
		{"429", 429, "Retry-After", "", "too many requests"},
		{"status,status=429,retry_after=date:2s", 429, "Retry-After", "Wed, 01 May 2030 12:00:02 GMT", "too many"},
		{"429,retry_after=soon", 429, "Retry-After", "soon", ""},
		{"html", 200, "Content-Type", "text/html; charset=utf-8", "<!DOCTYPE html>"},
		{"html,status=502", 502, "Content-Type", "text/html; charset=utf-8", "<h1>"},
		{"empty", 200, "Content-Length", "0", ""},
		{"redirect", 302, "Location", "http://localhost:" + port + "/v1/orders?limit=2", ""},
		{"redirect,status=308,to=/v1/users", 308, "Location", "/v1/users", ""},
		{"redirect,to=self", 302, "Location", "/v1/orders?limit=2&fault=redirect,to=self", ""},
		{"redirect,to=http://example.test", 302, "Location", "http://example.test/v1/orders?limit=2", ""},
		{"redirect,to=http://example.test/x", 302, "Location", "http://example.test/x", ""},
		{"content_type", 200, "Content-Type", "text/html; charset=utf-8", `"data":[`},
		{"content_type,as=image/png", 200, "Content-Type", "image/png", `"data":[`},
		{"huge_header,size=2KiB", 200, "X-Huge", strings.Repeat("h", 2048), `"data":[`},
	} {
		res := get(t, r.URL+"/v1/orders?limit=2&fault="+c.fault)
		if res.err != nil || res.status != c.status || res.header.Get(c.header) != c.value || !strings.Contains(string(res.body), c.body) {
			t.Errorf("%s: status %d, %s %q, error %v, body %.100s", c.fault, res.status, c.header, res.header.Get(c.header), res.err, res.body)
		}
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 2 { // huge_header is a good answer
		t.Errorf("the ledger says %+v", c)
	}
	// A body that would otherwise go out in pieces has the wrong type too.
	if res := get(t, r.URL+"/v1/orders?limit=5&pad=1000000&fault=content_type"); res.header.Get("Content-Type") != "text/html; charset=utf-8" || len(res.body) < flushSize {
		t.Errorf("content_type: %q for %d bytes", res.header.Get("Content-Type"), len(res.body))
	}
	res := get(t, r.URL+"/v1/orders?fault=invalid_json")
	if res.err != nil || json.Valid(res.body) || len(res.body) < 1000 {
		t.Errorf("invalid_json: error %v, %d bytes", res.err, len(res.body))
	}
	// The default is beyond what Go's client takes.
	if res = get(t, r.URL+"/v1/orders?fault=huge_header,size=11MiB"); res.err == nil || !strings.Contains(res.err.Error(), "exceeded") {
		t.Errorf("huge_header: %v", res.err)
	}
}

func TestLatencyAndTrickleTakeTheirTime(t *testing.T) {
	r := start(t, Options{})
	begin := time.Now()
	ok(t, get(t, r.URL+"/v1/data?fault=latency,wait=30ms"))
	if d := time.Since(begin); d < 30*time.Millisecond {
		t.Errorf("latency of %s", d)
	}

	conn, err := net.Dial("tcp", strings.TrimPrefix(r.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/data?fixed=1&fault=trickle,bytes=10,wait=5ms HTTP/1.1\r\nHost: mock\r\n\r\n")
	begin = time.Now()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	reads, b := 0, make([]byte, 4096)
	total := 0
	for {
		n, err := res.Body.Read(b)
		if n > 0 {
			reads++
			total += n
		}
		if err != nil {
			break
		}
	}
	if int64(total) != res.ContentLength || reads < 3 || time.Since(begin) < 5*time.Millisecond*time.Duration(total/10-1) {
		t.Errorf("%d of %d bytes in %d reads", total, res.ContentLength, reads)
	}
	if sum := r.Server.Summary(); sum.Data != 2 || sum.Routes["/v1/data"].Broken != 0 {
		t.Errorf("the ledger says %+v", sum)
	}
}

// A handler that waits ends when its client goes, and when the server stops: goleak and Close would hang otherwise.
func TestWaitsEndWithTheClient(t *testing.T) {
	for _, fault := range []string{"latency,wait=1h", "stall", "trickle,wait=1h"} {
		r := start(t, Options{})
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /v1/orders?fault=%s HTTP/1.1\r\nHost: mock\r\n\r\n", fault)
		if !strings.HasPrefix(fault, "latency") {
			if _, err = conn.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
		deadline := time.Now().Add(30 * time.Second)
		for r.Server.Summary().Routes["/v1/orders"].Broken+r.Server.Summary().Routes["other"].Broken == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("%s still waits", fault)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestBombInflates(t *testing.T) {
	r := start(t, Options{Orders: 3})
	res, err := http.DefaultTransport.RoundTrip(mustRequest(t, r.URL+"/v1/orders?fault=bomb,size=4MiB", "Accept-Encoding", "gzip"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	count := &counter{r: res.Body}
	z, err := gzip.NewReader(count)
	if err != nil {
		t.Fatal(err)
	}
	inflated, err := io.ReadAll(z) // checks length and checksum
	if err != nil {
		t.Fatal(err)
	}
	if len(inflated) < 4<<20 || count.n > 10<<10 {
		t.Errorf("%d bytes inflate to %d", count.n, len(inflated))
	}
	if v := decode[struct{ Data []json.RawMessage }](t, inflated); len(v.Data) != 3 {
		t.Errorf("%d records in the bomb", len(v.Data))
	}
}

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

func mustRequest(t *testing.T, url string, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func TestFaultsOfThePagination(t *testing.T) {
	const n = 50
	type seen struct{ distinct, records, pages int }
	for _, c := range []struct {
		style, params string
		want          seen
	}{
		{"v1", "fault=loop_token", seen{14, 7 * 20, 20}},
		{"link", "fault=loop_token,nth=3", seen{n, n + 7, 9}},
		{"v1", "fault=loop_cycle,size=4", seen{28, 7 * 20, 20}},
		{"nexturl", "fault=loop_cycle,size=4", seen{28, 7 * 20, 20}},
		{"header", "fault=same_page", seen{7, 7 * 20, 20}},
		{"page", "fault=same_page", seen{7, 7 * 20, 20}},
		{"offset", "fault=same_page", seen{7, 7 * 20, 20}},
		{"v1", "fault=empty_pages", seen{0, 0, 20}},
		{"page", "fault=empty_pages", seen{0, 0, 20}},
		{"offset", "fault=empty_pages", seen{0, 0, 20}},
		{"v1", "fault=duplicate,rows=2", seen{n, n + 7*2, 8}},
		{"page", "fault=duplicate,rows=2", seen{n, n + 7*2, 8}},
		{"none", "fault=duplicate,rows=2", seen{n, n, 1}},
	} {
		t.Run(c.style+" "+c.params, func(t *testing.T) {
			r := start(t, Options{Orders: n})
			records, pages := walker{style: c.style, set: "orders", params: "limit=7&per_page=7&" + c.params, maxPages: 20}.walk(t, r.URL)
			distinct := map[string]bool{}
			for _, b := range records {
				distinct[string(b)] = true
			}
			if got := (seen{len(distinct), len(records), pages}); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if l := r.Server.Ledger().Set("orders"); l.Records != c.want.records || l.Distinct != c.want.distinct {
				t.Errorf("the ledger says %+v", l)
			}
		})
	}
}

func TestLoopTokensRepeat(t *testing.T) {
	r := start(t, Options{})
	next := func(after, params string) string {
		return decode[struct{ Meta struct{ Next string } }](t, ok(t, get(t, r.URL+"/v1/orders?limit=2&after="+strings.ReplaceAll(after, "=", "%3D")+"&"+params))).Meta.Next
	}
	first := next("", "fault=loop_token")
	if second := next(first, "fault=loop_token"); second != first {
		t.Errorf("token %q follows %q", second, first)
	}
	var tokens []string
	for i, tok := 0, ""; i < 9; i++ {
		tok = next(tok, "fault=loop_cycle")
		tokens = append(tokens, tok)
	}
	for i := 3; i < 9; i++ {
		if tokens[i] != tokens[i-3] {
			t.Errorf("no cycle of 3: %q", tokens)
		}
	}
	if tokens[0] == tokens[1] || tokens[1] == tokens[2] || tokens[0] == tokens[2] {
		t.Errorf("tokens of a cycle are equal: %q", tokens)
	}
	unlike := map[string]bool{}
	for i, tok := 0, ""; i < 9; i++ {
		tok = next(tok, "fault=same_page")
		unlike[tok] = true
	}
	if len(unlike) != 9 {
		t.Errorf("same_page gives %d tokens in 9 pages", len(unlike))
	}
}

func TestNextHost(t *testing.T) {
	r := start(t, Options{})
	for fault, want := range map[string]string{
		"next_host": "http://localhost:", "next_host,to=http://example.test": "http://example.test/link/orders?",
		"next_host,to=example.test:81": "http://example.test:81/link/orders?",
	} {
		res := get(t, r.URL+"/link/orders?fault="+fault)
		if got := linkNext.FindStringSubmatch(res.header.Get("Link")); got == nil || !strings.HasPrefix(got[1], want) {
			t.Errorf("%s: Link %s", fault, res.header.Get("Link"))
		}
	}
}

func TestGrowingData(t *testing.T) {
	const n, size = 100, 10
	for _, c := range []struct {
		style, params              string
		records, distinct, version int
	}{
		// By token, nothing is missed or doubled: new rows at the end are read too, until the fault is used up.
		{"v1", "fault=grow,rows=2,count=5,nth=1", n + 10, n + 10, n + 10},
		{"v1", "order=desc&fault=grow,rows=2", n, n, n},
		// By place, rows in front push known ones onto the next page.
		{"offset", "order=desc&fault=grow,rows=2", n + 24, n, n},
		{"page", "order=desc&fault=grow,rows=2", n + 24, n, n},
		// Touched rows come again at the end as another version.
		{"v1", "fault=touch,rows=1", n + 10, n, n + 10},
		// By place, touched rows pull unread ones onto the page before: some are missed, and that is the API's doing.
		{"offset", "fault=touch,rows=1", n, n - 9, n},
	} {
		t.Run(c.style+" "+c.params, func(t *testing.T) {
			r := start(t, Options{Orders: n})
			records, _ := walker{style: c.style, set: "orders", params: fmt.Sprintf("limit=%d&per_page=%d&%s", size, size, c.params)}.walk(t, r.URL)
			l := r.Server.Ledger().Set("orders")
			if len(records) != l.Records || l.Records != c.records || l.Distinct != c.distinct || l.Versions != c.version {
				t.Errorf("%d records, ledger %+v, want %+v", len(records), l, c)
			}
		})
	}
}

func TestSpoiledRecords(t *testing.T) {
	r := start(t, Options{Orders: 4})
	for _, c := range []struct {
		fault, want string
	}{
		{"poison", `{"number":"F-00000003"`},
		{"poison,as=no_key", `{"number":"F-00000003"`},
		{"poison,as=null_key", `{"id":null,"number":"F-00000003"`},
		{"poison,as=wrong_type", `{"id":{"is":["an","object"]},"number":"F-00000003"`},
		{"poison,as=text", `"this is no record"`},
		{"poison,as=null", `null`},
		{"oversize,size=100KiB", strings.Repeat("x", 100<<10)},
		{"deep,size=300", strings.Repeat("[", 300) + strings.Repeat("]", 300)},
	} {
		r.Server.Reset()
		got := decode[[]json.RawMessage](t, ok(t, get(t, r.URL+"/none/orders?fault="+c.fault+",at=2")))
		if len(got) != 4 || !strings.Contains(string(got[2]), c.want) {
			t.Errorf("%s: %d records, the third one %.200s", c.fault, len(got), got[2])
			continue
		}
		for _, i := range []int{0, 1, 3} {
			if !bytes.Equal(got[i], r.Server.Record("orders", i)) {
				t.Errorf("%s: record %d is %s", c.fault, i, got[i])
			}
		}
		if l := r.Server.Ledger().Set("orders"); l.Records != 3 || l.Spoiled != 1 || r.Server.Ledger().Times("orders", 2) != 0 {
			t.Errorf("%s: the ledger says %+v", c.fault, l)
		}
	}
}

func TestWhenFaultsHappen(t *testing.T) {
	for _, c := range []struct {
		when string
		want string // one letter for each of 12 requests
	}{
		{"", "xxxxxxxxxxxx"},
		{",nth=3", "..x........."},
		{",nth=3,count=2", "..xx........"},
		{",every=3", "..x..x..x..x"},
		{",every=3,count=2", "..x..x......"},
		{",nth=2,every=4", ".x...x...x.."},
		{",nth=1,every=5,count=2", "x....x......"},
		{",count=2", "xx.........."},
	} {
		f, err := ParseFault("503" + c.when)
		if err != nil {
			t.Fatal(err)
		}
		s := New(Options{})
		if err := s.Inject(f); err != nil {
			t.Fatal(err)
		}
		injected, asked := "", ""
		for range 12 {
			fs, _ := s.faults.match(mustRequest(t, "http://mock/v1/orders"))
			injected += letter(fs)
		}
		s.ClearFaults()
		for range 12 {
			fs, err := s.faults.match(mustRequest(t, "http://mock/v1/orders?fault=503"+c.when))
			if err != nil {
				t.Fatal(err)
			}
			asked += letter(fs)
		}
		if injected != c.want || asked != c.want {
			t.Errorf("%q: injected %s, asked for %s, want %s", c.when, injected, asked, c.want)
		}
	}
}

func letter(fs fired) string {
	if len(fs) > 0 {
		return "x"
	}
	return "."
}

func TestInjectedFaults(t *testing.T) {
	r := start(t, Options{})
	if err := r.Server.Inject(Fault{Kind: "nonsense"}); err == nil {
		t.Error("an unknown kind was taken")
	}
	if err := r.Server.Inject(Fault{Kind: Status, Status: 503, Path: "/v1/data", Nth: 2}, Fault{Kind: Status, Status: 502, Path: "/page/"}); err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, path := range []string{"/v1/data", "/v1/data", "/v1/data", "/v1/orders", "/page/orders", "/_control/faults", "/"} {
		got = append(got, get(t, r.URL+path).status)
	}
	if want := "[200 503 200 200 502 200 200]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if n := r.Server.Summary().Faults[Status]; n != 2 {
		t.Errorf("the ledger says %d faults", n)
	}
	r.Server.ClearFaults()
	if res := get(t, r.URL+"/page/orders"); res.status != 200 {
		t.Errorf("status %d after ClearFaults", res.status)
	}
}

func FuzzParseFault(f *testing.F) {
	f.Add("429,retry_after=date:2s,nth=2")
	f.Add("bomb,size=2GiB,path=/v1/")
	f.Add("reset,bytes=0,every=3,count=1,at=2,rows=4,to=http://x,as=text,wait=1s")
	f.Fuzz(func(t *testing.T, text string) {
		fault, err := ParseFault(text)
		if err != nil {
			return
		}
		again, err := ParseFault(fault.String())
		if err != nil || again.String() != fault.String() {
			t.Errorf("%q becomes %q becomes %q, %v", text, fault, again, err)
		}
	})
}

func FuzzParseSize(f *testing.F) {
	f.Add("2GiB")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseSize(text); err == nil && n > 1<<40 {
			t.Errorf("%q is %s", text, strconv.Itoa(n))
		}
	})
}
