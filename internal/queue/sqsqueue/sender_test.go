package sqsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/queue"
)

// TestInFlight: requests of one message group follow each other; a standard queue's are on their way at once.
func TestInFlight(t *testing.T) {
	for parameters, most := range map[string]int{"": 1, "&group=key": 3, "&fifo=false": maxFlying} {
		f := newFake(t)
		q := open(t, parse(t, f.url(parameters)))
		var mu sync.Mutex
		groups, flying, seen := map[string]int{}, 0, 0
		f.on = func(op string, body []byte) answerTo {
			if op != "SendMessageBatch" {
				return answerTo{}
			}
			var in struct{ Entries []fakeEntry }
			if err := json.Unmarshal(body, &in); err != nil {
				t.Error(err)
			}
			mine := map[string]bool{}
			for _, e := range in.Entries {
				mine[e.MessageGroupId] = true
			}
			mu.Lock()
			flying++
			seen = max(seen, flying)
			for g := range mine {
				if groups[g]++; groups[g] > 1 && g != "" {
					t.Errorf("two requests of group %s at once", g)
				}
			}
			mu.Unlock()
			<-time.After(2 * time.Millisecond) // so that others would come meanwhile
			mu.Lock()
			defer mu.Unlock()
			flying--
			for g := range mine {
				groups[g]--
			}
			return answerTo{}
		}
		if err := q.Publish(t.Context(), "orders", numbered(0, 400)); err != nil {
			t.Fatal(err)
		}
		if seen > most || most > 3 && seen < 2 {
			t.Errorf("%q: %d requests at once, want up to %d", parameters, seen, most)
		}
	}
}

// TestGroupCommit: while a request is on its way the next one fills.
func TestGroupCommit(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("")))
	if err := q.Publish(t.Context(), "orders", numbered(0, 1)); err != nil {
		t.Fatal(err)
	}
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	f.on = func(op string, _ []byte) answerTo {
		if op == "SendMessageBatch" {
			held <- struct{}{}
			<-hold
		}
		return answerTo{}
	}
	var wg sync.WaitGroup
	publish := func(i int) {
		wg.Go(func() {
			if err := q.Publish(t.Context(), "orders", numbered(i, i+1)); err != nil {
				t.Error(err)
			}
		})
	}
	publish(1)
	<-held
	s := &q.topics["orders"].sender
	for i := range 40 {
		publish(100 + i)
	}
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.lanes["orders"].items) == 40
	})
	close(hold)
	wg.Wait()
	if n := f.count("SendMessageBatch"); n != 1+1+4 {
		t.Errorf("%d requests for 42 calls, want 6", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lanes) != 0 || s.waiting != 0 || s.flying != 0 || len(s.ready) != 0 {
		t.Errorf("left over: %d lanes, %d waiting, %d flying, %d ready", len(s.lanes), s.waiting, s.flying, len(s.ready))
	}
}

// TestGather: a standard queue does not send a request for each call either, once two are on their way.
func TestGather(t *testing.T) {
	f := newFake(t)
	q := open(t, parse(t, f.url("&fifo=false")))
	if err := q.Prepare(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	f.on = func(op string, _ []byte) answerTo {
		if op == "SendMessageBatch" {
			<-hold
		}
		return answerTo{}
	}
	var wg sync.WaitGroup
	for i := range eager + 4*maxEntries {
		wg.Go(func() {
			if err := q.Publish(t.Context(), "orders", numbered(i, i+1)); err != nil {
				t.Error(err)
			}
		})
	}
	s := &q.topics["orders"].sender
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.flying >= eager+4 && s.waiting == 0
	})
	close(hold)
	wg.Wait()
	if n := f.count("SendMessageBatch"); n != eager+4 {
		t.Errorf("%d requests, want %d", n, eager+4)
	}
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
		<-time.After(time.Millisecond)
	}
}

// TestCallerGivesUp: a request that hangs holds its caller no longer than the caller wants, and then closes.
func TestCallerGivesUp(t *testing.T) {
	f := newFake(t)
	c := parse(t, f.url(""))
	q := open(t, c)
	if err := q.Prepare(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	hold, held := make(chan struct{}), make(chan struct{}, 10)
	f.on = func(op string, _ []byte) answerTo {
		if op == "SendMessageBatch" {
			held <- struct{}{}
			<-hold
		}
		return answerTo{}
	}
	defer close(hold)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- q.Publish(ctx, "orders", numbered(0, 12)) }()
	<-held
	waits, leave := context.WithCancel(t.Context())
	go func() { done <- q.Publish(waits, "orders", numbered(50, 51)) }()
	s := &q.topics["orders"].sender
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.lanes["orders"].items) == 3
	})
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "nothing written") {
		t.Errorf("the one that waited: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "outcome unknown") {
		t.Errorf("the one under way: %v", err)
	}
	short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := q.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closing with a request under way: %v", err)
	}
	if err := q.Publish(t.Context(), "orders", numbered(0, 1)); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("publish after the close: %v", err)
	}
}
