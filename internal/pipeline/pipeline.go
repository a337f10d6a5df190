// Package pipeline is the engine: it reads records from a source, transforms them and commits them to a queue. There
// are two ways in, over the same steps. A run (Run) reads pages from the saved cursor and holds the pipeline's writer.
// A request (Process, Push) has no cursor and shares the queue's group commit with any number of others.
package pipeline

import (
	"context"
	"errors"
	"iter"
	"time"

	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// Source reads records. Safe for concurrent use. internal/source implements it.
type Source interface {
	// Read reads the one page at the cursor, part by part. The last part of a page has PageEnd, the last of all End.
	// It yields an error at most once, as the last thing. It has no state: reading from a part's After cursor goes
	// on after that part, in this process or another.
	Read(ctx context.Context, from record.Cursor) iter.Seq2[record.Part, error]
	// Fetch makes one request without a cursor and returns the records of its answer.
	Fetch(ctx context.Context) (record.Part, error)
	// Split finds the records in a pushed body.
	Split(contentType string, body []byte) (record.Part, error)
	// Identify gives a single record the key and id that Split would give it; bad says why it cannot go on.
	Identify(ctx context.Context, data []byte) (r record.Record, bad error)
}

// Transform turns one record into none (filtered), one or several. It is pure and safe for concurrent use. It appends
// its results to out; an error makes the record a dead letter, of the stage that the error's DeadStage method names.
type Transform interface {
	Apply(ctx context.Context, in record.Record, out []record.Record) ([]record.Record, error)
}

// Config is what a Pipeline is made of. All fields without a default are required.
type Config struct {
	Name, Topic string
	Source      Source
	Transform   Transform
	Queue       queue.Queue

	// MaxPages is how many pages a run ends after; the next goes on from there. 0: no limit.
	MaxPages int
	// CommitRecords and CommitBytes bound one commit beside the queue's own limits. Defaults 5000 and 8 MiB.
	CommitRecords, CommitBytes int
	// Buffer bounds the memory, in bytes, of parts read but not committed (invariant 7). Default 16 MiB.
	Buffer int
	// Linger is how long a commit that is not full waits for more records. Default 0: it does not.
	Linger time.Duration
	// CommitTimeout is how long one try of a commit may take. Default 30 s.
	CommitTimeout time.Duration
	// Retry is the patience with a queue that fails in a way that may pass. Default: until the run's context ends,
	// at most 5 s apart.
	Retry retry.Policy

	Hooks Hooks
}

// Hooks tell an observer what happens. Each may be nil. They are called from the run's goroutines and must be quick.
type Hooks struct {
	// Committed hears of every successful commit or publish: records and bytes in it, and how long it took.
	Committed func(records, bytes int, took time.Duration)
	// Waiting hears why a commit is being retried; "" when it went through again.
	Waiting func(reason string)
	// Counted hears of every change of the counters, as a difference.
	Counted func(delta Counters)
	// Warned hears what a person should know without it being a failure.
	Warned func(warning string)
	// At is called when a named point is passed: "fetched", "committing", "committed". The crash tests kill the
	// process there.
	At func(point string)
}

// Counters of one run or request. Read = Published + Filtered + Seen + Dead (invariant 5).
type Counters struct {
	Pages      int64 // pages read to their end
	Read       int64 // records that the source gave
	Published  int64 // records of which every result is durable
	Filtered   int64 // records without a result
	Seen       int64 // records that an earlier run had committed
	Dead       int64 // records that are dead letters, durable
	RecordsOut int64 // results published; more than Published when a map gives several
}

// Add returns the sum.
func (c Counters) Add(d Counters) Counters {
	c.Pages += d.Pages
	c.Read += d.Read
	c.Published += d.Published
	c.Filtered += d.Filtered
	c.Seen += d.Seen
	c.Dead += d.Dead
	c.RecordsOut += d.RecordsOut
	return c
}

// Pipeline is a named source → transform → topic. Safe for concurrent use.
type Pipeline struct {
	cfg    Config
	limits queue.Limits // of the queue and the configuration, the lower of both
	dead   string       // topic of the dead letters
}

// New checks the configuration and fills in its defaults.
func New(cfg Config) (*Pipeline, error) {
	if cfg.Name == "" || cfg.Topic == "" || cfg.Source == nil || cfg.Transform == nil || cfg.Queue == nil {
		return nil, errors.New("make pipeline: name, topic, source, transform and queue are required")
	}
	setDefault(&cfg.CommitRecords, 5000)
	setDefault(&cfg.CommitBytes, 8<<20)
	setDefault(&cfg.Buffer, 16<<20)
	setDefault(&cfg.CommitTimeout, 30*time.Second)
	if cfg.Retry.Retries == 0 && cfg.Retry.Max == 0 {
		cfg.Retry = retry.Policy{Retries: -1, Max: 5 * time.Second}
	}
	limits := cfg.Queue.Info().Limits
	limits.CommitRecords = lower(limits.CommitRecords, cfg.CommitRecords)
	limits.CommitBytes = lower(limits.CommitBytes, cfg.CommitBytes)
	limits.RecordBytes = lower(limits.RecordBytes, limits.CommitBytes)
	return &Pipeline{cfg: cfg, limits: limits, dead: queue.DeadTopic(cfg.Topic)}, nil
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// lower is the smaller of two limits, of which 0 means none.
func lower(a, b int) int {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// Name is the pipeline's name.
func (p *Pipeline) Name() string { return p.cfg.Name }

// Topic is where its records go.
func (p *Pipeline) Topic() string { return p.cfg.Topic }

// Context says on whose behalf records are carried; it travels in their headers.
type Context struct {
	// ID is the run's or request's id.
	ID string
	// Traceparent is the W3C trace context, or empty.
	Traceparent string
}

// headers are the headers of every record of one run or request: one slice for all, never changed.
func (p *Pipeline) headers(c Context) []record.Header {
	h := make([]record.Header, 0, 4)
	h = append(h,
		record.Header{Name: record.HeaderPipeline, Value: p.cfg.Name},
		record.Header{Name: record.HeaderRun, Value: c.ID},
		record.Header{Name: record.HeaderContentType, Value: "application/json"})
	if c.Traceparent != "" {
		h = append(h, record.Header{Name: record.HeaderTraceparent, Value: c.Traceparent})
	}
	return h
}

func (p *Pipeline) at(point string) {
	if p.cfg.Hooks.At != nil {
		p.cfg.Hooks.At(point)
	}
}

func (p *Pipeline) counted(delta Counters) {
	if p.cfg.Hooks.Counted != nil {
		p.cfg.Hooks.Counted(delta)
	}
}

func (p *Pipeline) committed(records, bytes int, took time.Duration) {
	if p.cfg.Hooks.Committed != nil {
		p.cfg.Hooks.Committed(records, bytes, took)
	}
}
