package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"ferry/internal/config"
)

const callers = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// receiver is a collector that keeps what it gets.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*otlp.Span
	path    string
	auth    string
	service string
	status  int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{status: http.StatusOK}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.path, r.auth = req.URL.Path, req.Header.Get("Authorization")
		var body io.Reader = req.Body
		if req.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(req.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		raw, err := io.ReadAll(body)
		if err != nil {
			t.Error(err)
		}
		var export collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(raw, &export); err != nil {
			t.Error(err)
		}
		for _, rs := range export.ResourceSpans {
			for _, kv := range rs.Resource.Attributes {
				if kv.Key == "service.name" {
					r.service = kv.Value.GetStringValue()
				}
			}
			for _, ss := range rs.ScopeSpans {
				r.spans = append(r.spans, ss.Spans...)
			}
		}
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) span(t *testing.T, name string) *otlp.Span {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.spans, func(s *otlp.Span) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no span %q among %v", name, r.spans)
	}
	return r.spans[i]
}

func newTracing(t *testing.T, cfg config.Trace, log io.Writer) *Tracing {
	t.Helper()
	t.Setenv(envEndpoint, "")
	t.Setenv(envTracesEndpoint, "")
	t.Setenv("OTEL_SERVICE_NAME", "")
	tr, err := NewTracing(t.Context(), cfg, "1.2.3", NewLogger(config.Log{Format: "text"}, log, false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Shutdown(context.Background()) })
	return tr
}

func attr(s *otlp.Span, key string) string {
	for _, kv := range s.Attributes {
		if kv.Key == key {
			if v := kv.Value.GetStringValue(); v != "" {
				return v
			}
			return kv.Value.String()
		}
	}
	return ""
}

func TestSpansReachTheCollector(t *testing.T) {
	r := newReceiver(t)
	endpoint := strings.Replace(r.URL, "http://", "http://ops:hunter2@", 1)
	tr := newTracing(t, config.Trace{Endpoint: config.URL(endpoint), Sample: 1}, io.Discard)

	var inside string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/pipelines/{name}", func(w http.ResponseWriter, req *http.Request) {
		ctx, end := tr.Run(req.Context(), "orders", "r1", "request")
		pageCtx, endPage := tr.Page(ctx, "orders")
		inside = tr.Traceparent(pageCtx)
		endPage(nil)
		_, endCommit := tr.Commit(ctx, "orders", 84)
		endCommit(errors.New("disk full"))
		end(nil)
		w.WriteHeader(http.StatusBadGateway)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	})
	req := httptest.NewRequest("GET", "/v1/pipelines/orders", nil)
	req.Header.Set("Traceparent", callers)
	tr.Middleware(mux).ServeHTTP(httptest.NewRecorder(), req)
	tr.Shutdown(context.Background())

	request, run := r.span(t, "GET /v1/pipelines/{name}"), r.span(t, "run orders")
	page, commit := r.span(t, "page"), r.span(t, "commit")
	const caller = "4bf92f3577b34da6a3ce929d0e0e4736"
	for _, s := range []*otlp.Span{request, run, page, commit} {
		if got := hex.EncodeToString(s.TraceId); got != caller {
			t.Errorf("%s is in trace %s, want the caller's %s", s.Name, got, caller)
		}
	}
	if got := hex.EncodeToString(request.ParentSpanId); got != "00f067aa0ba902b7" {
		t.Errorf("the request's parent is %s, want the caller's span", got)
	}
	if !bytes.Equal(run.ParentSpanId, request.SpanId) || !bytes.Equal(page.ParentSpanId, run.SpanId) || !bytes.Equal(commit.ParentSpanId, run.SpanId) {
		t.Error("spans do not hang together: want request > run > page, commit")
	}
	if want := "00-" + caller + "-" + hex.EncodeToString(page.SpanId) + "-01"; inside != want {
		t.Errorf("traceparent = %s, want %s", inside, want)
	}
	if commit.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR || commit.Status.Message != "disk full" {
		t.Errorf("commit's status = %v", commit.Status)
	}
	if request.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR || !strings.Contains(attr(request, "http.response.status_code"), "502") {
		t.Errorf("request's status = %v, %v", request.Status, request.Attributes)
	}
	if attr(run, "ferry.pipeline") != "orders" || attr(run, "ferry.run") != "r1" || attr(run, "ferry.trigger") != "request" {
		t.Errorf("run's attributes = %v", run.Attributes)
	}
	if r.path != "/v1/traces" || r.service != "ferry" || r.auth != "Basic b3BzOmh1bnRlcjI=" {
		t.Errorf("sent to %s as %s with %q", r.path, r.service, r.auth)
	}
}

func TestWhatTheCallerDecidesIsNotSampledAgain(t *testing.T) {
	r := newReceiver(t)
	tr := newTracing(t, config.Trace{Endpoint: config.URL(r.URL), Sample: 0}, io.Discard)
	var got []string
	h := tr.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { got = append(got, tr.Traceparent(req.Context())) }))
	for _, parent := range []string{callers, strings.TrimSuffix(callers, "1") + "0", ""} {
		req := httptest.NewRequest("GET", "/", nil)
		if parent != "" {
			req.Header.Set("Traceparent", parent)
		}
		h.ServeHTTP(httptest.NewRecorder(), req)
	}
	tr.Shutdown(context.Background())
	if len(r.spans) != 1 || !strings.HasSuffix(got[0], "-01") || !strings.HasSuffix(got[1], "-00") || !strings.HasSuffix(got[2], "-00") {
		t.Errorf("%d spans, %v: want only what the caller had sampled", len(r.spans), got)
	}
}

func TestWithoutCollectorTheCallersTracePasses(t *testing.T) {
	tests := []struct{ name, header, want string }{
		{"none", "", ""},
		{"sampled", callers, callers},
		{"not sampled", strings.TrimSuffix(callers, "1") + "0", strings.TrimSuffix(callers, "1") + "0"},
		{"a later version", "01" + callers[2:] + "-more", callers},
		{"nonsense", "hello", ""},
		{"zero trace", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", ""},
		{"upper case", strings.ToUpper(callers), ""},
	}
	for name, tr := range map[string]*Tracing{"configured off": newTracing(t, config.Trace{}, io.Discard), "zero": {}, "nil": nil} {
		for _, tt := range tests {
			t.Run(name+" "+tt.name, func(t *testing.T) {
				req := httptest.NewRequest("GET", "/", nil)
				if tt.header != "" {
					req.Header.Set("Traceparent", tt.header)
				}
				var got string
				tr.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
					ctx, end := tr.Run(req.Context(), "orders", "r1", "request")
					ctx, endPage := tr.Page(ctx, "orders")
					ctx, endCommit := tr.Commit(ctx, "orders", 1)
					got = tr.Traceparent(ctx)
					endCommit(nil)
					endPage(nil)
					end(errors.New("failed"))
				})).ServeHTTP(httptest.NewRecorder(), req)
				if got != tt.want {
					t.Errorf("traceparent = %q, want %q", got, tt.want)
				}
			})
		}
		tr.Shutdown(t.Context())
	}
}

func TestCollectorFromTheEnvironment(t *testing.T) {
	r := newReceiver(t)
	t.Setenv(envTracesEndpoint, "")
	t.Setenv(envEndpoint, r.URL)
	t.Setenv("OTEL_SERVICE_NAME", "carrier")
	tr, err := NewTracing(t.Context(), config.Trace{Sample: 1}, "1.2.3", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, end := tr.Run(t.Context(), "orders", "r1", "cli")
	end(nil)
	tr.Shutdown(t.Context())
	r.span(t, "run orders")
	if r.path != "/v1/traces" || r.service != "carrier" {
		t.Errorf("sent to %s as %s", r.path, r.service)
	}
}

func TestCollectorThatRefuses(t *testing.T) {
	r := newReceiver(t)
	r.status = http.StatusBadRequest
	var log bytes.Buffer
	tr := newTracing(t, config.Trace{Endpoint: config.URL(r.URL), Sample: 1}, &log)
	for range 3 {
		_, end := tr.Run(t.Context(), "orders", "r1", "cli")
		end(nil)
		if err := tr.provider.ForceFlush(t.Context()); err != nil {
			t.Errorf("a failed export became an error: %v", err)
		}
	}
	if n := strings.Count(log.String(), "cannot export traces"); n != 1 {
		t.Errorf("%d lines, want one a minute:\n%s", n, log.String())
	}
}

// TestCollectorThatDoesNotAnswer: the end waits for it a moment, says what is lost, and is no failure.
func TestCollectorThatDoesNotAnswer(t *testing.T) {
	gone := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done() // nothing is left behind that waits for it
		close(gone)
	}))
	defer silent.Close()
	var log bytes.Buffer
	tr := newTracing(t, config.Trace{Endpoint: config.URL(silent.URL), Sample: 1}, &log)
	_, end := tr.Run(t.Context(), "orders", "r1", "cli")
	end(nil)
	start := time.Now()
	tr.Shutdown(context.Background())
	if took := time.Since(start); took > lastExport+5*time.Second {
		t.Errorf("waited %s", took)
	}
	if n := strings.Count(log.String(), "cannot export the last traces"); n != 1 {
		t.Errorf("%d lines, want one:\n%s", n, log.String())
	}
	<-gone
}

func TestBadEndpoint(t *testing.T) {
	for _, endpoint := range []string{"collector:4318", "ftp://collector", "http://", "http://ops:hunter2@h:port", "://"} {
		_, err := NewTracing(t.Context(), config.Trace{Endpoint: config.URL(endpoint)}, "", nil)
		if err == nil || !strings.HasPrefix(err.Error(), "trace.endpoint: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: err = %v", endpoint, err)
		}
	}
}

func TestOffIsFree(t *testing.T) {
	tr := newTracing(t, config.Trace{}, io.Discard)
	h := tr.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		ctx, end := tr.Run(req.Context(), "orders", "r1", "request")
		ctx, endPage := tr.Page(ctx, "orders")
		ctx, endCommit := tr.Commit(ctx, "orders", 1)
		tr.Traceparent(ctx)
		endCommit(nil)
		endPage(nil)
		end(nil)
	}))
	req, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, req) }); n != 0 {
		t.Errorf("tracing that is off allocates %v times a request", n)
	}
}

func BenchmarkTracing(b *testing.B) {
	on := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer on.Close()
	for name, cfg := range map[string]config.Trace{"off": {}, "on": {Endpoint: config.URL(on.URL), Sample: 1}} {
		for _, parent := range []string{"", callers} {
			b.Run(name+" caller="+parent, func(b *testing.B) {
				tr, err := NewTracing(b.Context(), cfg, "", nil)
				if err != nil {
					b.Fatal(err)
				}
				h := tr.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
					ctx, end := tr.Commit(req.Context(), "orders", 1)
					tr.Traceparent(ctx)
					end(nil)
				}))
				req, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
				if parent != "" {
					req.Header.Set("Traceparent", parent)
				}
				b.ReportAllocs()
				for b.Loop() {
					h.ServeHTTP(w, req)
				}
				b.StopTimer()
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				tr.Shutdown(ctx)
			})
		}
	}
}
