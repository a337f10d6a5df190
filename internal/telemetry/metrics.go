package telemetry

import (
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// other stands for label values that are not known beforehand, so that nobody outside can make metrics grow.
const other = "other"

// Metrics counts what ferry does, in a registry of its own. Its methods are safe for concurrent use, quick, and
// allocate nothing after the first call with the same labels. All of them do nothing on a nil *Metrics.
type Metrics struct {
	registry *prometheus.Registry
	inFlight prometheus.Gauge
	queueUp  prometheus.Gauge
	commit   prometheus.Observer
	batch    prometheus.Observer

	requests     *prometheus.CounterVec
	requestTime  *prometheus.HistogramVec
	upstream     *prometheus.CounterVec
	upstreamTime *prometheus.HistogramVec
	retries      *prometheus.CounterVec
	runs         *prometheus.CounterVec
	runTime      *prometheus.HistogramVec
	running      *prometheus.GaugeVec
	pages        *prometheus.CounterVec
	read         *prometheus.CounterVec
	records      *prometheus.CounterVec
	recordsOut   *prometheus.CounterVec
	bytesIn      *prometheus.CounterVec
	bytesOut     *prometheus.CounterVec

	routes    lookup[routeKey, *routeMetrics]
	hosts     lookup[string, *hostMetrics]
	pipelines lookup[string, *PipelineMetrics]
}

// NewMetrics returns metrics of a ferry of that version. They keep the given upstream hosts apart, and those of AddHosts;
// what any other host does is counted under the host "other".
func NewMetrics(version string, hosts ...string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	b := builder{registry: m.registry, docs: map[string]Doc{}}
	for _, d := range MetricsTable() {
		b.docs[d.Name] = d
	}
	b.gauge("ferry_build_info").WithLabelValues(version, commit(), runtime.Version()).Set(1)
	m.inFlight = b.gauge("ferry_requests_in_flight").WithLabelValues()
	m.queueUp = b.gauge("ferry_queue_up").WithLabelValues()
	m.commit = b.histogram("ferry_publish_duration_seconds", latencies()).WithLabelValues()
	m.batch = b.histogram("ferry_publish_records", []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000}).WithLabelValues()
	m.requests = b.counter("ferry_requests_total")
	m.requestTime = b.histogram("ferry_request_duration_seconds", latencies())
	m.upstream = b.counter("ferry_upstream_requests_total")
	m.upstreamTime = b.histogram("ferry_upstream_request_duration_seconds", latencies())
	m.retries = b.counter("ferry_retries_total")
	m.runs = b.counter("ferry_runs_total")
	m.runTime = b.histogram("ferry_run_duration_seconds", []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 21600})
	m.running = b.gauge("ferry_pipeline_running")
	m.pages = b.counter("ferry_pages_total")
	m.read = b.counter("ferry_records_read_total")
	m.records = b.counter("ferry_records_total")
	m.recordsOut = b.counter("ferry_records_out_total")
	m.bytesIn = b.counter("ferry_read_bytes_total")
	m.bytesOut = b.counter("ferry_published_bytes_total")
	m.registry.MustRegister(
		&timesCollector{
			m:        m,
			progress: b.desc("ferry_pipeline_last_progress_timestamp_seconds"),
			next:     b.desc("ferry_pipeline_next_run_timestamp_seconds"),
			age:      b.desc("ferry_cursor_age_seconds"),
		},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.host(other)
	m.AddHosts(hosts...)
	return m
}

// AddHosts keeps further upstream hosts apart. They must come from the configuration: each costs a set of series.
func (m *Metrics) AddHosts(hosts ...string) {
	if m == nil {
		return
	}
	for _, h := range hosts {
		m.host(h)
	}
}

// commit is the revision that the binary was built from, as far as the Go tool noted it.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

// latencies reach from a group commit on a fast disk to the longest patience of a request.
func latencies() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
}

// Handler serves the metrics in the formats that Prometheus asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, EnableOpenMetrics: true})
}

// Gatherer gives the metrics to tests.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Request counts an answer of the HTTP API. route must come from the routes in the code, never from the address that
// was asked for; empty (no route matched) counts as "other".
func (m *Metrics) Request(route, method string, status int, took time.Duration) {
	if m == nil {
		return
	}
	r := m.routes.get(routeKey{route, method}, func(k routeKey) *routeMetrics {
		labels := prometheus.Labels{"route": k.route, "method": k.method}
		if k.route == "" {
			labels["route"] = other
		}
		return &routeMetrics{total: m.requests.MustCurryWith(labels), time: m.requestTime.With(labels)}
	})
	r.time.Observe(took.Seconds())
	r.counter(status).Inc()
}

// InFlight notes that a request begins (1) or ends (-1).
func (m *Metrics) InFlight(delta int) {
	if m != nil {
		m.inFlight.Add(float64(delta))
	}
}

// QueueUp notes whether the queue answers.
func (m *Metrics) QueueUp(up bool) {
	if m == nil {
		return
	}
	v := 0.0
	if up {
		v = 1
	}
	m.queueUp.Set(v)
}

type routeKey struct{ route, method string }

type routeMetrics struct {
	time  prometheus.Observer
	total *prometheus.CounterVec
	codes [600]atomic.Pointer[prometheus.Counter]
}

// counter finds a status's counter; a status that HTTP does not know counts as 0.
func (r *routeMetrics) counter(status int) prometheus.Counter {
	if status < 100 || status >= len(r.codes) {
		status = 0
	}
	if c := r.codes[status].Load(); c != nil {
		return *c
	}
	c := r.total.WithLabelValues(strconv.Itoa(status))
	r.codes[status].Store(&c)
	return c
}

type hostMetrics struct {
	time    prometheus.Observer
	classes [6]prometheus.Counter // by status/100; 0: no answer
	retries *prometheus.CounterVec
	reasons lookup[string, prometheus.Counter]
}

func (m *Metrics) host(name string) *hostMetrics {
	return m.hosts.get(name, func(name string) *hostMetrics {
		h := &hostMetrics{time: m.upstreamTime.WithLabelValues(name), retries: m.retries.MustCurryWith(prometheus.Labels{"host": name})}
		for i, class := range [...]string{"error", "1xx", "2xx", "3xx", "4xx", "5xx"} {
			h.classes[i] = m.upstream.WithLabelValues(name, class)
		}
		return h
	})
}

// knownHost never makes a new host.
func (m *Metrics) knownHost(name string) *hostMetrics {
	if h, ok := m.hosts.peek(name); ok {
		return h
	}
	return m.host(other)
}

// lookup is a map for many readers and few, early writers: reading takes no lock and allocates nothing.
type lookup[K comparable, V any] struct {
	mu sync.Mutex
	m  atomic.Pointer[map[K]V]
}

func (l *lookup[K, V]) peek(k K) (v V, ok bool) {
	if m := l.m.Load(); m != nil {
		v, ok = (*m)[k]
	}
	return v, ok
}

func (l *lookup[K, V]) get(k K, build func(K) V) V {
	if v, ok := l.peek(k); ok {
		return v
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v, ok := l.peek(k); ok {
		return v
	}
	next := map[K]V{}
	if m := l.m.Load(); m != nil {
		next = maps.Clone(*m)
	}
	v := build(k)
	next[k] = v
	l.m.Store(&next)
	return v
}

func (l *lookup[K, V]) all() map[K]V {
	if m := l.m.Load(); m != nil {
		return *m
	}
	return nil
}

// builder makes metrics from the table, so that nothing is exported that it does not list.
type builder struct {
	registry *prometheus.Registry
	docs     map[string]Doc
}

func (b builder) doc(name, kind string) Doc {
	d, ok := b.docs[name]
	if !ok || d.Type != kind {
		panic(fmt.Sprintf("telemetry: MetricsTable has no %s %s", kind, name)) // a defect that any test finds
	}
	return d
}

func (b builder) counter(name string) *prometheus.CounterVec {
	d := b.doc(name, "counter")
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: d.Help}, d.Labels)
	b.registry.MustRegister(v)
	return v
}

func (b builder) gauge(name string) *prometheus.GaugeVec {
	d := b.doc(name, "gauge")
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: d.Help}, d.Labels)
	b.registry.MustRegister(v)
	return v
}

func (b builder) histogram(name string, buckets []float64) *prometheus.HistogramVec {
	d := b.doc(name, "histogram")
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: d.Help, Buckets: buckets}, d.Labels)
	b.registry.MustRegister(v)
	return v
}

func (b builder) desc(name string) *prometheus.Desc {
	d := b.doc(name, "gauge")
	return prometheus.NewDesc(name, d.Help, d.Labels, nil)
}
