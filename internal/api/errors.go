package api

import (
	"fmt"
	"time"
)

// A Code names a kind of failure; the table in problem.go gives each its status, title and meaning. Codes are stable:
// callers compare them, as the last part of a problem's type.
type Code string

// What a Service may say.
const (
	CodeInvalid     Code = "invalid-request"   // 422: what was sent breaks a rule
	CodeNotFound    Code = "not-found"         // 404: no such pipeline, run, topic
	CodeConflict    Code = "conflict"          // 409: does not fit the present state
	CodeDead        Code = "dead-lettered"     // 422: the fetched record was put among the dead letters
	CodeUpstream    Code = "upstream-failed"   // 502: the third-party API failed or answered nonsense
	CodeTimeout     Code = "upstream-timeout"  // 504
	CodeRateLimited Code = "rate-limited"      // 503 + Retry-After: the upstream asks to wait
	CodeQueue       Code = "queue-unavailable" // 503
	CodeQueueFull   Code = "queue-full"        // 503
	CodeOverloaded  Code = "overloaded"        // 503 + Retry-After: too much in flight
	CodeStopping    Code = "stopping"          // 503: this instance is shutting down
	CodeNotReady    Code = "not-ready"         // 503: this instance cannot serve yet
	CodeInternal    Code = "internal"          // 500
)

// What the handlers say by themselves.
const (
	CodeMalformed     Code = "malformed-request"      // 400: not JSON, no body, a bad header
	CodeUnauthorized  Code = "unauthorized"           // 401
	CodeForbidden     Code = "forbidden"              // 403: the key's role does not reach
	CodeOriginRefused Code = "origin-refused"         // 403: another site's page, or a foreign Host
	CodeNoRoute       Code = "no-such-address"        // 404: the API has no such path
	CodeMethod        Code = "method-not-allowed"     // 405
	CodeSlowClient    Code = "request-timeout"        // 408: the body came too slowly
	CodeTooLarge      Code = "too-large"              // 413
	CodeMediaType     Code = "unsupported-media-type" // 415
	CodeKeyReused     Code = "idempotency-key-reused" // 422: with another request
)

// Error is a failure that a caller can be told of. Detail is for the caller and holds no secret (invariant 8).
type Error struct {
	Code       Code
	Detail     string
	RetryAfter time.Duration // when > 0, sent as Retry-After
	Err        error         // for the log, not for the caller
}

func (e *Error) Error() string {
	if e.Err != nil && e.Err.Error() != e.Detail {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}
func (e *Error) Unwrap() error { return e.Err }
