package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/config"
)

// listen serves the handler with NewServer on a port of its own.
func listen(t *testing.T, h *Handler, cfg config.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(l.Addr().String(), h, cfg)
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-served })
	return l.Addr().String()
}

// talk opens a connection, sends the text, and returns everything that comes until the server hangs up.
func talk(t *testing.T, addr, send string) (answer string, took time.Duration) {
	t.Helper()
	start := time.Now() // the server may begin to count before Dial has returned
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(start.Add(10 * time.Second))
	b, err := io.ReadAll(c)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatalf("the server still holds the connection after 10 s; so far: %q", b)
	}
	return string(b), time.Since(start)
}

// TestSlowClientsAreCutOff talks over a raw connection, as no client library would.
func TestSlowClientsAreCutOff(t *testing.T) {
	cfg := config.Server{HeaderTimeout: config.Duration(200 * time.Millisecond), BodyTimeout: config.Duration(300 * time.Millisecond), IdleTimeout: config.Duration(200 * time.Millisecond)}
	const head = "POST /v1/pipelines/orders/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	tests := []struct {
		name, send string
		auth       config.Auth
		want       string // begin of the answer
	}{
		{"header never ends", "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n", config.Auth{}, ""},
		{"nothing is sent", "", config.Auth{}, ""},
		{"body never ends", head + "Content-Length: 1000\r\n\r\n[1,", config.Auth{}, "HTTP/1.1 408 "},
		{"chunked body never ends", head + "Transfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n", config.Auth{}, "HTTP/1.1 408 "},
		{"body of a refused request never ends", head + "Content-Length: 1000\r\n\r\n[1,", keys(), "HTTP/1.1 401 "},
		{"body of a GET never ends", "GET /process HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n1", config.Auth{}, "HTTP/1.1 408 "},
		{"nothing after an answer", "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", config.Auth{}, "HTTP/1.1 200 "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			svc := &fake{}
			addr := listen(t, newHandler(t, svc, Options{Server: cfg, Auth: tt.auth}), cfg)
			answer, took := talk(t, addr, tt.send)
			if !strings.HasPrefix(answer, tt.want) || (tt.want == "" && strings.HasPrefix(answer, "HTTP/1.1 2")) {
				t.Errorf("answer = %q, want %q…", answer, tt.want)
			}
			if took < 150*time.Millisecond || took > 5*time.Second {
				t.Errorf("cut off after %s", took)
			}
			if strings.Contains(tt.want, " 408") && !strings.Contains(answer, `"/problems/request-timeout"`) {
				t.Errorf("answer is no problem: %q", answer)
			}
			if calls := svc.took(); len(calls) > 0 {
				t.Errorf("called %v before the body was there", calls)
			}
		})
	}
}

// TestSlowReaderIsCutOff: a client that does not take its answer loses the connection.
func TestSlowReaderIsCutOff(t *testing.T) {
	cfg := config.Server{BodyTimeout: config.Duration(300 * time.Millisecond)}
	big := json.RawMessage(`"` + strings.Repeat("x", 32<<20) + `"`)
	done := make(chan struct{})
	h := newHandler(t, &fake{process: func(context.Context, string) (Processed, error) { return Processed{Data: big}, nil }},
		Options{Server: cfg, Observe: func(string, string, int, time.Duration) { close(done) }})
	c, err := net.Dial("tcp", listen(t, h, cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /process HTTP/1.1\r\nHost: localhost\r\n\r\n")
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the handler still waits for a client that reads nothing")
	}
}

// TestSlowWorkIsNotCutOff: the limits are for the client; work that takes longer than they do is still answered, and
// its context lives, also after a body.
func TestSlowWorkIsNotCutOff(t *testing.T) {
	cfg := config.Server{HeaderTimeout: config.Duration(100 * time.Millisecond), BodyTimeout: config.Duration(150 * time.Millisecond)}
	work := func(ctx context.Context, _ string) (Processed, error) {
		select {
		case <-time.After(500 * time.Millisecond):
			return Processed{Data: json.RawMessage("1")}, nil
		case <-ctx.Done():
			return Processed{}, ctx.Err()
		}
	}
	addr := listen(t, newHandler(t, &fake{process: work}, Options{Server: cfg}), cfg)
	for _, send := range []string{
		"POST /process HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
		"GET /process HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
	} {
		if answer, _ := talk(t, addr, send); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			t.Errorf("answer = %q", answer)
		}
	}
}

// TestConnectionIsReusable: what is set for one request does not spoil the next one on the connection.
func TestConnectionIsReusable(t *testing.T) {
	cfg := config.Server{BodyTimeout: config.Duration(200 * time.Millisecond)}
	addr := listen(t, newHandler(t, &fake{}, Options{Server: cfg}), cfg)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for i := range 3 {
		fmt.Fprint(c, "POST /v1/pipelines/orders/records HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\n"+`{"a":1}`)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("request %d = %s", i, resp.Status)
		}
		time.Sleep(300 * time.Millisecond) // past both deadlines of the request before
	}
}

func TestBodySize(t *testing.T) {
	cfg := config.Server{BodyBytes: 1000}
	big := `[` + strings.Repeat("1,", 600) + `1]`
	h := newHandler(t, &fake{}, Options{Server: cfg})
	for _, target := range []string{"POST /v1/pipelines/orders/records", "POST /v1/pipelines/orders/preview", "POST /process", "GET /livez"} {
		method, path, _ := strings.Cut(target, " ")
		if w := do(h, method, path, big); w.Code != 413 || problemIn(t, w).Code() != CodeTooLarge {
			t.Errorf("%s = %d %s", target, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest("POST", "/v1/pipelines/orders/records", io.MultiReader(strings.NewReader(big))) // of unknown length
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 413 {
		t.Errorf("chunked = %d %s", w.Code, w.Body)
	}
	if w := do(h, "POST", "/v1/pipelines/orders/records", big[:998]+"1]"); w.Code != 200 {
		t.Errorf("exactly the limit = %d %s", w.Code, w.Body)
	}
	if n := h.bodies.Load(); n != 0 {
		t.Errorf("%d bytes of bodies are still counted", n)
	}
}

func TestBodiesTogether(t *testing.T) {
	h := newHandler(t, &fake{}, Options{})
	h.bodies.Store(bodiesFactor * int64(h.opt.Server.BodyBytes))
	w := do(h, "POST", "/v1/pipelines/orders/records", "[1]")
	if w.Code != 503 || problemIn(t, w).Code() != CodeOverloaded || w.Header().Get("Retry-After") != "1" {
		t.Errorf("one body too many = %d %s", w.Code, w.Body)
	}
	if w := do(h, "GET", "/process", ""); w.Code != 200 {
		t.Errorf("without a body = %d", w.Code)
	}
	h.bodies.Store(0)
	for _, path := range []string{"/livez", "/docs"} { // what needs no key
		if w := do(h, "GET", path, strings.Repeat("a", openBody+1)); w.Code != 413 {
			t.Errorf("GET %s with a body of %d bytes = %d", path, openBody+1, w.Code)
		}
	}
	// A body that has come counts as what it is, not as what it might have been.
	var counted int64
	svc := &fake{push: func(string, []byte) (Pushed, error) {
		counted = h.bodies.Load()
		return Pushed{}, nil
	}}
	h = newHandler(t, svc, Options{})
	r := httptest.NewRequest("POST", "/v1/pipelines/orders/records", io.MultiReader(strings.NewReader("[1]"))) // of unknown length
	r.Header.Set("Content-Type", "application/json")
	w = httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 200 || counted != 3 || h.bodies.Load() != 0 {
		t.Errorf("chunked = %d %s, counted as %d bytes, as %d afterwards", w.Code, w.Body, counted, h.bodies.Load())
	}
}

func TestHeaderSize(t *testing.T) {
	cfg := config.Server{HeaderBytes: 4096}
	addr := listen(t, newHandler(t, &fake{}, Options{Server: cfg}), cfg)
	answer, _ := talk(t, addr, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: "+strings.Repeat("a", 16<<10)+"\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 431 ") {
		t.Errorf("answer = %q", answer)
	}
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		svc := &fake{process: func(context.Context, string) (Processed, error) {
			<-release
			return Processed{Data: json.RawMessage("1")}, nil
		}}
		h := newHandler(t, svc, Options{Server: config.Server{InFlight: 3}})
		var ok atomic.Int64
		for range 3 {
			go func() {
				if do(h, "GET", "/process", "").Code == 200 {
					ok.Add(1)
				}
			}()
		}
		synctest.Wait()
		w := do(h, "GET", "/process", "")
		if w.Code != 503 || problemIn(t, w).Code() != CodeOverloaded || w.Header().Get("Retry-After") != "1" {
			t.Errorf("one too many = %d %v", w.Code, w.Header())
		}
		for _, free := range []string{"/livez", "/readyz", "/docs"} {
			if w := do(h, "GET", free, ""); w.Code != 200 {
				t.Errorf("GET %s under load = %d", free, w.Code)
			}
		}
		close(release)
		synctest.Wait()
		if n := ok.Load(); n != 3 {
			t.Errorf("%d of 3 were answered", n)
		}
		if w := do(h, "GET", "/process", ""); w.Code != 200 {
			t.Errorf("afterwards = %d", w.Code)
		}
	})
}

func TestRequestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := &fake{process: func(ctx context.Context, _ string) (Processed, error) { <-ctx.Done(); return Processed{}, ctx.Err() }}
		h := newHandler(t, svc, Options{Server: config.Server{RequestTimeout: config.Duration(7 * time.Second)}})
		start := time.Now()
		w := do(h, "GET", "/process", "")
		if w.Code != 504 || problemIn(t, w).Code() != CodeTimeout || time.Since(start) != 7*time.Second {
			t.Errorf("answer = %d after %s: %s", w.Code, time.Since(start), w.Body)
		}
	})
}

func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := func(after time.Duration) func(context.Context, string) (Run, error) {
			return func(ctx context.Context, _ string) (Run, error) {
				select {
				case <-time.After(after):
					return exampleRun(), nil
				case <-ctx.Done():
					return exampleRunning(), nil
				}
			}
		}
		tests := []struct {
			name   string
			target string
			wait   func(context.Context, string) (Run, error)
			stop   time.Duration
			status int
			took   time.Duration
		}{
			{"ends in time", "/v1/pipelines/orders/runs?wait=5m", ends(4 * time.Minute), 0, 200, 4 * time.Minute},
			{"does not end in time", "/v1/pipelines/orders/runs?wait=30s", ends(time.Hour), 0, 202, 30 * time.Second},
			{"instance stops", "/v1/pipelines/orders/runs?wait=5m", ends(time.Hour), 10 * time.Second, 202, 10 * time.Second},
			{"service fails at the end of the wait", "/v1/pipelines/orders/runs?wait=2s", func(ctx context.Context, _ string) (Run, error) { <-ctx.Done(); return Run{}, ctx.Err() }, 0, 202, 2 * time.Second},
		}
		for _, tt := range tests {
			h := newHandler(t, &fake{waitRun: tt.wait}, Options{})
			if tt.stop > 0 {
				time.AfterFunc(tt.stop, h.Stop)
			}
			start := time.Now()
			w := do(h, "POST", tt.target, "")
			if w.Code != tt.status || time.Since(start) != tt.took || w.Header().Get("Location") != "/v1/runs/01JNB4X7Z8QK" {
				t.Errorf("%s: %d after %s, Location %q: %s", tt.name, w.Code, time.Since(start), w.Header().Get("Location"), w.Body)
			}
		}
	})
}

func TestReceiveWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc := &fake{receive: func(_ context.Context, wait time.Duration) ([]Delivery, error) { time.Sleep(wait); return nil, nil }}
		h := newHandler(t, svc, Options{})
		start := time.Now()
		w := do(h, "POST", "/v1/topics/orders/receive", `{"wait":"2500ms"}`)
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"deliveries":[]}` || time.Since(start) != 2500*time.Millisecond {
			t.Errorf("nothing came = %d %s after %s", w.Code, w.Body, time.Since(start))
		}
		start = time.Now()
		time.AfterFunc(1500*time.Millisecond, h.Stop)
		if w := do(h, "POST", "/v1/topics/orders/receive", `{"wait":"1m"}`); w.Code != 200 || time.Since(start) != 2*time.Second {
			t.Errorf("stopped = %d after %s", w.Code, time.Since(start))
		}
	})
}

// TestManyAtOnce: answers do not get mixed up, also with tracing around the handler.
func TestManyAtOnce(t *testing.T) {
	type mark struct{}
	svc := &fake{process: func(ctx context.Context, pipeline string) (Processed, error) {
		id, caller := RequestInfo(ctx)
		return Processed{Data: json.RawMessage(fmt.Sprintf(`"%s %s %s %v"`, pipeline, id, caller, ctx.Value(mark{})))}, nil
	}}
	h := newHandler(t, svc, Options{Auth: keys(), Tracing: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), mark{}, r.Header.Get("Traceparent"))))
		})
	}})
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			for j := range 50 {
				id := fmt.Sprintf("id-%d-%d", i, j)
				w := do(h, "POST", "/v1/pipelines/orders/process", "", "X-Request-Id: "+id, "X-API-Key: "+keyFor(roleRun), "Traceparent: t-"+id)
				if want := fmt.Sprintf(`{"message":"Data processed","data":"orders %s the run t-%s"}`+"\n", id, id); w.Body.String() != want {
					t.Errorf("answer = %s, want %s", w.Body, want)
				}
			}
		})
	}
	group.Wait()
}
