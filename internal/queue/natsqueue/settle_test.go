package natsqueue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// TestSettle: how long something is sent again whose answer did not come, and what is said in the end.
func TestSettle(t *testing.T) {
	inProcess := &jetstream.APIError{Code: 409, ErrorCode: 10158}
	full := &jetstream.APIError{Code: 400, ErrorCode: codeInsufficient}
	// A try that takes so long whatever its context says: the process is frozen.
	frozen := func(d time.Duration) func(context.Context) error {
		return func(context.Context) error {
			time.Sleep(d)
			return context.DeadlineExceeded
		}
	}
	silent := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	says := func(err error) func(context.Context) error { return func(context.Context) error { return err } }
	type step struct {
		times int
		try   func(context.Context) error
	}
	for name, tt := range map[string]struct {
		replicas int
		steps    []step // the last goes on for ever
		want     error  // nil: written
		unknown  bool
		sent     int           // how often at least
		within   time.Duration // since the start
	}{
		"at once":                         {3, []step{{1, says(nil)}}, nil, false, 1, 0},
		"another leads after six seconds": {3, []step{{3, silent}, {1, says(nil)}}, nil, false, 4, 7 * time.Second},
		"frozen, then nobody leads yet": {
			3,
			[]step{{1, frozen(31 * time.Second)}, {100, says(nats.ErrNoResponders)}, {1, says(nil)}},
			nil, false, 102, 37 * time.Second,
		},
		"frozen, then in process": {
			3,
			[]step{{1, frozen(45 * time.Second)}, {10, says(inProcess)}, {1, says(nil)}},
			nil, false, 12, 46 * time.Second,
		},
		"frozen for longer than ids are remembered": {
			3,
			[]step{{1, frozen(2 * time.Minute)}, {1, says(nil)}},
			context.DeadlineExceeded, true, 1, 2 * time.Minute,
		},
		"no answer ever":             {3, []step{{1, silent}}, context.DeadlineExceeded, true, 5, 40 * time.Second},
		"lost, then nobody for long": {3, []step{{1, silent}, {1, says(nats.ErrNoResponders)}}, nats.ErrNoResponders, true, 100, 31 * time.Second},
		"nobody leads, never sent":   {3, []step{{1, says(nats.ErrNoResponders)}}, nats.ErrNoResponders, false, 100, 31 * time.Second},
		"nobody, one server":         {1, []step{{1, says(nats.ErrNoResponders)}}, nats.ErrNoResponders, false, 1, 0},
		"full":                       {3, []step{{1, says(full)}}, full, false, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &Queue{cfg: Config{Timeout: 10 * time.Second, Replicas: tt.replicas}}
				begin, sent, at, left := time.Now(), 0, 0, tt.steps[0].times
				err := q.settle(t.Context(), func(ctx context.Context) error {
					if left == 0 && at < len(tt.steps)-1 {
						at++
						left = tt.steps[at].times
					}
					sent++
					left = max(0, left-1)
					return tt.steps[at].try(ctx)
				})
				if !errors.Is(err, tt.want) || errors.Is(err, queue.ErrUnknown) != tt.unknown {
					t.Errorf("%v, want %v; unknown: %v", err, tt.want, tt.unknown)
				}
				if mapped := q.mapError(t.Context(), "publish", err); retry.IsPermanent(mapped) || errors.Is(mapped, queue.ErrUnknown) != tt.unknown ||
					tt.unknown && !errors.Is(mapped, queue.ErrUnavailable) {
					t.Errorf("callers get %v", mapped)
				}
				if took := time.Since(begin); sent < tt.sent || took > tt.within {
					t.Errorf("sent %d times in %s; want at least %d in at most %s", sent, took, tt.sent, tt.within)
				}
			})
		})
	}
}
