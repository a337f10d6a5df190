package source

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// fakeTurns counts how often it is asked, and fails for a while.
type fakeTurns struct {
	mu    sync.Mutex
	free  time.Time
	asked int
	fail  int
}

func (f *fakeTurns) Reserve(_ context.Context, _ string, n int, interval time.Duration) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.fail > 0 {
		f.fail--
		return time.Time{}, errors.New("the store is away")
	}
	first := time.Now()
	if f.free.After(first) {
		first = f.free
	}
	f.free = first.Add(time.Duration(n) * interval)
	return first, nil
}

func TestShare(t *testing.T) {
	for name, tt := range map[string]struct {
		rate   rate.Limit
		n      int
		took   time.Duration
		asked  int
		failed int
	}{
		"slow: each turn is agreed on":      {rate: 10, n: 21, took: 2 * time.Second, asked: 21},
		"fast: several at once":             {rate: 1000, n: 1000, took: 999 * time.Millisecond, asked: 20},
		"nobody goes ahead without a store": {rate: 10, n: 2, failed: 3, asked: 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := &fakeTurns{fail: tt.failed}
				s := &share{turns: turns, host: "h", lock: make(chan struct{}, 1)}
				begin := time.Now()
				for range tt.n {
					if err := s.wait(t.Context(), tt.rate); err != nil {
						t.Fatal(err)
					}
				}
				if took := time.Since(begin); tt.failed == 0 && took != tt.took || turns.asked != tt.asked {
					t.Errorf("%d turns took %s and were asked for %d times, want %s and %d", tt.n, took, turns.asked, tt.took, tt.asked)
				}
			})
		})
	}
	t.Run("a context ends the wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &share{turns: &fakeTurns{fail: 1000}, host: "h", lock: make(chan struct{}, 1)}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := s.wait(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	})
}
