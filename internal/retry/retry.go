// Package retry holds the only backoff in ferry: exponential with full jitter, and a server's own word for when to
// come back. Who calls decides what is worth another try by wrapping errors; everything unwrapped is retried.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Policy says how often and how patiently. The zero value makes one try and no retry.
type Policy struct {
	// Retries is the number of tries after the first; < 0 means without end (until the context ends).
	Retries int
	// Base is the ceiling of the first wait; each further ceiling doubles, up to Max. The wait is uniform between
	// zero and its ceiling ("full jitter", M. Brooker, Exponential Backoff and Jitter, AWS 2015).
	// Defaults: 200 ms and 30 s.
	Base, Max time.Duration
	// MaxAfter is the longest wait that a server may ask for with After; a longer one ends the tries with an
	// *AfterError. Zero means Max.
	MaxAfter time.Duration
	// OnRetry, when not nil, hears of every wait before it begins. try counts from 1.
	OnRetry func(try int, wait time.Duration, err error)
}

// Permanent marks err as not worth another try. errors.Is and As see through the mark. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent tells whether err carries the mark of Permanent.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// An AfterError says that the other side asked to be left alone for Wait. Do obeys it exactly, without jitter, when
// Wait is within the policy's MaxAfter. When Wait is 0, or over already, the policy's own wait holds.
type AfterError struct {
	Err  error
	Wait time.Duration
	At   time.Time // when to come back; for messages
}

func (e *AfterError) Error() string {
	return fmt.Sprintf("%v (asked to wait %s, until %s)", e.Err, e.Wait.Round(time.Millisecond), e.At.UTC().Format(time.RFC3339))
}
func (e *AfterError) Unwrap() error { return e.Err }

// After wraps err with the other side's wish to wait. It returns nil for a nil err.
func After(err error, wait time.Duration) error {
	if err == nil {
		return nil
	}
	return &AfterError{Err: err, Wait: max(wait, 0), At: time.Now().Add(wait)}
}

// Do calls f until it returns nil, a permanent error or the policy is used up, and returns f's last error, without
// the mark of Permanent. When the context ends during a wait the error is f's, joined with the context's cause.
func Do(ctx context.Context, p Policy, f func(ctx context.Context) error) error {
	for try := 1; ; try++ {
		err := f(ctx)
		if err == nil {
			return nil
		}
		var perm *permanentError
		if errors.As(err, &perm) {
			if err == error(perm) { //nolint:errorlint // only the marker itself is taken off, not what wraps it
				return perm.err
			}
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		if p.Retries >= 0 && try > p.Retries {
			return err
		}
		wait := p.Wait(try)
		var after *AfterError
		if errors.As(err, &after) {
			if after.Wait > p.maxAfter() {
				return err
			}
			if after.Wait > 0 { // at once, try after try, would be a burst
				wait = after.Wait
				announce(ctx, wait, true)
			}
		}
		if p.OnRetry != nil {
			p.OnRetry(try, wait, err)
		}
		if serr := Sleep(ctx, wait); serr != nil {
			return fmt.Errorf("%w (gave up waiting to retry: %w)", err, serr)
		}
	}
}

// Wait draws the wait before try number try+1, for callers whose loop is their own. try counts from 1.
func (p Policy) Wait(try int) time.Duration {
	base, top := p.Base, p.Max
	if base <= 0 {
		base = 200 * time.Millisecond
	}
	if top <= 0 {
		top = 30 * time.Second
	}
	ceiling := top
	if shift := try - 1; shift < 32 && base<<shift < top && base<<shift > 0 {
		ceiling = base << shift
	}
	return rand.N(ceiling + 1)
}

func (p Policy) maxAfter() time.Duration {
	switch {
	case p.MaxAfter > 0:
		return p.MaxAfter
	case p.Max > 0:
		return p.Max
	}
	return 30 * time.Second
}

// Sleep waits for d or until the context ends, and returns the context's cause in that case.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type announceKey struct{}

// Announce returns a context in which f hears, before they begin, of the waits that somebody else decides: those that
// the other side asked for (asked), and those for a turn. Who watches for silence can tell them from it. Waits that Do
// chooses itself are not among them.
func Announce(ctx context.Context, f func(until time.Time, asked bool)) context.Context {
	return context.WithValue(ctx, announceKey{}, f)
}

func announce(ctx context.Context, d time.Duration, asked bool) {
	if d <= 0 {
		return
	}
	if f, ok := ctx.Value(announceKey{}).(func(time.Time, bool)); ok {
		f(time.Now().Add(d), asked)
	}
}

// AwaitTurn is Sleep for a turn that comes in d: one that others, or a rate, leave to the caller.
func AwaitTurn(ctx context.Context, d time.Duration) error {
	announce(ctx, d, false)
	return Sleep(ctx, d)
}
