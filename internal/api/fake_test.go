package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ferry/internal/config"
)

func TestMain(m *testing.M) {
	// After a body that is too large the server's connection waits half a second by itself, longer than goleak does.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// fake is a Service with one pipeline, orders, whose every method answers with the examples of the documentation. A
// hook takes a method's place.
type fake struct {
	mu    sync.Mutex
	calls []string

	process   func(ctx context.Context, pipeline string) (Processed, error)
	push      func(contentType string, body []byte) (Pushed, error)
	waitRun   func(ctx context.Context, id string) (Run, error)
	startRun  func() (Run, bool, error)
	receive   func(ctx context.Context, wait time.Duration) ([]Delivery, error)
	subscribe func(ctx context.Context) <-chan Update
	ready     func(ctx context.Context) error
	fail      error // of every method
}

// call notes a call and fails it when the pipeline or topic is unknown.
func (f *fake) call(what, name string, args ...any) error {
	f.mu.Lock()
	f.calls = append(f.calls, strings.TrimSpace(fmt.Sprintln(append([]any{what, name}, args...)...)))
	f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	switch name {
	case "", "orders", "process", "orders.dead", exampleRun().ID:
		return nil
	}
	return &Error{Code: CodeNotFound, Detail: fmt.Sprintf("There is no %q.", name)}
}

func (f *fake) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *fake) Process(ctx context.Context, pipeline string) (Processed, error) {
	if err := f.call("Process", pipeline); err != nil || f.process == nil {
		return Processed{Data: json.RawMessage(`{"id":1}`), Published: 1}, err
	}
	return f.process(ctx, pipeline)
}

func (f *fake) Push(_ context.Context, pipeline, contentType string, body []byte) (Pushed, error) {
	if err := f.call("Push", pipeline, contentType, string(body)); err != nil || f.push == nil {
		return Pushed{Pipeline: pipeline, Read: 1, Published: 1, RecordsOut: 1}, err
	}
	return f.push(contentType, body)
}

func (f *fake) Preview(_ context.Context, pipeline string, req PreviewRequest) (Preview, error) {
	return examplePreview(), f.call("Preview", pipeline, string(req.Cursor), len(req.Transform), req.Limit)
}

func (f *fake) Pipelines(context.Context) ([]Pipeline, error) {
	return []Pipeline{examplePipeline()}, f.call("Pipelines", "")
}

func (f *fake) Pipeline(_ context.Context, name string) (Pipeline, error) {
	return examplePipeline(), f.call("Pipeline", name)
}

func (f *fake) StartRun(_ context.Context, pipeline string) (Run, bool, error) {
	if err := f.call("StartRun", pipeline); err != nil || f.startRun == nil {
		return exampleRunning(), true, err
	}
	return f.startRun()
}

func (f *fake) Run(_ context.Context, id string) (Run, error) {
	return exampleRunning(), f.call("Run", id)
}

func (f *fake) WaitRun(ctx context.Context, id string) (Run, error) {
	if err := f.call("WaitRun", id); err != nil || f.waitRun == nil {
		return exampleRun(), err
	}
	return f.waitRun(ctx, id)
}

func (f *fake) CancelRun(_ context.Context, id string) (Run, error) {
	return exampleRun(), f.call("CancelRun", id)
}

func (f *fake) Runs(_ context.Context, pipeline string, limit int) ([]Run, error) {
	return []Run{exampleRun()}, f.call("Runs", pipeline, limit)
}

func (f *fake) Instances(context.Context) ([]Instance, error) {
	return []Instance{exampleInstance()}, f.call("Instances", "")
}

func (f *fake) Pause(_ context.Context, pipeline string) (Pipeline, error) {
	return examplePaused(), f.call("Pause", pipeline)
}

func (f *fake) Resume(_ context.Context, pipeline string) (Pipeline, error) {
	return examplePipeline(), f.call("Resume", pipeline)
}

func (f *fake) Cursor(_ context.Context, pipeline string) (Cursor, error) {
	return Cursor{pipeline, json.RawMessage(`{"n":12345678901234567890}`)}, f.call("Cursor", pipeline)
}

func (f *fake) SetCursor(_ context.Context, pipeline string, value json.RawMessage) (Cursor, error) {
	return Cursor{pipeline, value}, f.call("SetCursor", pipeline, string(value))
}

func (f *fake) Topics(context.Context) ([]Topic, error) {
	return []Topic{exampleTopic()}, f.call("Topics", "")
}

func (f *fake) Topic(_ context.Context, topic string) (Topic, error) {
	return exampleTopic(), f.call("Topic", topic)
}

func (f *fake) Browse(_ context.Context, topic string, from int64, limit int) ([]Record, error) {
	return []Record{exampleRecord()}, f.call("Browse", topic, from, limit)
}

func (f *fake) Receive(ctx context.Context, topic string, limit int, wait time.Duration) ([]Delivery, error) {
	if err := f.call("Receive", topic, limit, wait); err != nil || f.receive == nil {
		return []Delivery{{Record: exampleRecord(), Receipt: "r1", Attempt: 1}}, err
	}
	return f.receive(ctx, wait)
}

func (f *fake) Ack(_ context.Context, topic string, receipts []string) error {
	return f.call("Ack", topic, receipts)
}

func (f *fake) Nack(_ context.Context, topic string, receipts []string) error {
	return f.call("Nack", topic, receipts)
}

func (f *fake) Dead(_ context.Context, pipeline string, from int64, limit int) ([]DeadLetter, error) {
	return []DeadLetter{exampleDead()}, f.call("Dead", pipeline, from, limit)
}

func (f *fake) Replay(_ context.Context, pipeline string, positions []int64) (Replayed, error) {
	return Replayed{Pipeline: pipeline, Read: len(positions)}, f.call("Replay", pipeline, positions)
}

func (f *fake) Discard(_ context.Context, pipeline string, positions []int64) (Discarded, error) {
	return Discarded{Pipeline: pipeline, Discarded: len(positions)}, f.call("Discard", pipeline, positions)
}

func (f *fake) Subscribe(ctx context.Context) <-chan Update {
	if f.subscribe != nil {
		return f.subscribe(ctx)
	}
	return make(chan Update)
}

func (f *fake) Ready(ctx context.Context) error {
	if f.ready != nil {
		return f.ready(ctx)
	}
	return nil
}

// newHandler makes a handler over the fake.
func newHandler(t testing.TB, svc Service, opt Options) *Handler {
	t.Helper()
	if opt.Listen == "" {
		opt.Listen = "0.0.0.0:8080"
	}
	h, err := New(svc, opt)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// keys has one key for each role; each key is its role's name and enough more.
func keys() config.Auth {
	var a config.Auth
	for r := roleRead; r <= roleAdmin; r++ {
		a.Keys = append(a.Keys, config.APIKey{Name: "the " + r.String(), Key: config.Secret(keyFor(r)), Role: r.String()})
	}
	return a
}

func keyFor(r role) string { return r.String() + "-0123456789abcdef" }

// do sends a request through the handler. headers are "Name: value".
func do(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, target, nil)
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// problemIn reads a problem answer and checks what holds for all of them.
func problemIn(t testing.TB, w *httptest.ResponseRecorder) *Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("not a problem: %v\n%d %s", err, w.Code, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != contentTypeProblem {
		t.Errorf("Content-Type = %q", got)
	}
	if p.Status != w.Code || p.Title == "" || !strings.HasPrefix(p.Type, problemPath) {
		t.Errorf("status %d with problem %+v", w.Code, p)
	}
	if want := "urn:ferry:request:" + w.Header().Get("X-Request-Id"); p.Instance != want {
		t.Errorf("instance = %q, want %q", p.Instance, want)
	}
	return &p
}
