package telemetry

import (
	"io"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// busy has something to say under every name.
func busy() *Metrics {
	m := NewMetrics("1.2.3", "api.example.com")
	m.Request("/v1/pipelines/{name}", "GET", 200, 3*time.Millisecond)
	m.InFlight(1)
	m.QueueUp(true)
	p := m.Pipeline("orders")
	p.RunStarted()
	p.Count(1, 100, 80, 10, 6, 4, 160)
	p.Commit(84, 70000, 2*time.Millisecond)
	p.CursorCurrent(time.Now())
	p.NextRun(time.Now().Add(time.Minute))
	p.Request("api.example.com", 200, 20*time.Millisecond, 87000)
	p.Retry("api.example.com", "503", time.Second)
	p.RunEnded("succeeded", time.Second)
	return m
}

func TestRegistryEqualsTheTable(t *testing.T) {
	families, err := busy().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]Doc{}
	for _, d := range MetricsTable() {
		if _, twice := table[d.Name]; twice || d.Help == "" || !strings.HasSuffix(d.Help, ".") {
			t.Errorf("%s: listed twice or without a sentence of help", d.Name)
		}
		table[d.Name] = d
	}
	var foreign int
	for _, f := range families {
		name := f.GetName()
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			foreign++
			continue
		}
		d, ok := table[name]
		if !ok {
			t.Errorf("%s is exported but not in the table", name)
			continue
		}
		delete(table, name)
		if got := strings.ToLower(f.GetType().String()); got != d.Type {
			t.Errorf("%s is a %s, the table says %s", name, got, d.Type)
		}
		if f.GetHelp() != d.Help {
			t.Errorf("%s: help differs from the table", name)
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		want := slices.Clone(d.Labels)
		slices.Sort(want)
		if !slices.Equal(labels, want) {
			t.Errorf("%s has labels %v, the table says %v", name, labels, want)
		}
	}
	for name := range maps.Keys(table) {
		t.Errorf("%s is in the table but not exported", name)
	}
	if foreign < 20 {
		t.Errorf("only %d metrics of Go and the process", foreign)
	}
}

func TestNamesFollowConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(busy().Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// want compares single samples, written as in the exposition format.
func want(t *testing.T, m *Metrics, samples ...string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for line := range strings.Lines(string(body)) {
		have[strings.TrimSpace(line)] = true
	}
	for _, s := range samples {
		if absent, ok := strings.CutPrefix(s, "!"); ok {
			if strings.Contains(string(body), absent) {
				t.Errorf("there is %s", absent)
			}
		} else if !have[s] {
			t.Errorf("no line %s in\n%s", s, body)
		}
	}
}

func TestCounting(t *testing.T) {
	m := NewMetrics("1.2.3", "api.example.com")
	p := m.Pipeline("orders")
	if m.Pipeline("orders") != p {
		t.Error("a second handle of the same pipeline counts apart")
	}
	want(t, m, // there from the start, so that the first failure is a step
		`ferry_runs_total{pipeline="orders",status="failed"} 0`,
		`ferry_records_total{outcome="dead",pipeline="orders"} 0`,
		`ferry_upstream_requests_total{host="api.example.com",status="error"} 0`,
		`ferry_pipeline_running{pipeline="orders"} 0`,
		`!ferry_cursor_age_seconds`, `!ferry_pipeline_next_run_timestamp_seconds`, `!ferry_pipeline_last_progress_timestamp_seconds`)

	p.RunStarted()
	p.Count(1, 100, 80, 10, 6, 4, 160)
	p.Count(1, 0, 0, 0, 0, 0, 0)
	p.Count(-1, -1, -1, -1, -1, -1, -1) // a defect elsewhere must not panic here
	p.Commit(84, 70000, 2*time.Millisecond)
	p.Request("api.example.com", 204, time.Second, 87)
	p.Request("api.example.com", 0, time.Second, 0)
	p.Request("api.example.com", 999, time.Second, 0)
	p.Request("evil-1.example.com", 301, time.Second, 3)
	p.Request("evil-2.example.com", 503, time.Second, 0)
	p.Retry("api.example.com", "503", time.Second)
	p.Retry("evil-1.example.com", "network", time.Second)
	want(t, m,
		`ferry_pipeline_running{pipeline="orders"} 1`,
		`ferry_pages_total{pipeline="orders"} 2`,
		`ferry_records_read_total{pipeline="orders"} 100`,
		`ferry_records_total{outcome="published",pipeline="orders"} 80`,
		`ferry_records_total{outcome="filtered",pipeline="orders"} 10`,
		`ferry_records_total{outcome="seen",pipeline="orders"} 6`,
		`ferry_records_total{outcome="dead",pipeline="orders"} 4`,
		`ferry_records_out_total{pipeline="orders"} 160`,
		`ferry_read_bytes_total{pipeline="orders"} 90`,
		`ferry_published_bytes_total{pipeline="orders"} 70000`,
		`ferry_publish_records_bucket{le="50"} 0`,
		`ferry_publish_records_bucket{le="100"} 1`,
		`ferry_publish_duration_seconds_bucket{le="0.001"} 0`,
		`ferry_publish_duration_seconds_bucket{le="0.0025"} 1`,
		`ferry_upstream_requests_total{host="api.example.com",status="2xx"} 1`,
		`ferry_upstream_requests_total{host="api.example.com",status="error"} 2`,
		`ferry_upstream_requests_total{host="other",status="3xx"} 1`,
		`ferry_upstream_requests_total{host="other",status="5xx"} 1`,
		`ferry_upstream_request_duration_seconds_count{host="other"} 2`,
		`ferry_retries_total{host="api.example.com",reason="503"} 1`,
		`ferry_retries_total{host="other",reason="network"} 1`,
		`!evil`)

	p.RunEnded("failed", 42*time.Second)
	m.Request("/process", "GET", 200, 3*time.Millisecond)
	m.Request("/process", "GET", 200, 3*time.Millisecond)
	m.Request("/process", "GET", 502, 3*time.Second)
	m.Request("", "OTHER", 404, time.Millisecond)
	m.Request("/process", "GET", 1000, time.Millisecond)
	m.InFlight(1)
	m.InFlight(1)
	m.InFlight(-1)
	m.QueueUp(true)
	want(t, m,
		`ferry_pipeline_running{pipeline="orders"} 0`,
		`ferry_runs_total{pipeline="orders",status="failed"} 1`,
		`ferry_run_duration_seconds_bucket{pipeline="orders",le="30"} 0`,
		`ferry_run_duration_seconds_bucket{pipeline="orders",le="60"} 1`,
		`ferry_requests_total{method="GET",route="/process",status="200"} 2`,
		`ferry_requests_total{method="GET",route="/process",status="502"} 1`,
		`ferry_requests_total{method="GET",route="/process",status="0"} 1`,
		`ferry_requests_total{method="OTHER",route="other",status="404"} 1`,
		`ferry_request_duration_seconds_bucket{method="GET",route="/process",le="0.005"} 3`,
		`ferry_requests_in_flight 1`,
		`ferry_queue_up 1`)
	m.QueueUp(false)
	want(t, m, `ferry_queue_up 0`)
}

func TestTimesAndAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // from 2000-01-01, Unix time 946684800
		m := NewMetrics("dev")
		p := m.Pipeline("orders")
		p.Progress()
		p.CursorCurrent(time.Now())
		p.NextRun(time.Now().Add(time.Minute))
		time.Sleep(90 * time.Second)
		want(t, m,
			`ferry_cursor_age_seconds{pipeline="orders"} 90`,
			`ferry_pipeline_last_progress_timestamp_seconds{pipeline="orders"} 9.466848e+08`,
			`ferry_pipeline_next_run_timestamp_seconds{pipeline="orders"} 9.4668486e+08`)
		p.NextRun(time.Time{})
		p.CursorCurrent(time.Now().Add(time.Hour)) // another machine's clock
		want(t, m, `!ferry_pipeline_next_run_timestamp_seconds{`, `ferry_cursor_age_seconds{pipeline="orders"} 0`)
	})
}

func TestReasonsForRetriesAreBounded(t *testing.T) {
	m := NewMetrics("dev", "h")
	p := m.Pipeline("orders")
	for i := range 10000 {
		p.Retry("h", strings.Repeat("x", i%500), 0)
	}
	n, err := testutil.GatherAndCount(m.Gatherer(), "ferry_retries_total")
	if err != nil || n > maxReasons+1 {
		t.Errorf("%d series, %v, want at most %d", n, err, maxReasons+1)
	}
	want(t, m, `ferry_retries_total{host="h",reason="x"} 20`)
}

func TestNilCountsNothing(t *testing.T) {
	var m *Metrics
	m.Request("/", "GET", 200, 0)
	m.InFlight(1)
	m.QueueUp(true)
	m.AddHosts("h")
	p := m.Pipeline("orders")
	p.RunStarted()
	p.Count(1, 1, 1, 1, 1, 1, 1)
	p.Commit(1, 1, 1)
	p.Progress()
	p.CursorCurrent(time.Now())
	p.NextRun(time.Now())
	p.Request("h", 200, 0, 0)
	p.Retry("h", "503", 0)
	p.RunEnded("succeeded", 0)
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	m := busy()
	p := m.Pipeline("orders")
	for name, f := range map[string]func(){
		"request":  func() { m.Request("/v1/pipelines/{name}", "GET", 200, time.Millisecond) },
		"count":    func() { p.Count(1, 100, 80, 10, 6, 4, 160) },
		"commit":   func() { p.Commit(84, 70000, time.Millisecond) },
		"upstream": func() { p.Request("api.example.com", 200, time.Millisecond, 1000) },
		"retry":    func() { p.Retry("api.example.com", "503", time.Second) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// What metrics and tracing add to one request of /process: the request, the fetch, one commit and the counters.
func BenchmarkRequest(b *testing.B) {
	m := busy()
	p := m.Pipeline("orders")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.InFlight(1)
			p.Request("api.example.com", 200, time.Millisecond, 1000)
			p.Count(1, 1, 1, 0, 0, 0, 1)
			p.Commit(1, 1000, time.Millisecond)
			m.Request("/process", "GET", 200, time.Millisecond)
			m.InFlight(-1)
		}
	})
}
