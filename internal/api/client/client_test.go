package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ferry/internal/api"
	"ferry/internal/api/client"
	"ferry/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// said is a Service that notes what it is asked and answers with recognisable values.
type said struct {
	asked string
	err   error
}

func (s *said) note(method string, args ...any) error {
	s.asked = strings.TrimSpace(method + " " + fmt.Sprintln(args...))
	return s.err
}

var ended = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

func run(id string) api.Run { return api.Run{ID: id, Status: "succeeded", Ended: &ended} }

func (s *said) Process(_ context.Context, p string) (api.Processed, error) {
	return api.Processed{Data: json.RawMessage(`{"id":1}`)}, s.note("Process", p)
}

func (s *said) Push(_ context.Context, p, contentType string, body []byte) (api.Pushed, error) {
	return api.Pushed{Pipeline: p, Read: 2, IDs: []string{"a"}}, s.note("Push", p, contentType, string(body))
}

func (s *said) Preview(_ context.Context, p string, r api.PreviewRequest) (api.Preview, error) {
	return api.Preview{Pipeline: p, Read: 9, Next: json.RawMessage(`1`)}, s.note("Preview", p, string(r.Cursor), r.Limit)
}

func (s *said) Pipelines(context.Context) ([]api.Pipeline, error) {
	return []api.Pipeline{{Name: "a"}}, s.note("Pipelines")
}

func (s *said) Pipeline(_ context.Context, p string) (api.Pipeline, error) {
	return api.Pipeline{Name: p}, s.note("Pipeline", p)
}

func (s *said) StartRun(_ context.Context, p string) (api.Run, bool, error) {
	return run("r1"), true, s.note("StartRun", p)
}

func (s *said) Run(_ context.Context, id string) (api.Run, error) { return run(id), s.note("Run", id) }

func (s *said) WaitRun(_ context.Context, id string) (api.Run, error) {
	return run(id), s.note("WaitRun", id)
}

func (s *said) CancelRun(_ context.Context, id string) (api.Run, error) {
	return run(id), s.note("CancelRun", id)
}

func (s *said) Instances(context.Context) ([]api.Instance, error) {
	return []api.Instance{{ID: "i1"}}, s.note("Instances")
}

func (s *said) Runs(_ context.Context, p string, limit int) ([]api.Run, error) {
	return []api.Run{run("r1")}, s.note("Runs", p, limit)
}

func (s *said) Pause(_ context.Context, p string) (api.Pipeline, error) {
	return api.Pipeline{Name: p, State: "paused"}, s.note("Pause", p)
}

func (s *said) Resume(_ context.Context, p string) (api.Pipeline, error) {
	return api.Pipeline{Name: p, State: "idle"}, s.note("Resume", p)
}

func (s *said) Cursor(_ context.Context, p string) (api.Cursor, error) {
	return api.Cursor{Pipeline: p, Cursor: json.RawMessage(`{"n":12345678901234567890}`)}, s.note("Cursor", p)
}

func (s *said) SetCursor(_ context.Context, p string, v json.RawMessage) (api.Cursor, error) {
	return api.Cursor{Pipeline: p, Cursor: json.RawMessage(`null`)}, s.note("SetCursor", p, v == nil, string(v))
}

func (s *said) Topics(context.Context) ([]api.Topic, error) {
	return []api.Topic{{Topic: "a"}}, s.note("Topics")
}

func (s *said) Topic(_ context.Context, t string) (api.Topic, error) {
	return api.Topic{Topic: t, Records: 3}, s.note("Topic", t)
}

func (s *said) Browse(_ context.Context, t string, from int64, limit int) ([]api.Record, error) {
	return []api.Record{{ID: "x", Position: 4, Data: json.RawMessage(`1`)}}, s.note("Browse", t, from, limit)
}

func (s *said) Receive(_ context.Context, t string, limit int, wait time.Duration) ([]api.Delivery, error) {
	return []api.Delivery{{Record: api.Record{ID: "x", Data: json.RawMessage(`1`)}, Receipt: "r", Attempt: 2}}, s.note("Receive", t, limit, wait)
}
func (s *said) Ack(_ context.Context, t string, r []string) error  { return s.note("Ack", t, r) }
func (s *said) Nack(_ context.Context, t string, r []string) error { return s.note("Nack", t, r) }
func (s *said) Dead(_ context.Context, p string, from int64, limit int) ([]api.DeadLetter, error) {
	return []api.DeadLetter{{Record: api.Record{ID: "x", Data: json.RawMessage(`1`)}, Stage: "map"}}, s.note("Dead", p, from, limit)
}

func (s *said) Replay(_ context.Context, p string, at []int64) (api.Replayed, error) {
	return api.Replayed{Pipeline: p, Read: 1}, s.note("Replay", p, at == nil, at)
}

func (s *said) Discard(_ context.Context, p string, at []int64) (api.Discarded, error) {
	return api.Discarded{Pipeline: p, Discarded: 1}, s.note("Discard", p, at == nil, at)
}
func (s *said) Subscribe(context.Context) <-chan api.Update { return nil }
func (s *said) Ready(context.Context) error                 { return s.note("Ready") }

const key = "0123456789abcdef"

func start(t *testing.T, svc api.Service) *client.Client {
	t.Helper()
	h, err := api.New(svc, api.Options{Version: "1.2.3", Auth: config.Auth{Keys: []config.APIKey{{Name: "ops", Key: key, Role: "admin"}}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL+"/", key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestMirrors: every method reaches the Service's method of the same name with the same values, and brings back the
// same answer.
func TestMirrors(t *testing.T) {
	svc := &said{}
	c := start(t, svc)
	ctx := t.Context()
	tests := []struct {
		asked string
		call  func() (any, error)
		want  any
	}{
		{"Process a/b", func() (any, error) { return c.Process(ctx, "a/b") }, json.RawMessage(`{"id":1}`)},
		{"Push orders application/x-ndjson 1\n2", func() (any, error) { return c.Push(ctx, "orders", "application/x-ndjson", []byte("1\n2")) }, api.Pushed{Pipeline: "orders", Read: 2, IDs: []string{"a"}}},
		{"Preview orders null 3", func() (any, error) {
			return c.Preview(ctx, "orders", api.PreviewRequest{Cursor: json.RawMessage("null"), Limit: 3})
		}, api.Preview{Pipeline: "orders", Read: 9, Next: json.RawMessage(`1`), Records: []api.PreviewRecord{}}},
		{"Pipelines", func() (any, error) { return c.Pipelines(ctx) }, []api.Pipeline{{Name: "a"}}},
		{"Pipeline orders", func() (any, error) { return c.Pipeline(ctx, "orders") }, api.Pipeline{Name: "orders"}},
		{"Run r1", func() (any, error) { return c.Run(ctx, "r1") }, run("r1")},
		{"WaitRun r1", func() (any, error) { return c.WaitRun(ctx, "r1") }, run("r1")},
		{"CancelRun r1", func() (any, error) { return c.CancelRun(ctx, "r1") }, run("r1")},
		{"Instances", func() (any, error) { return c.Instances(ctx) }, []api.Instance{{ID: "i1"}}},
		{"Runs orders 7", func() (any, error) { return c.Runs(ctx, "orders", 7) }, []api.Run{run("r1")}},
		{"Runs  50", func() (any, error) { return c.Runs(ctx, "", 0) }, []api.Run{run("r1")}},
		{"Pause orders", func() (any, error) { return c.Pause(ctx, "orders") }, api.Pipeline{Name: "orders", State: "paused"}},
		{"Resume orders", func() (any, error) { return c.Resume(ctx, "orders") }, api.Pipeline{Name: "orders", State: "idle"}},
		{"Cursor orders", func() (any, error) { return c.Cursor(ctx, "orders") }, api.Cursor{Pipeline: "orders", Cursor: json.RawMessage(`{"n":12345678901234567890}`)}},
		{`SetCursor orders false {"n":12345678901234567890}`, func() (any, error) { return c.SetCursor(ctx, "orders", json.RawMessage(`{"n":12345678901234567890}`)) }, api.Cursor{Pipeline: "orders", Cursor: json.RawMessage(`null`)}},
		{"SetCursor orders true", func() (any, error) { return c.SetCursor(ctx, "orders", nil) }, api.Cursor{Pipeline: "orders", Cursor: json.RawMessage(`null`)}},
		{"Topics", func() (any, error) { return c.Topics(ctx) }, []api.Topic{{Topic: "a"}}},
		{"Topic orders.dead", func() (any, error) { return c.Topic(ctx, "orders.dead") }, api.Topic{Topic: "orders.dead", Records: 3}},
		{"Browse orders -20 5", func() (any, error) { return c.Browse(ctx, "orders", -20, 5) }, []api.Record{{ID: "x", Position: 4, Data: json.RawMessage(`1`)}}},
		{"Receive orders 5 0s", func() (any, error) { return c.Receive(ctx, "orders", 5, 0) }, []api.Delivery{{Record: api.Record{ID: "x", Data: json.RawMessage(`1`)}, Receipt: "r", Attempt: 2}}},
		{"Ack orders [a b]", func() (any, error) { return nil, c.Ack(ctx, "orders", []string{"a", "b"}) }, nil},
		{"Nack orders [a]", func() (any, error) { return nil, c.Nack(ctx, "orders", []string{"a"}) }, nil},
		{"Dead orders 0 100", func() (any, error) { return c.Dead(ctx, "orders", 0, 0) }, []api.DeadLetter{{Record: api.Record{ID: "x", Data: json.RawMessage(`1`)}, Stage: "map"}}},
		{"Replay orders false [7]", func() (any, error) { return c.Replay(ctx, "orders", []int64{7}) }, api.Replayed{Pipeline: "orders", Read: 1}},
		{"Replay orders true []", func() (any, error) { return c.Replay(ctx, "orders", nil) }, api.Replayed{Pipeline: "orders", Read: 1}},
		{"Discard orders false [7]", func() (any, error) { return c.Discard(ctx, "orders", []int64{7}) }, api.Discarded{Pipeline: "orders", Discarded: 1}},
		{"Discard orders true []", func() (any, error) { return c.Discard(ctx, "orders", nil) }, api.Discarded{Pipeline: "orders", Discarded: 1}},
		{"Ready", func() (any, error) { return nil, c.Ready(ctx) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.asked, func(t *testing.T) {
			got, err := tt.call()
			if err != nil {
				t.Fatal(err)
			}
			if svc.asked != tt.asked {
				t.Errorf("asked %q, want %q", svc.asked, tt.asked)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("answer (-want +got):\n%s", d)
			}
		})
	}
	if r, isNew, err := c.StartRun(ctx, "orders"); svc.asked != "StartRun orders" || r.ID != "r1" || !isNew || err != nil {
		t.Errorf("StartRun = %+v, %v, %v after asking %q", r, isNew, err, svc.asked)
	}
	if v, err := c.Version(ctx); v != "1.2.3" || err != nil {
		t.Errorf("Version = %q, %v", v, err)
	}
}

// TestProblemsComeBack: what the Service returned is what the client returns.
func TestProblemsComeBack(t *testing.T) {
	tests := []struct {
		err  error
		want api.Error
	}{
		{&api.Error{Code: api.CodeNotFound, Detail: `There is no pipeline "x".`}, api.Error{Code: api.CodeNotFound, Detail: `There is no pipeline "x".`}},
		{&api.Error{Code: api.CodeRateLimited, Detail: "Wait.", RetryAfter: time.Minute}, api.Error{Code: api.CodeRateLimited, Detail: "Wait.", RetryAfter: time.Minute}},
		{errors.New("secret"), api.Error{Code: api.CodeInternal, Detail: "Something went wrong here. The log tells more under this request id."}},
	}
	for _, tt := range tests {
		_, err := start(t, &said{err: tt.err}).Pipeline(t.Context(), "x")
		got, ok := errors.AsType[*api.Error](err)
		if !ok {
			t.Errorf("%v came back as %v", tt.err, err)
			continue
		}
		if d := cmp.Diff(tt.want, *got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	_, err := start(t, &said{}).Browse(t.Context(), "orders", 0, 5000)
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeInvalid || !strings.Contains(e.Detail, "query.limit: expected number <= 1000") {
		t.Errorf("violation came back as %v", err)
	}
}

func TestNotFerry(t *testing.T) {
	tests := map[string]http.HandlerFunc{
		"not what ferry answers": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"is it ferry?":           func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) },
		"answered 302 Found":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://127.0.0.1:1/", 302) },
		"read answer of http://127.0.0.1:": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "{")
		},
	}
	for want, handle := range tests {
		server := httptest.NewServer(handle)
		c, err := client.New(server.URL, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Pipelines(t.Context()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), key) {
			t.Errorf("err = %v, want %q", err, want)
		}
		c.Close()
		server.Close()
	}
	for base, want := range map[string]string{
		"127.0.0.1:1":                    "reach ferry at http://127.0.0.1:1: dial tcp",
		"http://ops:hunter2@127.0.0.1:1": "reach ferry at http://ops:[secret]@127.0.0.1:1: dial tcp",
	} {
		c, err := client.New(base, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Pipelines(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("err = %v", err)
		}
	}
	for _, bad := range []string{"", "ftp://x", "http://", "http://[::1", "http://ops:hunter2@[::1"} {
		if _, err := client.New(bad, ""); err == nil || !strings.Contains(err.Error(), "it has to look like") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New(%q) = %v", bad, err)
		}
	}
}

// TestWaitRunAsksAgain until the run has ended, and gives what it knows when its own context ends first.
func TestWaitRunAsksAgain(t *testing.T) {
	asked := 0
	svc := &waits{wait: func(ctx context.Context) api.Run {
		if asked++; asked < 3 {
			return api.Run{ID: "r1", Status: "running"}
		}
		return run("r1")
	}}
	if r, err := start(t, svc).WaitRun(t.Context(), "r1"); err != nil || r.Ended == nil || asked != 3 {
		t.Errorf("WaitRun = %+v, %v after %d questions", r, err, asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := true
	svc.wait = func(server context.Context) api.Run {
		if !first {
			cancel()
			<-server.Done()
		}
		first = false
		return api.Run{ID: "r1", Status: "running"}
	}
	if r, err := start(t, svc).WaitRun(ctx, "r1"); err != nil || r.Status != "running" {
		t.Errorf("WaitRun cut short = %+v, %v", r, err)
	}
	// A look with a deadline, as ferry run takes it for its progress, tells how far the run is.
	svc.now = api.Run{ID: "r1", Status: "running", TotalHint: 7}
	svc.wait = func(server context.Context) api.Run {
		<-server.Done()
		return svc.now
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r, err := start(t, svc).WaitRun(ctx, "r1"); err != nil || r.TotalHint != 7 {
		t.Errorf("WaitRun with a deadline = %+v, %v", r, err)
	}
}

type waits struct {
	said
	wait func(ctx context.Context) api.Run
	now  api.Run // when there is no time to wait
}

func (w *waits) Run(context.Context, string) (api.Run, error) { return w.now, nil }

func (w *waits) WaitRun(ctx context.Context, _ string) (api.Run, error) { return w.wait(ctx), nil }
