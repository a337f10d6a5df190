package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ferry/internal/api"
	"ferry/internal/retry"
	"ferry/internal/scheduler"
)

const (
	lettersPrefix = "dead/lease/" // of the leases in the state store, by dead topic
	lettersLook   = 200 * time.Millisecond
)

// errNotAlone ends a replay or discard of which it is not sure any more that it is the only one.
var errNotAlone = &api.Error{
	Code: api.CodeConflict, RetryAfter: time.Second,
	Detail: "the state store was out of reach for so long that another instance may take dead letters out of this topic by now; what was done stays, do the rest again",
}

// alone does f while nobody else takes letters out of the dead topic, on this instance or on one that shares its state: two
// that read, publish and remove the same letters at once would publish each twice. It waits for its turn until ctx ends.
func (a *App) alone(ctx context.Context, topic string, f func(context.Context) error) error {
	turn := a.turns[topic]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return notYet(topic, context.Cause(ctx))
	}
	if a.letters == nil {
		return f(ctx)
	}
	lease, err := a.lettersLease(ctx, topic)
	if err != nil {
		return notYet(topic, err)
	}
	held, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-lease.Lost():
			cancel(errNotAlone)
		case <-held.Done():
		}
	}()
	err = f(held)
	if err != nil && errors.Is(context.Cause(held), errNotAlone) {
		err = errNotAlone
	}
	cancel(nil)
	<-watched
	// Not given back, it is waited for until it runs out; what was done is done.
	release, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if err := lease.Release(release); err != nil {
		a.log.Warn("cannot give back the lease of dead letters; others wait until it runs out", "topic", topic, "error", err)
	}
	return err
}

// notYet says that another one is at the dead letters still.
func notYet(topic string, err error) error {
	err = fmt.Errorf("wait for another replay or discard of topic %q: %w", topic, err)
	if errors.Is(err, context.DeadlineExceeded) {
		return &api.Error{Code: api.CodeConflict, Detail: "another replay or discard of these dead letters is under way; try again when it is done", RetryAfter: 5 * time.Second, Err: err}
	}
	return problem(err)
}

// lettersLease asks for the lease until it is free or ctx ends.
func (a *App) lettersLease(ctx context.Context, topic string) (scheduler.Lease, error) {
	for {
		lease, err := a.letters.Acquire(ctx, topic)
		if !errors.Is(err, scheduler.ErrHeld) {
			return lease, err
		}
		if err := retry.Sleep(ctx, lettersLook); err != nil {
			return nil, err
		}
	}
}
