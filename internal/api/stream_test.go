package api

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// closedStream is a subscription that ends at once.
func closedStream(context.Context) <-chan Update {
	c := make(chan Update)
	close(c)
	return c
}

func TestStream(t *testing.T) {
	updates := make(chan Update, 4)
	var left context.Context
	svc := &fake{subscribe: func(ctx context.Context) <-chan Update { left = ctx; return updates }}
	h := newHandler(t, svc, Options{})
	server := httptest.NewServer(h)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	req, _ := http.NewRequest("GET", server.URL+"/v1/stream", nil)
	req.Header.Set("Last-Event-ID", "42")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		if !lines.Scan() {
			return "(end)"
		}
		return lines.Text()
	}
	run, pipeline := exampleRunning(), examplePaused()
	updates <- Update{Type: "run", Run: &run}
	updates <- Update{Type: "pipeline", Pipeline: &pipeline}
	for _, want := range []string{"retry: 2000", "", "event: run", `data: {"type":"run","run":{"run":"01JNB4X7Z8QK"`, "", "event: pipeline", `data: {"type":"pipeline","pipeline":{"name":"orders"`, ""} {
		if got := next(); !strings.HasPrefix(got, want) || (want == "" && got != "") {
			t.Fatalf("line = %q, want %q…", got, want)
		}
	}
	h.Stop() // what http.Server.Shutdown calls
	if got := next(); got != "(end)" {
		t.Errorf("after Stop: %q, want the end", got)
	}
	<-left.Done() // the subscription is given back
	if w := do(h, "GET", "/v1/stream", ""); w.Code != 503 || problemIn(t, w).Code() != CodeStopping {
		t.Errorf("a new stream while stopping = %d %s", w.Code, w.Body)
	}
}

func TestStreamBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, &fake{}, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/stream", nil).WithContext(ctx))
		}()
		time.Sleep(3*heartbeat + time.Second)
		cancel()
		<-done
		if got, want := w.Body.String(), "retry: 2000\n\n"+strings.Repeat(": still here\n\n", 3); got != want {
			t.Errorf("stream = %q, want %q", got, want)
		}
	})
}

func TestStreamsAreLimited(t *testing.T) {
	h := newHandler(t, &fake{}, Options{})
	h.streams.Store(mostStreams)
	w := do(h, "GET", "/v1/stream", "")
	if w.Code != 503 || problemIn(t, w).Code() != CodeOverloaded || w.Header().Get("Retry-After") != "15" {
		t.Errorf("one stream too many = %d %v %s", w.Code, w.Header(), w.Body)
	}
	if n := h.streams.Load(); n != mostStreams {
		t.Errorf("%d streams counted after the refusal, want %d", n, mostStreams)
	}
}
