package app

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/api"
	"ferry/internal/state"
)

func TestSharedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := state.NewMemory()
		a, b := newSharedAnswers(store, time.Minute), newSharedAnswers(store, time.Minute)
		begin := func(s *sharedAnswers, key string, print byte) (*api.Answer, func(*api.Answer), error) {
			return s.Begin(t.Context(), key, [32]byte{print})
		}
		_, finish, err := begin(a, "k", 1)
		if err != nil || finish == nil {
			t.Fatal(err)
		}
		if _, _, err := begin(b, "k", 2); !errors.Is(err, api.ErrKeyReused) {
			t.Errorf("another request under the key: %v", err)
		}
		// The other instance waits for the answer of the first, and gives it.
		go func() {
			time.Sleep(3 * time.Second)
			finish(&api.Answer{Status: 200, Header: http.Header{"X": {"y"}}, Body: []byte("done")})
		}()
		got, again, err := begin(b, "k", 1)
		if err != nil || again != nil || got == nil || got.Status != 200 || got.Header.Get("X") != "y" || string(got.Body) != "done" {
			t.Errorf("repeated on another instance: %+v, %v", got, err)
		}

		// What failed is tried again.
		_, finish, _ = begin(a, "failed", 1)
		finish(nil)
		if got, again, err := begin(b, "failed", 1); err != nil || again == nil || got != nil {
			t.Errorf("after a failure: %+v, %v", got, err)
		}

		// Whoever died while at it is waited for, for as long as a request may take.
		if _, _, err := begin(a, "dead", 1); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, again, err := begin(b, "dead", 1); err != nil || again == nil || time.Since(start) < time.Minute {
			t.Errorf("taken over after %s, %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := a.Begin(ctx, "dead", [32]byte{1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting in vain: %v", err)
		}

		// A large answer is not kept, but that it was given.
		_, finish, _ = begin(a, "large", 1)
		finish(&api.Answer{Status: 200, Header: http.Header{}, Body: make([]byte, answerMost+1)})
		if got, _, err := begin(b, "large", 1); err != nil || got == nil || got.Header != nil || got.Body != nil {
			t.Errorf("large: %+v, %v", got, err)
		}

		// After a day a key is free, and what is left of it is swept away.
		time.Sleep(api.IdempotencyTTL + time.Second)
		if _, again, err := begin(b, "k", 9); err != nil || again == nil {
			t.Errorf("a day later: %v", err)
		}
		if err := a.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := store.List(t.Context(), answersPrefix); err != nil || len(left) != 1 {
			t.Errorf("%d keys left, %v, want the new one", len(left), err)
		}
	})
}
