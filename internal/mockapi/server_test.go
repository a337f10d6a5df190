package mockapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestLogins(t *testing.T) {
	r := start(t, Options{})
	basic := func(user, pass string) string {
		req := mustRequest(t, r.URL)
		req.SetBasicAuth(user, pass)
		return req.Header.Get("Authorization")
	}
	for _, c := range []struct {
		path, header, value string
		status              int
		challenge           string
	}{
		{"bearer/v1/orders", "Authorization", "Bearer " + BearerToken, 200, ""},
		{"bearer/v1/orders", "Authorization", "Bearer wrong", 401, "Bearer"},
		{"bearer/v1/data", "Authorization", "Bearer " + BearerToken, 200, ""},
		{"bearer/v1/data", "X", "", 401, "Bearer"},
		{"basic/link/orders", "Authorization", basic(BasicUser, BasicPass), 200, ""},
		{"basic/link/orders", "Authorization", basic(BasicUser, "wrong"), 401, "Basic"},
		{"basic/link/orders", "Authorization", "Basic nonsense", 401, "Basic"},
		{"apikey/page/users", "X-API-Key", APIKey, 200, ""},
		{"apikey/page/users?api_key=" + APIKey, "X", "", 200, ""},
		{"apikey/page/users", "Cookie", "api_key=" + APIKey, 200, ""},
		{"apikey/page/users?api_key=wrong", "Cookie", "api_key=wrong", 401, "ApiKey"},
		{"oauth2/v1/orders", "Authorization", "Bearer " + BearerToken, 401, `error="invalid_token"`},
		{"oauth2/v1/orders", "X", "", 401, "Bearer"},
	} {
		res := get(t, r.URL+"/auth/"+c.path, c.header, c.value)
		if res.status != c.status || !strings.Contains(res.header.Get("WWW-Authenticate"), c.challenge) {
			t.Errorf("%s with %s %s: status %d, challenge %s", c.path, c.header, c.value, res.status, res.header.Get("WWW-Authenticate"))
		}
	}
	// The next link stays behind the login.
	res := get(t, r.URL+"/auth/bearer/link/orders", "Authorization", "Bearer "+BearerToken)
	if m := linkNext.FindStringSubmatch(res.header.Get("Link")); m == nil || !strings.HasPrefix(m[1], r.URL+"/auth/bearer/link/orders?") {
		t.Errorf("Link %s", res.header.Get("Link"))
	}
}

func TestClientCredentials(t *testing.T) {
	var mu sync.Mutex
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	pass := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	r := start(t, Options{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	ask := func(query, form string, header ...string) (reply, string) {
		res := do(t, http.MethodPost, r.URL+"/oauth/token"+query, form, append(header, "Content-Type", "application/x-www-form-urlencoded")...)
		var v struct {
			Token   string `json:"access_token"`
			Expires int    `json:"expires_in"`
		}
		_ = json.Unmarshal(res.body, &v)
		return res, v.Token
	}
	status := func(token string) int {
		return get(t, r.URL+"/auth/oauth2/v1/data", "Authorization", "Bearer "+token).status
	}
	const params = "grant_type=client_credentials&client_id=" + ClientID + "&client_secret=" + ClientSecret
	basic := mustRequest(t, r.URL)
	basic.SetBasicAuth(ClientID, ClientSecret)
	_, a := ask("", params)
	_, b := ask("?expires_in=2", "grant_type=client_credentials", "Authorization", basic.Header.Get("Authorization"))
	if a == "" || b == "" || a == b || status(a) != 200 || status(b) != 200 {
		t.Fatalf("tokens %q and %q", a, b)
	}
	pass(2 * time.Second)
	if status(a) != 200 || status(b) != 401 {
		t.Error("the short token should have ended, and only that")
	}
	if get(t, r.URL+"/auth/oauth2/v1/data?fault=revoke", "Authorization", "Bearer "+a).status != 401 || status(a) != 401 {
		t.Error("a revoked token is good")
	}
	_, c := ask("", params)
	if status(c) != 200 {
		t.Error("no new token after the revocation")
	}
	if do(t, http.MethodDelete, r.URL+"/_control/tokens", "").status != 204 || status(c) != 401 {
		t.Error("the control did not revoke")
	}
	for _, w := range []struct {
		form   string
		status int
		says   string
	}{
		{"grant_type=client_credentials&client_id=" + ClientID + "&client_secret=wrong", 401, "invalid_client"},
		{"grant_type=password", 400, "unsupported_grant_type"},
		{"%zz", 400, "unsupported_grant_type"},
	} {
		if res, _ := ask("", w.form); res.status != w.status || !strings.Contains(string(res.body), w.says) || strings.Contains(string(res.body), "wrong") {
			t.Errorf("%s: status %d, %s", w.form, res.status, res.body)
		}
	}
	if n := r.Server.Summary().Tokens; n != 3 {
		t.Errorf("%d tokens", n)
	}
}

func TestControl(t *testing.T) {
	r := start(t, Options{Orders: 10})
	control := func(method, name, body string) reply {
		t.Helper()
		return do(t, method, r.URL+"/_control/"+name, body)
	}
	if res := control("PUT", "faults", `["503,path=/v1/,nth=2",{"kind":"status","status":429,"retry_after":3,"path":"/link/","every":2}]`); res.status != 204 {
		t.Fatalf("status %d, %s", res.status, res.body)
	}
	var got []int
	for _, path := range []string{"/v1/orders", "/v1/orders", "/v1/orders", "/link/orders", "/link/orders", "/link/orders"} {
		got = append(got, get(t, r.URL+path).status)
	}
	if fmt.Sprint(got) != "[200 503 200 200 429 200]" {
		t.Errorf("statuses %v", got)
	}
	rules := string(ok(t, control("GET", "faults", "")))
	if !strings.Contains(rules, `{"fault":"status,path=/v1/,nth=2,status=503","happened":1,"seen":3}`) {
		t.Errorf("rules %s", rules)
	}
	if control("DELETE", "faults", "").status != 204 || string(ok(t, control("GET", "faults", ""))) != "[]\n" {
		t.Error("the rules did not go")
	}
	for _, wrong := range []string{`{}`, `["nonsense"]`, `[{"kind":"latency","wait":3}]`, `[{"kind":"latency","weight":3}]`, `[3]`, `[{"status":500}]`, `["status,status=99"]`, `["cut,bytes=-1"]`} {
		if res := control("PUT", "faults", wrong); res.status != 400 || !bytes.Contains(res.body, []byte(`{"error":"read fault`)) {
			t.Errorf("%s: status %d, %s", wrong, res.status, res.body)
		}
	}

	sum := decode[Summary](t, ok(t, control("GET", "ledger", "")))
	if sum.Requests != 6 || sum.Sets["orders"].Records != 40 || sum.Sets["orders"].Distinct != 10 || sum.Faults[Status] != 2 || sum.Routes["/v1/orders"].Status[503] != 1 {
		t.Errorf("ledger %+v", sum)
	}
	if res := control("POST", "data", `{"set":"orders","grow":2,"touch":[0]}`); res.status != 204 {
		t.Errorf("status %d, %s", res.status, res.body)
	}
	for _, wrong := range []string{`{"set":"nothing"}`, `{"sets":"orders"}`, `x`} {
		if res := control("POST", "data", wrong); res.status != 400 {
			t.Errorf("%s: status %d", wrong, res.status)
		}
	}
	_ = control("DELETE", "ledger", "")
	records, _ := walker{style: "v1", set: "orders"}.walk(t, r.URL)
	if len(records) != 12 || !bytes.HasPrefix(records[11], []byte(`{"id":1,`)) || !bytes.HasPrefix(records[10], []byte(`{"id":12,`)) {
		t.Errorf("%d records, the last two %s", len(records), records[len(records)-2:])
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 12 {
		t.Errorf("ledger %+v", c)
	}
	if control("POST", "reset", "").status != 204 || r.Server.Summary().Requests != 0 {
		t.Error("the ledger was not reset")
	}
	if records, _ = (walker{style: "v1", set: "orders"}).walk(t, r.URL); len(records) != 10 {
		t.Errorf("%d records after the reset", len(records))
	}
}

func TestCompression(t *testing.T) {
	r := start(t, Options{})
	quiet := start(t, Options{NoCompression: true})
	for _, c := range []struct {
		url, accept, want string
	}{
		{r.URL + "/v1/orders", "gzip", "gzip"},
		{r.URL + "/v1/orders", "br, GZIP;q=0.5", "gzip"},
		{r.URL + "/v1/orders", "deflate", "deflate"},
		{r.URL + "/v1/orders", "gzip;q=0", ""},
		{r.URL + "/v1/orders", "identity", ""},
		{r.URL + "/v1/orders?gzip=0", "gzip", ""},
		{r.URL + "/v1/data", "gzip", ""},
		{quiet.URL + "/v1/orders", "gzip", ""},
	} {
		if res := get(t, c.url, "Accept-Encoding", c.accept); res.header.Get("Content-Encoding") != c.want || res.status != 200 {
			t.Errorf("%s with %s: status %d, encoding %q", c.url, c.accept, res.status, res.header.Get("Content-Encoding"))
		}
	}
	plain := ok(t, get(t, r.URL+"/v1/orders", "Accept-Encoding", "identity"))
	if !bytes.Equal(plain, gunzip(t, ok(t, get(t, r.URL+"/v1/orders", "Accept-Encoding", "gzip")))) {
		t.Error("compression changes the bytes")
	}
}

func TestNoLedgerCountsNothing(t *testing.T) {
	r := start(t, Options{NoLedger: true})
	ok(t, get(t, r.URL+"/v1/orders?fault=latency,wait=1ms"))
	ok(t, get(t, r.URL+"/v1/orders/1"))
	if sum := r.Server.Summary(); sum.Requests != 0 || len(sum.Sets) != 0 || len(sum.Faults) != 0 {
		t.Errorf("%+v", sum)
	}
}

func TestHeadServesNoRecords(t *testing.T) {
	r := start(t, Options{})
	if res := do(t, http.MethodHead, r.URL+"/v1/orders", ""); res.status != 200 || len(res.body) != 0 {
		t.Errorf("status %d", res.status)
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 0 {
		t.Errorf("%+v", c)
	}
}

func TestStartRefusesOtherAddresses(t *testing.T) {
	for addr, says := range map[string]string{
		"0.0.0.0:0":     "only loopback",
		":0":            "only loopback",
		"[::]:0":        "only loopback",
		"192.0.2.1:0":   "only loopback",
		"example.com:0": "only loopback",
		"127.0.0.1":     "say it as 127.0.0.1:PORT",
	} {
		if r, err := Start(addr, Options{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", addr, err)
			if r != nil {
				_ = r.Close(context.Background())
			}
		}
	}
	r := start(t, Options{})
	if _, err := Start(strings.TrimPrefix(r.URL, "http://"), Options{}); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), r.URL[7:]) {
		t.Errorf("a taken port: %v", err)
	}
}

// Close ends what waits, at once, and gives up on nothing else.
func TestCloseEndsWaits(t *testing.T) {
	r, err := Start("127.0.0.1:0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", r.URL[7:])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/orders?fault=stall HTTP/1.1\r\nHost: mock\r\n\r\n")
	if _, err = conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err = r.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err = net.Dial("tcp", r.URL[7:]); err == nil {
		t.Error("it still listens")
	}
}

// An answer whose client went away in the middle is broken and leaves no records in the ledger; and Close does not wait
// beyond its context for a client that takes nothing.
func TestClientsThatStopReading(t *testing.T) {
	r, err := Start("127.0.0.1:0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() net.Conn {
		conn, err := net.Dial("tcp", r.URL[7:])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /none/orders?count=50000&pad=870 HTTP/1.1\r\nHost: mock\r\n\r\n")
		if _, err = conn.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	_ = ask().Close()
	deadline := time.Now().Add(30 * time.Second)
	for r.Server.Summary().Routes["/none/orders"].Broken == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the answer is not counted as broken")
		}
		time.Sleep(time.Millisecond)
	}
	if c := r.Server.Ledger().Set("orders"); c.Records != 0 || c.Distinct != 0 || c.Versions != 0 {
		t.Errorf("the ledger says %+v", c)
	}

	defer ask().Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
}

// The last write of an answer can fail too; then what was counted is taken back.
func TestCountsAreTakenBack(t *testing.T) {
	for _, path := range []string{"/v1/orders", "/v1/orders/3", "/v1/data?x=1", "/v1/orders?fault=trickle,bytes=1MiB"} {
		s := New(Options{})
		s.ServeHTTP(&failing{discard{header: http.Header{}}}, mustRequest(t, "http://mock"+path))
		sum := s.Summary()
		if c := sum.Sets["orders"]; c.Records != 0 || c.Distinct != 0 || c.Versions != 0 || len(c.Ranges) != 0 || sum.Data != 0 {
			t.Errorf("%s: %+v", path, sum)
		}
		if len(sum.Routes) != 1 || sum.Requests != 1 {
			t.Errorf("%s: %+v", path, sum.Routes)
		}
		for _, route := range sum.Routes {
			if route.Broken != 1 {
				t.Errorf("%s: %+v", path, route)
			}
		}
	}
}

type failing struct{ discard }

func (failing) Write([]byte) (int, error) { return 0, errors.New("the client has gone") }

func TestFaultsNeedAConnection(t *testing.T) {
	s := New(Options{})
	w := &discard{header: http.Header{}}
	s.ServeHTTP(w, mustRequest(t, "http://mock/v1/orders?fault=reset"))
	if w.status != http.StatusInternalServerError {
		t.Errorf("status %d", w.status)
	}
}

func TestFaultsAreLogged(t *testing.T) {
	var b bytes.Buffer
	s := New(Options{Logger: slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	s.ServeHTTP(&discard{header: http.Header{}}, mustRequest(t, "http://mock/v1/orders?fault=503"))
	if !strings.Contains(b.String(), "faults=\"status,status=503\"") {
		t.Errorf("log: %s", b.String())
	}
}

func TestConcurrentUse(t *testing.T) {
	r := start(t, Options{Orders: 300})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				switch (i + j) % 5 {
				case 0:
					r.Server.Grow("orders", 1)
					r.Server.Touch("orders", j)
				case 1:
					_ = r.Server.Inject(Fault{Kind: Latency, Wait: time.Microsecond, Count: 1})
				case 2:
					r.Server.Summary()
					r.Server.Ledger().Indices("orders")
				}
				get(t, r.URL+"/link/orders?limit=50")
				get(t, r.URL+"/v1/data")
			}
		})
	}
	wg.Wait()
	if sum := r.Server.Summary(); sum.Data != 160 || sum.Routes["/link/orders"].Status[200] != 160 || sum.Sets["orders"].Records != 160*50 {
		t.Errorf("%+v", sum)
	}
}

// discard is a ResponseWriter that keeps nothing.
type discard struct {
	header http.Header
	status int
	n      int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(b []byte) (int, error) { d.n += len(b); return len(b), nil }

func BenchmarkData(b *testing.B) {
	s := New(Options{})
	req, _ := http.NewRequest(http.MethodGet, "/v1/data", nil)
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		s.ServeHTTP(w, req)
	}
}

// A page as the throughput benchmarks ask for it, without and with compression.
func BenchmarkPage(b *testing.B) {
	for _, encoding := range []string{"identity", "gzip"} {
		b.Run(encoding, func(b *testing.B) {
			s := New(Options{})
			after := token{500, 499_999, true}.text("orders")
			req, _ := http.NewRequest(http.MethodGet, "/v1/orders?count=1000000&limit=1000&pad=870&after="+strings.ReplaceAll(after, "=", "%3D"), nil)
			req.Header.Set("Accept-Encoding", encoding)
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				w.n = 0
				s.ServeHTTP(w, req)
			}
			if encoding == "identity" && w.n < 860_000 {
				b.Fatalf("%d bytes", w.n)
			}
			b.SetBytes(870_000)
			b.ReportMetric(float64(w.n), "wire-bytes")
		})
	}
}
