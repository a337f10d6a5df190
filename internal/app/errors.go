package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ferry/internal/api"
	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/retry"
	"ferry/internal/scheduler"
	"ferry/internal/source"
	"ferry/internal/state"
)

// EnvironmentError is a failure of what ferry stands on, not of its configuration: a port, a folder, a queue.
type EnvironmentError struct{ Err error }

func (e *EnvironmentError) Error() string { return e.Err.Error() }
func (e *EnvironmentError) Unwrap() error { return e.Err }

// PipelineError is a pipeline that cannot be made of its configuration, which holds by itself: what is wrong shows only
// when its parts are put together.
type PipelineError struct {
	File, Pipeline string
	Err            error
}

func (e *PipelineError) Error() string {
	at := "pipeline " + e.Pipeline
	if e.File != "" {
		at = e.File + ": " + at
	}
	return at + ": " + e.Err.Error()
}
func (e *PipelineError) Unwrap() error { return e.Err }

// unreachable adds to an error of connecting what the configuration has to do with it. What is wrong for good says so
// itself.
func unreachable(key string, url config.URL, err error) error {
	if !errors.Is(err, queue.ErrUnavailable) && !errors.Is(err, state.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w\n  hint: is %s up, and is that the right address? It comes from the key %s", err, url, key)
}

// problem says to a caller of the API what an error of the rooms below means.
func problem(err error) error {
	if err == nil {
		return nil
	}
	var known *api.Error
	if errors.As(err, &known) {
		return err
	}
	as := func(code api.Code, after time.Duration) error {
		return &api.Error{Code: code, Detail: err.Error(), RetryAfter: after, Err: err}
	}
	var src *source.Error
	var after *retry.AfterError
	switch {
	case errors.As(err, &src):
		switch src.Kind {
		case source.KindRateLimited:
			return as(api.CodeRateLimited, max(time.Until(src.RetryAt), time.Second))
		case source.KindTimeout:
			return as(api.CodeTimeout, 0)
		case source.KindPush:
			return &api.Error{Code: api.CodeInvalid, Detail: src.Detail, Err: err}
		}
		return as(api.CodeUpstream, 0)
	case errors.As(err, &after):
		return as(api.CodeRateLimited, after.Wait)
	case errors.Is(err, queue.ErrNoTopic):
		return as(api.CodeNotFound, 0)
	case errors.Is(err, queue.ErrReceipt), errors.Is(err, errors.ErrUnsupported):
		return as(api.CodeInvalid, 0)
	case errors.Is(err, queue.ErrFenced):
		return as(api.CodeConflict, 0)
	case errors.Is(err, queue.ErrFull):
		return as(api.CodeQueueFull, 5*time.Second)
	case errors.Is(err, queue.ErrClosed):
		return as(api.CodeStopping, time.Second)
	case errors.Is(err, queue.ErrUnavailable):
		return as(api.CodeQueue, 2*time.Second)
	case errors.Is(err, state.ErrUnavailable):
		return as(api.CodeNotReady, 2*time.Second)
	case errors.Is(err, context.DeadlineExceeded):
		return as(api.CodeTimeout, 0)
	}
	return err
}

// conclude says how a run ended, from the error it ended with.
func conclude(err error) scheduler.Outcome {
	var out scheduler.Outcome
	if err == nil {
		return out
	}
	out.Status, out.Reason = scheduler.Failed, err.Error()
	var src *source.Error
	var after *retry.AfterError
	switch {
	case errors.Is(err, queue.ErrFenced):
		out.Status = scheduler.Fenced
	case errors.As(err, &src) && src.Kind == source.KindRateLimited:
		out.Status, out.RetryAt = scheduler.RateLimited, src.RetryAt
	case errors.As(err, &after):
		out.Status, out.RetryAt = scheduler.RateLimited, after.At
	}
	return out
}

// discard is a logger that says nothing.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
