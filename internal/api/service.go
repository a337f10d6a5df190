// Package api is the HTTP face of ferry: handlers, OpenAPI, and the one table from error to status.
package api

import (
	"context"
	"encoding/json"
	"time"
)

// Service is what the handlers call. app implements it; tests use a fake. Methods are safe for concurrent use, honour
// their context, and return an *Error where a caller can be told more than "internal error".
type Service interface {
	// Process runs the pipeline for one fetch, without a cursor, and returns once every result is durable.
	Process(ctx context.Context, pipeline string) (Processed, error)
	// Push carries records from a request's body through the pipeline's transform. Every record is durable, filtered
	// or dead-lettered (durably) when it returns.
	Push(ctx context.Context, pipeline, contentType string, body []byte) (Pushed, error)
	// Preview reads the first page from the saved cursor (or the given one), transforms it, and publishes nothing.
	Preview(ctx context.Context, pipeline string, req PreviewRequest) (Preview, error)

	Pipelines(ctx context.Context) ([]Pipeline, error)
	Pipeline(ctx context.Context, name string) (Pipeline, error)
	// StartRun starts a run, or finds the one under way (started is false then).
	StartRun(ctx context.Context, pipeline string) (run Run, started bool, err error)
	Run(ctx context.Context, id string) (Run, error)
	// WaitRun returns when the run has ended or the context does, with the run as it then is.
	WaitRun(ctx context.Context, id string) (Run, error)
	// CancelRun asks a run to stop at the next commit.
	CancelRun(ctx context.Context, id string) (Run, error)
	// Runs lists the newest first; pipeline "" means all.
	Runs(ctx context.Context, pipeline string, limit int) ([]Run, error)
	Pause(ctx context.Context, pipeline string) (Pipeline, error)
	Resume(ctx context.Context, pipeline string) (Pipeline, error)

	Cursor(ctx context.Context, pipeline string) (Cursor, error)
	// SetCursor replaces the cursor; a nil value resets it to the beginning. A run under way is fenced.
	SetCursor(ctx context.Context, pipeline string, value json.RawMessage) (Cursor, error)

	Topics(ctx context.Context) ([]Topic, error)
	Topic(ctx context.Context, topic string) (Topic, error)
	Browse(ctx context.Context, topic string, from int64, limit int) ([]Record, error)
	Receive(ctx context.Context, topic string, limit int, wait time.Duration) ([]Delivery, error)
	Ack(ctx context.Context, topic string, receipts []string) error
	Nack(ctx context.Context, topic string, receipts []string) error

	Dead(ctx context.Context, pipeline string, from int64, limit int) ([]DeadLetter, error)
	// Replay sends dead letters through the pipeline again: those at the given positions, or all when none is given.
	Replay(ctx context.Context, pipeline string, positions []int64) (Replayed, error)
	// Discard takes dead letters out for good: those at the given positions, or all when none is given.
	Discard(ctx context.Context, pipeline string, positions []int64) (Discarded, error)

	// Instances lists those that share the state store, by name, and what each is about.
	Instances(ctx context.Context) ([]Instance, error)

	// Subscribe gives live updates until the context ends. A slow reader loses updates, never blocks the service.
	Subscribe(ctx context.Context) <-chan Update
	// Ready returns nil when requests can be served, otherwise why not.
	Ready(ctx context.Context) error
}

// Processed is the answer's data: one JSON value, or an array of them when there are several or none.
type Processed struct {
	Data      json.RawMessage
	Published int
	Filtered  int
	Dead      int
}

// Pushed counts what became of pushed records: read = published + filtered + dead.
type Pushed struct {
	Pipeline   string   `json:"pipeline"`
	Read       int      `json:"read" doc:"Records in the body."`
	Published  int      `json:"published" doc:"Records that gave at least one result, durable in the queue."`
	RecordsOut int      `json:"records_out" doc:"Results published; more than published when a map gives several."`
	Filtered   int      `json:"filtered"`
	Dead       int      `json:"dead"`
	IDs        []string `json:"ids" nullable:"false" doc:"Ids of the published results, in order."`
}

// PreviewRequest asks for a dry run. Nil fields mean what the configuration says.
type PreviewRequest struct {
	Cursor    json.RawMessage   `json:"cursor,omitempty" doc:"Read from here instead of the saved cursor; null reads from the beginning."`
	Transform []json.RawMessage `json:"transform,omitempty" nullable:"false" doc:"Steps to try instead of the configured ones, each with where or map."`
	Limit     int               `json:"limit,omitempty" minimum:"1" maximum:"100" doc:"Most records to show (20)."`
}

// Preview is what a run would do with the first page.
type Preview struct {
	Pipeline string          `json:"pipeline"`
	Request  string          `json:"request" doc:"Method and address asked, without secrets."`
	Records  []PreviewRecord `json:"records" nullable:"false" doc:"The first records of the page, before and after."`
	Read     int             `json:"read" doc:"Records in the page."`
	Next     json.RawMessage `json:"next,omitempty" doc:"Cursor after this page."`
	End      bool            `json:"end" doc:"Whether this page is the last."`
	Then     string          `json:"then,omitempty" doc:"Method and address of the page after this one, without secrets; absent after the last."`
	Warning  string          `json:"warning,omitempty" doc:"What a run would mention in the log, such as a sign of further pages that it knows no way to."`
}

// PreviewRecord is one record before and after.
type PreviewRecord struct {
	ID      string            `json:"id"`
	Key     string            `json:"key,omitempty"`
	Before  json.RawMessage   `json:"before"`
	After   []json.RawMessage `json:"after" nullable:"false" doc:"What the transform made of it: none when filtered or dead."`
	Outcome string            `json:"outcome" enum:"published,filtered,dead"`
	Reason  string            `json:"reason,omitempty"`
}

// Pipeline is a pipeline's state.
type Pipeline struct {
	Name     string     `json:"name"`
	Topic    string     `json:"topic"`
	Push     bool       `json:"push,omitempty" doc:"It reads nothing: its records are pushed, and it cannot be run."`
	State    string     `json:"state" enum:"idle,running,paused,failing" doc:"failing: the last run failed."`
	Reason   string     `json:"reason,omitempty" doc:"Why the last run ended as it did, or why the pipeline waits."`
	Schedule string     `json:"schedule,omitempty" example:"every 5m0s"`
	NextRun  *time.Time `json:"next_run,omitempty"`
	LastRun  *Run       `json:"last_run,omitempty"`
	Counters Counters   `json:"counters" doc:"Sums over this process's runs and requests."`
}

// Counters of invariant 5: read = published + filtered + seen + dead.
type Counters struct {
	Pages      int64 `json:"pages"`
	Read       int64 `json:"read"`
	Published  int64 `json:"published"`
	Filtered   int64 `json:"filtered"`
	Seen       int64 `json:"seen"`
	Dead       int64 `json:"dead"`
	RecordsOut int64 `json:"records_out" doc:"Results published; differs from published when a map gives several."`
}

// Run is one execution of a pipeline.
type Run struct {
	ID       string `json:"run"`
	Pipeline string `json:"pipeline"`
	Trigger  string `json:"trigger" enum:"request,schedule,webhook,cli"`
	Status   string `json:"status" enum:"running,succeeded,failed,rate_limited,stalled,fenced,cancelled" doc:"running until it ends"`
	Reason   string `json:"reason,omitempty"`
	Counters
	Started      time.Time  `json:"started"`
	Ended        *time.Time `json:"ended,omitempty"`
	LastProgress time.Time  `json:"last_progress"`
	Seconds      float64    `json:"seconds"`
	RetryAt      *time.Time `json:"retry_at,omitempty" doc:"When the upstream said to come back."`
	TotalHint    int64      `json:"total_hint,omitempty" doc:"How many records the upstream says there are; 0 when unknown."`
}

// Cursor is a pipeline's saved progress.
type Cursor struct {
	Pipeline string          `json:"pipeline"`
	Cursor   json.RawMessage `json:"cursor" doc:"Opaque; null means the beginning."`
}

// Topic is a topic's state.
type Topic struct {
	Topic   string `json:"topic"`
	Records int64  `json:"records"`
	Waiting int64  `json:"waiting" doc:"Not acknowledged yet by POST …/ack."`
	Bytes   int64  `json:"bytes"`
	First   int64  `json:"first"`
	Last    int64  `json:"last"`
}

// Record is a record as it lies in a topic: the shape of `ferry tail --json` too.
type Record struct {
	ID       string            `json:"id"`
	Topic    string            `json:"topic"`
	Position int64             `json:"position"`
	Time     time.Time         `json:"time"`
	Headers  map[string]string `json:"headers"`
	Data     json.RawMessage   `json:"data"`
}

// Delivery is a record taken by receive.
type Delivery struct {
	Record
	Receipt string `json:"receipt"`
	Attempt int    `json:"attempt"`
}

// DeadLetter is a record that could not go on.
type DeadLetter struct {
	Record
	Reason string `json:"reason"`
	Stage  string `json:"stage"`
	Run    string `json:"run,omitempty"`
}

// Replayed counts what became of replayed dead letters: read = published + filtered + dead + cut (invariant 5).
type Replayed struct {
	Pipeline  string `json:"pipeline"`
	Read      int    `json:"read"`
	Published int    `json:"published"`
	Filtered  int    `json:"filtered"`
	Dead      int    `json:"dead" doc:"Still dead: they are dead letters again, with the new reason, or, where the queue deduplicates, as they were."`
	Cut       int    `json:"cut" doc:"Left as they are, for only a text of the record's beginning was kept: mend the cause and pull them again, for example with the cursor set back."`
}

// Discarded counts the dead letters that were taken out for good.
type Discarded struct {
	Pipeline  string `json:"pipeline"`
	Discarded int    `json:"discarded"`
}

// Instance is one of those that share the state store.
type Instance struct {
	ID      string    `json:"id" doc:"New with every start." example:"ferry-1-k3j5wq"`
	Name    string    `json:"name" doc:"From the key instance; the host's name without it." example:"ferry-1"`
	Self    bool      `json:"self" doc:"Whether it is the one that answers."`
	URL     string    `json:"url,omitempty" doc:"Its API as seen from its own machine."`
	Version string    `json:"version"`
	Queue   string    `json:"queue" doc:"The queue it writes to, without logins."`
	Started time.Time `json:"started"`
	Seen    time.Time `json:"seen" doc:"When it last said that it is there, by its own clock."`
	Alive   bool      `json:"alive" doc:"Whether that was within the lease time."`
	Holds   []Holding `json:"holds" nullable:"false" doc:"Pipelines whose lease it has."`
}

// Holding is a pipeline's lease in the hand of an instance.
type Holding struct {
	Pipeline string `json:"pipeline"`
	Run      string `json:"run,omitempty" doc:"The run under way."`
	Fence    uint64 `json:"fence" doc:"Grows with every run of the pipeline, over all instances: who has an older one is refused."`
}

// Update is one live update: a run or a pipeline that has changed.
type Update struct {
	Type     string    `json:"type" enum:"run,pipeline"`
	Run      *Run      `json:"run,omitempty"`
	Pipeline *Pipeline `json:"pipeline,omitempty"`
}
