package scheduler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Status is where a run stands.
type Status string

// The statuses. A run is running until it has one of the others.
const (
	Running     Status = "running"
	Succeeded   Status = "succeeded"
	Failed      Status = "failed"
	RateLimited Status = "rate_limited" // the upstream asked to come back later than ferry waits; see RetryAt
	Stalled     Status = "stalled"      // no progress for the pipeline's stall time
	Fenced      Status = "fenced"       // another writer or instance has taken over (invariant 6)
	Cancelled   Status = "cancelled"    // by a person, or because ferry stops (invariant 10)
)

// Why the scheduler ends a run before its end: the causes (context.Cause) of a Runner's context. The Runner stops at
// the next commit, and what it has committed stays.
var (
	ErrStalled   = errors.New("no progress")
	ErrTimeout   = errors.New("ran longer than its timeout")
	ErrFenced    = errors.New("another instance has taken over, or may have while the state store did not answer")
	ErrCancelled = errors.New("cancelled on request")
	ErrStopping  = errors.New("ferry is stopping")
)

// Counters of invariant 5: Read = Published + Filtered + Seen + Dead.
type Counters struct {
	Pages      int64 `json:"pages"`
	Read       int64 `json:"read"`
	Published  int64 `json:"published"`
	Filtered   int64 `json:"filtered"`
	Seen       int64 `json:"seen"`
	Dead       int64 `json:"dead"`
	RecordsOut int64 `json:"records_out"`
}

// Run is one execution of a pipeline. Times are UTC.
type Run struct {
	ID       string `json:"run"` // sorts by start; see newestFirst
	Pipeline string `json:"pipeline"`
	Trigger  string `json:"trigger"` // request, schedule, webhook, cli
	Status   Status `json:"status"`
	Reason   string `json:"reason,omitempty"` // why it ended as it did, for a person
	Counters
	TotalHint    int64      `json:"total_hint,omitempty"` // records that the upstream says there are; 0: unknown
	Started      time.Time  `json:"started"`
	Ended        *time.Time `json:"ended,omitempty"`
	LastProgress time.Time  `json:"last_progress"`
	RetryAt      *time.Time `json:"retry_at,omitempty"` // when the upstream said to come back
	Instance     string     `json:"instance,omitempty"`
}

// Runner runs a pipeline. The application adapts the pipeline package to it.
type Runner interface {
	// Run blocks until the run has ended. When ctx ends it stops at the next commit; context.Cause(ctx) is one of
	// ErrStalled, ErrTimeout, ErrFenced, ErrCancelled and ErrStopping. An error without a Status in the Outcome makes
	// the run Failed, or what the cause stands for; its text is the Reason unless the Outcome has one. Waits that are
	// announced in ctx (retry.Announce) are no silence.
	Run(ctx context.Context, run Info) (Outcome, error)
}

// Info is what a Runner is told.
type Info struct {
	ID       string
	Pipeline string
	Trigger  string
	Started  time.Time
	// Fence grows from run to run of a pipeline, over all instances.
	Fence uint64
	// Progress reports where the run stands, in totals. Each call counts as a sign of life: call it for each page read
	// and each commit, and not on a timer. Cheap, and safe for concurrent use.
	Progress func(Progress)
}

// Progress is where a run stands.
type Progress struct {
	Counters
	TotalHint int64
}

// Outcome is how a run ended. The zero Status means Succeeded, or Failed beside an error.
type Outcome struct {
	Status   Status
	Reason   string
	Counters Counters // the last word: takes the place of what was reported as progress
	RetryAt  time.Time
}

const idTime = "20060102T150405.000Z"

// newID gives an id that sorts by time: 20261123T061630.123Z-x7f3k.
func newID(now time.Time) string {
	const letters = "0123456789abcdefghjkmnpqrstvwxyz"
	var b [5]byte
	rand.Read(b[:]) // never fails
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return now.UTC().Format(idTime) + "-" + string(b[:])
}

// active is a run under way on this instance.
type active struct {
	id       string
	cancel   context.CancelCauseFunc
	lease    Lease
	mark     mark // as written at the start, and its revision
	revision uint64
	done     chan struct{} // closed when the run has ended and is on record

	mu     sync.Mutex
	run    Run
	alive  time.Time // last sign of life, with the monotonic clock
	waits  time.Time // end of the latest wait that it was told to make
	asked  time.Time // the same, of those that the upstream asked for
	change int       // grows with each change of run
}

func (a *active) progress(p Progress) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.run.Counters = p.Counters
	a.run.TotalHint = max(p.TotalHint, a.run.TotalHint)
	a.run.LastProgress = utc(now)
	a.alive = now
	a.change++
}

func (a *active) snapshot() Run {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run
}

// waiting hears of a wait that the run was told to make.
func (a *active) waiting(until time.Time, asked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waits = until
	if asked {
		a.asked = until
	}
}

// silence is how long there has been no sign of life, and nothing that the run was told to wait for. It is negative
// during such a wait.
func (a *active) silence() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(latest(a.alive, a.waits))
}

// changedSince tells whether the run has changed since the mark was taken, and gives the new mark.
func (a *active) changedSince(mark int) (int, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.change, a.change != mark
}

// end writes the outcome into the run.
func (a *active) end(cause error, out Outcome, err error) Run {
	now := utc(time.Now())
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.run
	r.Status, r.Reason = conclude(cause, out, err)
	if out.Counters != (Counters{}) {
		r.Counters = out.Counters
	}
	at := utc(out.RetryAt)
	if asked := utc(a.asked); at.IsZero() && asked.After(now) {
		at = asked // the run was cut off while it waited, which takes nothing from what the upstream asked for
	}
	if !at.IsZero() {
		r.RetryAt = &at
	}
	r.Ended = &now
	a.change++
	return *r
}

// conclude says what a run's end means. A run that came to its end is a success even if it was being cancelled just
// then; a failure after the scheduler had ended the run is the scheduler's doing.
func conclude(cause error, out Outcome, err error) (Status, string) {
	status, reason := out.Status, out.Reason
	if status == "" && err == nil {
		status = Succeeded
	}
	if status == Succeeded && err == nil {
		return status, reason
	}
	var fromCause Status
	switch {
	case cause == nil:
	case errors.Is(cause, ErrStalled):
		fromCause = Stalled
	case errors.Is(cause, ErrFenced):
		fromCause = Fenced
	case errors.Is(cause, ErrTimeout):
		fromCause = Failed
	case errors.Is(cause, ErrCancelled), errors.Is(cause, ErrStopping):
		fromCause = Cancelled
	}
	if fromCause != "" {
		return fromCause, cause.Error()
	}
	if status == "" || status == Running || status == Succeeded {
		status = Failed
	}
	if reason == "" && err != nil {
		reason = err.Error()
	}
	return status, reason
}

// call runs the Runner. A panic in one pipeline fails that run and no other.
func call(ctx context.Context, r Runner, info Info) (out Outcome, stack []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, stack, err = Outcome{}, debug.Stack(), fmt.Errorf("a defect in ferry, please report it: panic: %v", p)
		}
	}()
	out, err = r.Run(ctx, info)
	return out, nil, err
}

func utc(t time.Time) time.Time { return t.Round(0).UTC() }
