package app

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/queue"
	"ferry/internal/retry"
	"ferry/internal/scheduler"
	"ferry/internal/source"
)

func TestProblem(t *testing.T) {
	later := time.Now().Add(time.Minute)
	tests := []struct {
		err  error
		code api.Code
		wait bool
	}{
		{&source.Error{Kind: source.KindContent, Detail: "HTML"}, api.CodeUpstream, false},
		{&source.Error{Kind: source.KindTimeout}, api.CodeTimeout, false},
		{&source.Error{Kind: source.KindRateLimited, RetryAt: later}, api.CodeRateLimited, true},
		{retry.After(errors.New("busy"), time.Minute), api.CodeRateLimited, true},
		{queue.ErrNoTopic, api.CodeNotFound, false},
		{queue.ErrReceipt, api.CodeInvalid, false},
		{errors.ErrUnsupported, api.CodeInvalid, false},
		{queue.ErrFenced, api.CodeConflict, false},
		{queue.ErrFull, api.CodeQueueFull, true},
		{queue.ErrUnavailable, api.CodeQueue, true},
		{queue.ErrClosed, api.CodeStopping, true},
		{context.DeadlineExceeded, api.CodeTimeout, false},
		{&api.Error{Code: api.CodeDead}, api.CodeDead, false},
	}
	for _, tt := range tests {
		t.Run(string(tt.code), func(t *testing.T) {
			var got *api.Error
			err := problem(fmt.Errorf("publish: %w", tt.err))
			if !errors.As(err, &got) || got.Code != tt.code || (got.RetryAfter > 0) != tt.wait {
				t.Errorf("problem(%v) = %+v, want %s, with a wait: %v", tt.err, err, tt.code, tt.wait)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("problem(%v) hides its cause", tt.err)
			}
		})
	}
	if plain := errors.New("x"); problem(plain) != plain || problem(nil) != nil {
		t.Error("what is not known is passed on as it is")
	}
}

func TestConclude(t *testing.T) {
	at := time.Now().Add(time.Hour)
	tests := []struct {
		err    error
		status scheduler.Status
		retry  bool
	}{
		{nil, "", false},
		{errors.New("x"), scheduler.Failed, false},
		{queue.ErrFenced, scheduler.Fenced, false},
		{&source.Error{Kind: source.KindRateLimited, RetryAt: at}, scheduler.RateLimited, true},
		{&source.Error{Kind: source.KindLoop}, scheduler.Failed, false},
	}
	for _, tt := range tests {
		err := tt.err
		if err != nil {
			err = fmt.Errorf("read source: %w", err)
		}
		got := conclude(err)
		if got.Status != tt.status || !got.RetryAt.IsZero() != tt.retry || (got.Reason == "") != (tt.err == nil) {
			t.Errorf("conclude(%v) = %+v", tt.err, got)
		}
	}
}
