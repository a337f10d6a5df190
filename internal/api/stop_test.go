package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/config"
)

// TestDrain: readyz turns red, everything else goes on (invariant 10).
func TestDrain(t *testing.T) {
	h := newHandler(t, &fake{}, Options{})
	if w := do(h, "GET", "/readyz", ""); w.Code != 200 {
		t.Fatalf("before = %d", w.Code)
	}
	h.Drain()
	if w := do(h, "GET", "/readyz", ""); w.Code != 503 || problemIn(t, w).Code() != CodeStopping {
		t.Errorf("draining = %d %s", w.Code, w.Body)
	}
	for _, target := range []string{"/livez", "/process", "/v1/pipelines"} {
		if w := do(h, "GET", target, ""); w.Code != 200 {
			t.Errorf("GET %s while draining = %d", target, w.Code)
		}
	}
	if w := do(h, "GET", "/process", ""); w.Header().Get("Connection") != "close" {
		t.Errorf("GET /process while draining keeps its connection: %v", w.Header())
	}
	h.Stop()
	h.Stop()
	if w := do(h, "GET", "/process", ""); w.Code != 200 {
		t.Errorf("GET /process after Stop = %d", w.Code)
	}
}

// TestDrainElsewhere: a balancer that can ask another instance is told to, before anything has been done.
func TestDrainElsewhere(t *testing.T) {
	calls := 0
	h := newHandler(t, &fake{process: func(context.Context, string) (Processed, error) { calls++; return Processed{Data: []byte("1")}, nil }}, Options{})
	ask := func(header string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/process", nil)
		r.Header.Set("Ferry-When-Stopping", header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := ask("429"); w.Code != 200 || calls != 1 || w.Header().Get("Connection") != "" {
		t.Errorf("before = %d, %d calls, %v", w.Code, calls, w.Header())
	}
	h.Drain()
	if w := ask("429"); w.Code != 429 || problemIn(t, w).Code() != CodeStopping || calls != 1 || w.Header().Get("Connection") != "close" {
		t.Errorf("while draining = %d, %d calls, %v %s", w.Code, calls, w.Header(), w.Body)
	}
	if w := ask("503"); w.Code != 200 || calls != 2 {
		t.Errorf("with a status that is not known = %d, %d calls", w.Code, calls)
	}
}

func TestNotReady(t *testing.T) {
	tests := []struct {
		err    error
		code   Code
		detail string
	}{
		{&Error{Code: CodeQueue, Detail: "The queue does not answer."}, CodeQueue, "The queue does not answer."},
		{&Error{Code: CodeInternal, Detail: "No lease."}, CodeNotReady, "No lease."},
		{fmt.Errorf("dial hunter2"), CodeNotReady, "The check failed. The log tells why."},
	}
	for _, tt := range tests {
		h := newHandler(t, &fake{ready: func(context.Context) error { return tt.err }}, Options{})
		w := do(h, "GET", "/readyz", "")
		if p := problemIn(t, w); w.Code != 503 || p.Code() != tt.code || p.Detail != tt.detail {
			t.Errorf("%v: %d %s", tt.err, w.Code, w.Body)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, &fake{ready: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}, Options{})
		start := time.Now()
		if w := do(h, "GET", "/readyz", ""); w.Code != 503 || time.Since(start) != readyPatience {
			t.Errorf("a check that hangs = %d after %s", w.Code, time.Since(start))
		}
	})
}

// TestShutdownWaitsForWorkOnly: a stream and a long wait end at once, a request that is being worked on is answered
// (invariant 10).
func TestShutdownWaitsForWorkOnly(t *testing.T) {
	working := make(chan struct{})
	svc := &fake{
		process: func(context.Context, string) (Processed, error) {
			close(working)
			time.Sleep(300 * time.Millisecond)
			return Processed{Data: json.RawMessage("1")}, nil
		},
		waitRun: func(ctx context.Context, _ string) (Run, error) { <-ctx.Done(); return exampleRunning(), nil },
	}
	h := newHandler(t, svc, Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer("", h, config.Server{})
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	answers := make(chan string, 3)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, path := range []string{"/v1/stream", "/v1/runs/01JNB4X7Z8QK?wait=5m", "/process"} {
		go func() {
			resp, err := client.Get("http://" + l.Addr().String() + path)
			if err != nil {
				answers <- err.Error()
				return
			}
			defer resp.Body.Close()
			_, err = io.Copy(io.Discard, resp.Body)
			answers <- fmt.Sprint(resp.StatusCode, " ", err)
		}()
	}
	<-working
	for h.streams.Load() == 0 || len(svc.took()) < 2 {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("Shutdown = %v after %s", err, time.Since(start))
	}
	<-served
	for range 3 {
		if got := <-answers; got != "200 <nil>" {
			t.Errorf("answer = %s", got)
		}
	}
}
