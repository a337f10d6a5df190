package app

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/config"
)

// metric is what /metrics would show of a series, NaN when it is absent.
func metric(t *testing.T, a *App, name string, labels ...string) float64 {
	t.Helper()
	families, err := a.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if slices.Equal(values, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return math.NaN()
}

func TestNextRunGoesWithAPause(t *testing.T) {
	a := openApp(t, deadConfig+"    every: 1h\n")
	next := func() float64 { return metric(t, a, "ferry_pipeline_next_run_timestamp_seconds", "other") }
	if _, err := a.Pipelines(t.Context()); err != nil || math.IsNaN(next()) {
		t.Errorf("next run %v, %v, want one", next(), err)
	}
	if _, err := a.Pause(t.Context(), "other"); err != nil || !math.IsNaN(next()) {
		t.Errorf("next run of a paused pipeline: %v, %v", next(), err)
	}
	if _, err := a.Resume(t.Context(), "other"); err != nil || math.IsNaN(next()) {
		t.Errorf("next run %v, %v, want one again", next(), err)
	}
}

// TestCursorAge counts from the last commit; from a run's start where the run found nothing new; and not from a run that
// found nothing new and failed.
func TestCursorAge(t *testing.T) {
	var answered time.Time
	var answers []string // the last one again and again
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond) // tells a run's start from its commit
		answered = time.Now()
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answers[0])
		if len(answers) > 1 {
			answers = answers[1:]
		}
	}))
	defer server.Close()
	a := openApp(t, `
data: %s
pipelines:
  p:
    source:
      get: `+server.URL+`/orders
      records: .data[]
      key: .id
      retries: 0
      paginate: {cursor: {from: .next, into: query.after}}
      incremental: {field: .n, into: query.since, type: number}
`)
	run := func(want string) time.Time {
		t.Helper()
		r, _, err := a.StartRun(t.Context(), "p")
		if err == nil {
			r, err = a.WaitRun(t.Context(), r.ID)
		}
		if err != nil || r.Status != want {
			t.Fatalf("run ended as %s (%s), %v, want %s", r.Status, r.Reason, err, want)
		}
		return r.Started
	}
	// since is when the cursor was current, as far as the gauge tells: between these two.
	since := func() (earliest, latest time.Time) {
		before := time.Now()
		age := time.Duration(metric(t, a, "ferry_cursor_age_seconds", "p") * float64(time.Second))
		return before.Add(-age - time.Millisecond), time.Now().Add(-age + time.Millisecond)
	}

	const page = `{"data": [{"id": 1, "n": 1}]}`
	answers = []string{page}
	run("succeeded")
	if _, latest := since(); latest.Before(answered) {
		t.Errorf("%s before the commit", answered.Sub(latest))
	}
	started := run("succeeded")
	earliest, latest := since()
	if started.Before(earliest) || started.After(latest) {
		t.Errorf("between %s and %s after the start of a run that found nothing new", earliest.Sub(started), latest.Sub(started))
	}
	answers = []string{`{"data": [{"id": 1, "n": 1}], "next": "x"}`, `{"data": [{`}
	run("failed")
	if now, _ := since(); now.After(latest) {
		t.Errorf("a failed run that found nothing new made the cursor %s younger", now.Sub(latest))
	}
}

// TestCursorAgeAfterARestart: it is there before the first run, from the last one that committed or found nothing new.
func TestCursorAgeAfterARestart(t *testing.T) {
	a := openApp(t, "\nlisten: 127.0.0.1:0"+deadConfig)
	now := time.Now().UTC()
	put := func(status string, ago time.Duration, published int) {
		t.Helper()
		id := now.Add(-ago).Format("20060102T150405.000Z") + "-x" // ids sort by time
		text := fmt.Sprintf(`{"run":%q,"pipeline":"p","status":%q,"started":%q,"ended":%q,"last_progress":%q,"published":%d}`, id, status,
			now.Add(-ago).Format(time.RFC3339Nano), now.Format(time.RFC3339Nano), now.Add(time.Minute-ago).Format(time.RFC3339Nano), published)
		if _, err := a.store.Put(t.Context(), "scheduler/runs/p/"+id, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	age := func() time.Duration {
		a.recallCursors(t.Context())
		return time.Duration(metric(t, a, "ferry_cursor_age_seconds", "p") * float64(time.Second)).Round(time.Minute)
	}
	put("succeeded", 3*time.Hour, 0)
	put("failed", time.Hour, 0)
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := metric(t, a, "ferry_cursor_age_seconds", "p"); math.IsNaN(v) || v < 3*3600 || v > 3*3600+60 {
		t.Errorf("age %v, want three hours: since the start of the last good run", v)
	}
	if v := metric(t, a, "ferry_cursor_age_seconds", "other"); !math.IsNaN(v) {
		t.Errorf("age %v of a pipeline without runs", v)
	}
	put("failed", 31*time.Minute, 5)
	put("failed", 20*time.Minute, 0)
	if got := age(); got != 30*time.Minute {
		t.Errorf("age %s, want half an hour: since the last commit", got)
	}
}

func TestInFlightIsShown(t *testing.T) {
	got, answer := make(chan bool), make(chan bool)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		got <- true
		<-answer
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id": 1}`)
	}))
	defer upstream.Close()
	a := openApp(t, fmt.Sprintf("\nlisten: 127.0.0.1:0\ndata: %%s\npipelines: {p: {source: {get: %s/v1, key: .id}}}\n", upstream.URL))
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		resp, err := http.Post(a.URL()+"/v1/pipelines/p/process", "", nil)
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	<-got
	if n := metric(t, a, "ferry_requests_in_flight"); n != 1 {
		t.Errorf("%v requests in flight, want 1", n)
	}
	close(answer)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := a.server.Shutdown(context.Background()); err != nil { // its handler has returned
		t.Fatal(err)
	}
	if n := metric(t, a, "ferry_requests_in_flight"); n != 0 {
		t.Errorf("%v requests in flight, want none", n)
	}
	// The address stands in get alone, and its host is told by name all the same.
	if u, _ := url.Parse(upstream.URL); metric(t, a, "ferry_upstream_requests_total", u.Host, "2xx") != 1 {
		t.Errorf("the request to %s is not counted under its host", u.Host)
	}
}

func TestHosts(t *testing.T) {
	for want, cfg := range map[string]config.Source{
		"":                      {Base: "mock:", Get: "/v1/orders?at=https://x.example"},
		"a.example":             {Base: "https://a.example/v1", Get: "//b.example/orders"},
		"a.example:8443":        {Get: "https://a.example:8443/v1"},
		"a.example b.example":   {Base: "https://a.example", Post: "https://b.example/search"},
		"cdn.example a.example": {Get: "https://a.example", Allow: config.Allow{Hosts: []string{"cdn.example"}}},
	} {
		if got := strings.Join(hosts(cfg), " "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
