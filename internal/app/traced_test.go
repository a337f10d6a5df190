package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"ferry/internal/config"
)

const tracedConfig = `
data: %s
trace: {endpoint: %s}
pipelines:
  p:
    source: {base: "mock:", get: /v1/orders, query: {count: "30", limit: "10"}, key: .id, records: ".data[]", paginate: {cursor: {from: .meta.next, into: query.after}}}
`

// TestRunIsTraced: the spans of pages and commits hang on the run's.
func TestRunIsTraced(t *testing.T) {
	var mu sync.Mutex
	spans := map[string][]*otlp.Span{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var export collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &export) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range export.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					spans[s.Name] = append(spans[s.Name], s)
				}
			}
		}
	}))
	defer server.Close()

	cfg, err := config.Parse(fmt.Appendf(nil, tracedConfig, t.TempDir(), server.URL), "test", config.Options{Checks: checks()})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{Config: cfg, Command: "run", Version: "test", Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	run, _, err := a.StartRun(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if run, err = a.WaitRun(t.Context(), run.ID); err != nil || run.Published != 30 {
		t.Fatalf("run: %+v, %v", run, err)
	}
	if err := a.Close(context.Background()); err != nil { // exports what is left
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(spans["run p"]) != 1 || len(spans["page"]) != 3 || len(spans["commit"]) == 0 {
		t.Fatalf("%d runs, %d pages, %d commits, want 1, 3 and at least one", len(spans["run p"]), len(spans["page"]), len(spans["commit"]))
	}
	for _, s := range append(spans["page"], spans["commit"]...) {
		if !slices.Equal(s.ParentSpanId, spans["run p"][0].SpanId) {
			t.Errorf("a span %s does not hang on the run's", s.Name)
		}
	}
}
