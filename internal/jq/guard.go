package jq

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrBusy: as many guarded runs as allowed are under way, or have not ended yet past their time.
	ErrBusy = errors.New("too many programs are being tried at once; try again later")
	// ErrDeadline: a guarded run took longer than allowed.
	ErrDeadline = errors.New("the program took too long")
)

// Guard runs programs that callers have sent. A builtin of jq may work on long after its context has ended, and nothing
// can stop it; so a guarded run has a goroutine of its own, the caller has an answer in time, and the number of
// goroutines still at work is bounded. It does not bound the memory that one builtin takes. Safe for concurrent use.
type Guard struct {
	slots chan struct{}
	limit time.Duration
}

// NewGuard returns a Guard of at most n runs at once, each answered after at most limit.
func NewGuard(n int, limit time.Duration) *Guard {
	return &Guard{slots: make(chan struct{}, n), limit: limit}
}

// Guarded calls f in a goroutine and returns what it returns, or ErrDeadline, ErrBusy or the context's error. f may go on
// for a while after that: it must touch nothing that the caller uses, and should heed its context, which ends then.
func Guarded[T any](ctx context.Context, g *Guard, f func(context.Context) (T, error)) (T, error) {
	var none T
	select {
	case g.slots <- struct{}{}:
	default:
		return none, ErrBusy
	}
	type result struct {
		value T
		err   error
	}
	inner, cancel := context.WithTimeoutCause(ctx, g.limit, ErrDeadline)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		defer func() { <-g.slots }()
		v, err := f(inner)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err != nil && inner.Err() != nil {
			return none, cause(inner)
		}
		return r.value, r.err
	case <-inner.Done():
		return none, cause(inner)
	}
}

func cause(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, ErrDeadline) {
		return err
	}
	return fmt.Errorf("run jq: %w", ctx.Err())
}
