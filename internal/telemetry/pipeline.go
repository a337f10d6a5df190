package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// PipelineMetrics counts what one pipeline does. Methods are safe for concurrent use, allocate nothing, and do nothing
// on nil. Request and Retry are what a source wants of its observer.
type PipelineMetrics struct {
	m    *Metrics
	runs *prometheus.CounterVec

	pages, read, published, filtered, seen, dead, recordsOut, bytesIn, bytesOut prometheus.Counter

	runTime prometheus.Observer
	running prometheus.Gauge

	// Unix nanoseconds; 0: unknown.
	progress, next, current atomic.Int64
}

// Pipeline returns the pipeline's counters. Names must come from the configuration. Keep the result: it is what makes
// counting cheap.
func (m *Metrics) Pipeline(name string) *PipelineMetrics {
	if m == nil {
		return nil
	}
	return m.pipelines.get(name, func(name string) *PipelineMetrics {
		outcomes := m.records.MustCurryWith(prometheus.Labels{"pipeline": name})
		p := &PipelineMetrics{
			m:          m,
			runs:       m.runs.MustCurryWith(prometheus.Labels{"pipeline": name}),
			pages:      m.pages.WithLabelValues(name),
			read:       m.read.WithLabelValues(name),
			published:  outcomes.WithLabelValues("published"),
			filtered:   outcomes.WithLabelValues("filtered"),
			seen:       outcomes.WithLabelValues("seen"),
			dead:       outcomes.WithLabelValues("dead"),
			recordsOut: m.recordsOut.WithLabelValues(name),
			bytesIn:    m.bytesIn.WithLabelValues(name),
			bytesOut:   m.bytesOut.WithLabelValues(name),
			runTime:    m.runTime.WithLabelValues(name),
			running:    m.running.WithLabelValues(name),
		}
		// So that an alert on failures sees the first one as a step from 0.
		for _, status := range [...]string{"succeeded", "failed", "rate_limited", "stalled", "fenced", "cancelled"} {
			p.runs.WithLabelValues(status)
		}
		return p
	})
}

// Count adds to the counters of invariant 5, and notes progress.
func (p *PipelineMetrics) Count(pages, read, published, filtered, seen, dead, recordsOut int64) {
	if p == nil {
		return
	}
	add(p.pages, pages)
	add(p.read, read)
	add(p.published, published)
	add(p.filtered, filtered)
	add(p.seen, seen)
	add(p.dead, dead)
	add(p.recordsOut, recordsOut)
	p.Progress()
}

// add leaves out what would not count; a negative number is a caller's defect that must not take the process down.
func add(c prometheus.Counter, n int64) {
	if n > 0 {
		c.Add(float64(n))
	}
}

// Commit counts a commit or publish that the queue has confirmed.
func (p *PipelineMetrics) Commit(records, bytes int, took time.Duration) {
	if p == nil {
		return
	}
	p.m.commit.Observe(took.Seconds())
	p.m.batch.Observe(float64(records))
	add(p.bytesOut, int64(bytes))
	p.Progress()
}

// Progress notes that the pipeline has just read a page or committed.
func (p *PipelineMetrics) Progress() {
	if p != nil {
		p.progress.Store(time.Now().UnixNano())
	}
}

// RunStarted notes that a run is under way.
func (p *PipelineMetrics) RunStarted() {
	if p != nil {
		p.running.Set(1)
		p.Progress()
	}
}

// RunEnded counts a run by its status.
func (p *PipelineMetrics) RunEnded(status string, took time.Duration) {
	if p == nil {
		return
	}
	p.running.Set(0)
	p.runTime.Observe(took.Seconds())
	p.runs.WithLabelValues(status).Inc()
}

// CursorCurrent notes that the cursor was committed, or found to be current, at that time.
func (p *PipelineMetrics) CursorCurrent(at time.Time) {
	if p != nil {
		p.current.Store(at.UnixNano())
	}
}

// NextRun notes when the next scheduled run starts; the zero time: none is planned.
func (p *PipelineMetrics) NextRun(at time.Time) {
	switch {
	case p == nil:
	case at.IsZero():
		p.next.Store(0)
	default:
		p.next.Store(at.UnixNano())
	}
}

// Request counts a request to a third-party API: its status (0: no answer came), how long it took and the bytes of the
// body as they were sent. A host that the configuration does not name counts as "other".
func (p *PipelineMetrics) Request(host string, status int, took time.Duration, wire int64) {
	if p == nil {
		return
	}
	h := p.m.knownHost(host)
	h.time.Observe(took.Seconds())
	class := status / 100
	if class < 1 || class > 5 {
		class = 0
	}
	h.classes[class].Inc()
	add(p.bytesIn, wire)
}

// maxReasons bounds the reasons for retries, should a caller ever pass on what the upstream says.
const maxReasons = 40

// Retry counts a wait before another try of a request.
func (p *PipelineMetrics) Retry(host, reason string, _ time.Duration) {
	if p == nil {
		return
	}
	h := p.m.knownHost(host)
	if c, ok := h.reasons.peek(reason); ok {
		c.Inc()
		return
	}
	if len(h.reasons.all()) >= maxReasons {
		reason = other
	}
	h.reasons.get(reason, func(reason string) prometheus.Counter { return h.retries.WithLabelValues(reason) }).Inc()
}

// timesCollector reports points in time, only where they are known, and ages as they are when someone looks.
type timesCollector struct {
	m                   *Metrics
	progress, next, age *prometheus.Desc
}

func (c *timesCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.progress
	ch <- c.next
	ch <- c.age
}

func (c *timesCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, pipeline string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, pipeline)
	}
	for name, p := range c.m.pipelines.all() {
		if at := p.progress.Load(); at != 0 {
			gauge(c.progress, float64(at)/1e9, name)
		}
		if at := p.next.Load(); at != 0 {
			gauge(c.next, float64(at)/1e9, name)
		}
		if at := p.current.Load(); at != 0 {
			gauge(c.age, max(0, time.Since(time.Unix(0, at)).Seconds()), name)
		}
	}
}
