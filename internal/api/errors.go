package api

import (
	"fmt"
	"time"
)

// A Code names a kind of failure; the table in problem.go gives each its status, type and title.
type Code string

const (
	CodeInvalid      Code = "invalid-request"   // 400/422: what was sent
	CodeUnauthorized Code = "unauthorized"      // 401
	CodeForbidden    Code = "forbidden"         // 403
	CodeNotFound     Code = "not-found"         // 404: no such pipeline, run, topic
	CodeConflict     Code = "conflict"          // 409: a run is under way, an Idempotency-Key reused otherwise
	CodeTooLarge     Code = "too-large"         // 413
	CodeUpstream     Code = "upstream-failed"   // 502: the third-party API failed or answered nonsense
	CodeRateLimited  Code = "rate-limited"      // 503 + Retry-After: the upstream asks to wait
	CodeTimeout      Code = "upstream-timeout"  // 504
	CodeQueue        Code = "queue-unavailable" // 503
	CodeQueueFull    Code = "queue-full"        // 503
	CodeOverloaded   Code = "overloaded"        // 503 + Retry-After: too much in flight
	CodeStopping     Code = "stopping"          // 503: this instance is shutting down
	CodeDead         Code = "dead-lettered"     // 422: the fetched record was put among the dead letters
	CodeInternal     Code = "internal"          // 500
)

// Error is a failure that a caller can be told of. Detail is for the caller and holds no secret (invariant 8).
type Error struct {
	Code       Code
	Detail     string
	RetryAfter time.Duration // when > 0, sent as Retry-After
	Err        error         // for the log, not for the caller
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}
func (e *Error) Unwrap() error { return e.Err }
