package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"sync"
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

		// After a day a key is free.
		time.Sleep(api.IdempotencyTTL + time.Second)
		if _, again, err := begin(b, "k", 9); err != nil || again == nil {
			t.Errorf("a day later: %v", err)
		}
	})
}

// listing notes what is listed, and fails it when told to.
type listing struct {
	state.Store
	mu    sync.Mutex
	lists []string
	most  int
	fail  error
}

func (l *listing) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	entries, err := l.Store.List(ctx, prefix)
	l.lists, l.most = append(l.lists, prefix), max(l.most, len(entries))
	return entries, err
}

// TestOldAnswersAreForgotten: within an hour, a part at a time, and no request sees anything of it.
func TestOldAnswersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := state.NewMemory()
		store := &listing{Store: memory, fail: state.ErrUnavailable}
		s := newSharedAnswers(store, time.Minute)
		stop := s.start(t.Context(), discard())
		ask := func(n int, name string) {
			for i := range n {
				_, finish, err := s.Begin(t.Context(), fmt.Sprint(name, i), [32]byte{1})
				if err != nil {
					t.Fatal(err)
				}
				finish(&api.Answer{Status: 200, Header: http.Header{}})
			}
		}
		count := func() int {
			entries, err := memory.List(t.Context(), answersPrefix)
			if err != nil {
				t.Fatal(err)
			}
			return len(entries)
		}
		const many = 2000
		ask(many, "old")
		time.Sleep(2 * time.Hour)
		ask(10, "new")
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()

		time.Sleep(api.IdempotencyTTL - 2*time.Hour)
		if n := count(); n != many+10 {
			t.Errorf("%d answers after a day, want all", n)
		}
		store.mu.Lock()
		store.lists = nil
		store.mu.Unlock()
		time.Sleep(answersSweep + time.Second)
		if n := count(); n != 10 {
			t.Errorf("%d answers an hour later, want the new ones", n)
		}
		if err := stop(t.Context()); err != nil {
			t.Error(err)
		}
		slices.Sort(store.lists)
		if parts := slices.Compact(slices.Clone(store.lists)); len(parts) != answersParts || len(store.lists) > answersParts+1 {
			t.Errorf("%d parts listed in %d calls", len(parts), len(store.lists))
		}
		if part := regexp.MustCompile(`^idempotency/[0-9a-f]{2}/$`); !part.MatchString(store.lists[0]) || store.most > many/answersParts*3 {
			t.Errorf("listed %s, up to %d of %d answers", store.lists[0], store.most, many)
		}
	})
}

// TestAnswersEndWithTheApp: nobody looks for old answers in a store that has been closed.
func TestAnswersEndWithTheApp(t *testing.T) {
	a := openApp(t, "listen: 127.0.0.1:0\nstate: nats://"+natsServer(t).Addr().String()+"\n"+deadConfig[1:])
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	sweeping := func() bool {
		stacks := make([]byte, 1<<20)
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("sharedAnswers"))
	}
	if !sweeping() {
		t.Error("nobody looks for old answers")
	}
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sweeping() {
		t.Error("somebody still does")
	}
}
