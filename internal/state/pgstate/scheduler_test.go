package pgstate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/scheduler"
	"ferry/internal/state"
)

// ledger is what the instances' runs did, all together.
type ledger struct {
	mu      sync.Mutex
	starts  []time.Time
	fences  []uint64
	running int
}

func (l *ledger) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// runner is one instance's; a run takes as long as hold says.
type runner struct {
	*ledger
	t    *testing.T
	hold func(context.Context)
}

func (r *runner) Run(ctx context.Context, info scheduler.Info) (scheduler.Outcome, error) {
	r.note(func() {
		if r.running++; r.running > 1 {
			r.t.Errorf("%d runs at once", r.running)
		}
		if n := len(r.fences); n > 0 && info.Fence <= r.fences[n-1] {
			r.t.Errorf("fence %d after %d", info.Fence, r.fences[n-1])
		}
		r.fences = append(r.fences, info.Fence)
		r.starts = append(r.starts, info.Started)
	})
	defer r.note(func() { r.running-- })
	if r.hold != nil {
		r.hold(ctx)
	}
	return scheduler.Outcome{}, nil
}

// link is an instance's way to the store. Cut, nothing of the instance arrives any more, as if it had been killed.
type link struct {
	state.Store
	cut atomic.Bool
}

var errCut = errors.New("cut off")

func (l *link) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if l.cut.Load() {
		return 0, errCut
	}
	return l.Store.Put(ctx, key, value, rev)
}

func begin(t *testing.T, store state.Store, name string, r *runner) {
	t.Helper()
	s, err := scheduler.New(scheduler.Config{
		Store: store, Instance: name, Runner: r, LeaseTTL: 3 * time.Second,
		Pipelines: []scheduler.Pipeline{{Name: "orders", Every: time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil && !errors.Is(err, errCut) {
			t.Error(err)
		}
	})
}

// until waits for what the ledger will show.
func (l *ledger) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var yes bool
		l.note(func() { yes = holds() })
		if yes {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// TestSchedulers: five instances, one run for each tick.
func TestSchedulers(t *testing.T) {
	c := fresh(t)
	l := new(ledger)
	first := time.Now()
	for i := range 5 {
		begin(t, open(t, c), fmt.Sprint(i), &runner{ledger: l, t: t})
	}
	l.until(t, "eight runs", func() bool { return len(l.starts) >= 8 })
	l.note(func() {
		// Late is fine on a busy machine. Early means that a tick before was run twice.
		for i, at := range l.starts {
			if tick := first.Add(time.Duration(i) * time.Second); at.Before(tick.Truncate(time.Millisecond)) {
				t.Errorf("run %d started %s before its tick", i, tick.Sub(at))
			}
		}
	})
}

// TestTakeover: an instance goes away in the middle of a run, and another one runs the pipeline after the lease's time,
// not before.
func TestTakeover(t *testing.T) {
	c := fresh(t)
	l := new(ledger)
	mine := &link{Store: open(t, c)}
	gone := make(chan time.Time, 1)
	begin(t, mine, "a", &runner{ledger: l, t: t, hold: func(ctx context.Context) {
		mine.cut.Store(true)
		gone <- time.Now()
		<-ctx.Done() // the lease was lost
	}})
	t.Cleanup(func() { mine.cut.Store(false) }) // for its stop
	went := <-gone
	begin(t, open(t, c), "b", &runner{ledger: l, t: t})
	l.until(t, "the takeover", func() bool { return len(l.fences) > 1 })
	if after := time.Since(went); after < 2700*time.Millisecond { // the holder gives up a tenth early
		t.Errorf("taken over after %s", after)
	}
	l.until(t, "two more ticks", func() bool { return len(l.fences) > 3 })
}
