package source

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Kind says why reading failed, in one word that metrics and the API can use.
type Kind string

// The kinds of failure.
const (
	KindNetwork     Kind = "network"      // no connection, or it broke
	KindTimeout     Kind = "timeout"      // a phase took longer than its limit
	KindStatus      Kind = "status"       // the answer's status means failure
	KindRateLimited Kind = "rate_limited" // the API asks to come back later; see Error.RetryAt
	KindContent     Kind = "content"      // the answer is not what it should be: HTML, broken JSON, cut short (invariant 9)
	KindLoop        Kind = "loop"         // pages repeat (invariant 9)
	KindLimit       Kind = "limit"        // larger or deeper than the configuration allows (invariant 7)
	KindBlocked     Kind = "blocked"      // an address that is refused: another origin, cloud metadata
	KindAuth        Kind = "auth"         // the login failed
	KindCursor      Kind = "cursor"       // the saved cursor does not fit this source
	KindCancelled   Kind = "cancelled"    // the caller's context ended
	KindPush        Kind = "push"         // there is no API to read: records are pushed
)

// Error is why a page could not be read, after all retries. Its text is for people, says what to do where that is
// known, and holds no secret (invariant 8).
type Error struct {
	Kind   Kind
	Status int    // HTTP status; 0 when no answer came
	Detail string // what happened
	At     string // method and address asked, secrets masked; may be empty
	// RetryAt is when the API said to come back, for KindRateLimited; zero when it did not say.
	RetryAt time.Time
	// Err is the cause where errors.Is can be of use: a context's error or cause. It is not part of the text.
	Err error

	again bool // worth another try
	asked bool // the API said how long to wait:
	wait  time.Duration
}

// Error gives the kind, what happened and what was asked.
func (e *Error) Error() string {
	s := string(e.Kind) + ": " + e.Detail
	if e.At != "" {
		s += " (" + e.At + ")"
	}
	return s
}

// Unwrap gives the cause, or nil.
func (e *Error) Unwrap() error { return e.Err }

// failf makes an error that another try does not mend.
func failf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Detail: fmt.Sprintf(format, args...)}
}

// passing marks the error as one that may pass.
func (e *Error) passing() *Error {
	e.again = true
	return e
}

// ended is the error for a caller's context that has ended.
func ended(ctx context.Context) *Error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return &Error{Kind: KindTimeout, Detail: "the time for the whole request or run is over", Err: cause}
	}
	return &Error{Kind: KindCancelled, Detail: "stopped: " + cause.Error(), Err: cause}
}
