package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
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

// TestTopicsThatCannotBe: where the queue can have no topic of a name, there is none to look at, take from or acknowledge.
func TestTopicsThatCannotBe(t *testing.T) {
	a := openApp(t, `
data: %s
pipelines:
  p: {source: {push: true}}
`)
	for _, topic := range []string{"a b", "ferry", "hook:1", "hook.", "ü", "$JS", ""} {
		_, looked := a.Topic(t.Context(), topic)
		_, browsed := a.Browse(t.Context(), topic, 0, 1)
		_, received := a.Receive(t.Context(), topic, 1, 0)
		for what, err := range map[string]error{
			"look": looked, "browse": browsed, "receive": received,
			"ack": a.Ack(t.Context(), topic, []string{"r"}), "nack": a.Nack(t.Context(), topic, []string{"r"}),
		} {
			var got *api.Error
			if !errors.As(err, &got) || got.Code != api.CodeNotFound || !strings.Contains(got.Detail, strconv.Quote(topic)) {
				t.Errorf("%s of topic %q: %v, want not found, and the name", what, topic, err)
			}
		}
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
