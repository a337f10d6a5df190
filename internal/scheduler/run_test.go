package scheduler

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/retry"
	"ferry/internal/state"
)

// asked waits as an upstream wants it.
func asked(ctx context.Context, d time.Duration) error {
	return retry.Do(ctx, retry.Policy{Retries: 1, MaxAfter: d}, func(context.Context) error { return retry.After(errors.New("429"), d) })
}

func TestRunsAreEnded(t *testing.T) {
	tests := []struct {
		name    string
		p       Pipeline
		run     func(ctx context.Context, info Info) (Outcome, error)
		after   time.Duration
		cause   error
		status  Status
		reason  string
		counted int64
		retryAt time.Duration
	}{
		{
			name: "stalled", p: Pipeline{Stall: 10 * time.Minute, Timeout: time.Hour}, after: 10 * time.Minute, cause: ErrStalled, status: Stalled,
			reason: "no progress for 10m0s; what it has committed stays, and the next run goes on from there",
		},
		{
			name: "stalled after progress", p: Pipeline{Stall: 10 * time.Minute}, after: 17 * time.Minute, cause: ErrStalled, status: Stalled, counted: 3,
			run: func(ctx context.Context, info Info) (Outcome, error) {
				time.Sleep(7 * time.Minute)
				info.Progress(Progress{Counters: Counters{Read: 3, Published: 3}})
				<-ctx.Done()
				return Outcome{}, ctx.Err()
			},
		},
		{
			name: "not while it waits for its turn", p: Pipeline{Stall: 10 * time.Minute}, after: 50 * time.Minute, cause: ErrStalled, status: Stalled, counted: 3,
			run: func(ctx context.Context, info Info) (Outcome, error) {
				go func() { // what was read before is committed meanwhile
					time.Sleep(time.Minute)
					info.Progress(Progress{Counters: Counters{Read: 3, Published: 3}})
				}()
				if err := retry.AwaitTurn(ctx, 40*time.Minute); err != nil {
					return Outcome{}, err
				}
				<-ctx.Done()
				return Outcome{}, ctx.Err()
			},
		},
		{
			name: "not while it waits as the upstream asked", p: Pipeline{Stall: 10 * time.Minute}, after: 50 * time.Minute, cause: ErrStalled, status: Stalled,
			run: func(ctx context.Context, _ Info) (Outcome, error) {
				_ = asked(ctx, 40*time.Minute)
				<-ctx.Done()
				return Outcome{}, ctx.Err()
			},
		},
		{
			name: "timeout in spite of such a wait", p: Pipeline{Stall: 10 * time.Minute, Timeout: time.Hour}, after: time.Hour, cause: ErrTimeout, status: Failed, retryAt: 90 * time.Minute,
			run: func(ctx context.Context, _ Info) (Outcome, error) { return Outcome{}, asked(ctx, 90*time.Minute) },
		},
		{
			name: "waits that nobody asked for", p: Pipeline{Stall: 10 * time.Minute}, after: 10 * time.Minute, cause: ErrStalled, status: Stalled,
			run: func(ctx context.Context, _ Info) (Outcome, error) {
				return Outcome{}, retry.Do(ctx, retry.Policy{Retries: -1}, func(context.Context) error { return errors.New("the queue is away") })
			},
		},
		{
			name: "timeout in spite of progress", p: Pipeline{Stall: 10 * time.Minute, Timeout: time.Hour}, after: time.Hour, cause: ErrTimeout, status: Failed,
			reason: "ran longer than its timeout of 1h0m0s; what it has committed stays, and the next run goes on from there",
			run: func(ctx context.Context, info Info) (Outcome, error) {
				for ctx.Err() == nil {
					info.Progress(Progress{})
					select {
					case <-time.After(time.Minute):
					case <-ctx.Done():
					}
				}
				return Outcome{Status: Failed, Reason: "context canceled"}, ctx.Err()
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var cause error
				run := tt.run
				if run == nil {
					run = takes(100 * time.Hour)
				}
				r := newRunner(t, func(ctx context.Context, info Info) (Outcome, error) {
					out, err := run(ctx, info)
					cause = context.Cause(ctx)
					return out, err
				})
				tt.p.Name = "orders"
				s := begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{tt.p}})
				run1, _, err := s.Trigger(t.Context(), "orders", "cli")
				if err != nil {
					t.Fatal(err)
				}
				got, err := s.Wait(t.Context(), run1.ID)
				if err != nil || got.Status != tt.status || tt.reason != "" && got.Reason != tt.reason || got.Published != tt.counted {
					t.Errorf("run = %+v, %v, want %s, %q", got, err, tt.status, tt.reason)
				}
				if !errors.Is(cause, tt.cause) {
					t.Errorf("cause = %v, want %v", cause, tt.cause)
				}
				if took := got.Ended.Sub(got.Started); took != tt.after {
					t.Errorf("ended after %s, want %s", took, tt.after)
				}
				if (got.RetryAt != nil) != (tt.retryAt > 0) || got.RetryAt != nil && !got.RetryAt.Equal(got.Started.Add(tt.retryAt)) {
					t.Errorf("retry at %v, want %s after the start", got.RetryAt, tt.retryAt)
				}
			})
		})
	}
}

func TestConclude(t *testing.T) {
	failure := errors.New("502 Bad Gateway")
	tests := []struct {
		name   string
		cause  error
		out    Outcome
		err    error
		status Status
		reason string
	}{
		{"success", nil, Outcome{}, nil, Succeeded, ""},
		{"success with a word", nil, Outcome{Status: Succeeded, Reason: "max_pages reached"}, nil, Succeeded, "max_pages reached"},
		{"done when it was being cancelled", ErrCancelled, Outcome{}, nil, Succeeded, ""},
		{"failure", nil, Outcome{}, failure, Failed, "502 Bad Gateway"},
		{"failure told better", nil, Outcome{Reason: "the API is down"}, failure, Failed, "the API is down"},
		{"success and an error", nil, Outcome{Status: Succeeded}, failure, Failed, "502 Bad Gateway"},
		{"fenced by the queue", nil, Outcome{Status: Fenced}, failure, Fenced, "502 Bad Gateway"},
		{"lease lost", ErrFenced, Outcome{}, failure, Fenced, ErrFenced.Error()},
		{"cancelled", ErrCancelled, Outcome{Status: Failed}, context.Canceled, Cancelled, ErrCancelled.Error()},
		{"stopping", ErrStopping, Outcome{}, context.Canceled, Cancelled, ErrStopping.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if status, reason := conclude(tt.cause, tt.out, tt.err); status != tt.status || reason != tt.reason {
				t.Errorf("conclude = %s, %q, want %s, %q", status, reason, tt.status, tt.reason)
			}
		})
	}
}

func TestTriggerJoinsTheRunUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRunner(t, takes(time.Minute))
		s := begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders"}, {Name: "users"}}})
		var wg sync.WaitGroup
		var mu sync.Mutex
		ids, starts := map[string]bool{}, 0
		for range 20 {
			wg.Go(func() {
				run, started, err := s.Trigger(t.Context(), "orders", "request")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				ids[run.ID] = true
				if started {
					starts++
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || starts != 1 {
			t.Errorf("%d runs, %d started, want one", len(ids), starts)
		}
		if _, started, err := s.Trigger(t.Context(), "users", "request"); err != nil || !started {
			t.Errorf("another pipeline cannot start: %v, %v", started, err)
		}
		pass(2 * time.Minute)
		if _, started, err := s.Trigger(t.Context(), "orders", "request"); err != nil || !started {
			t.Errorf("cannot start after the end: %v, %v", started, err)
		}
	})
}

func TestTriggerKeepsValuesButOutlivesItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		r := newRunner(t, func(ctx context.Context, info Info) (Outcome, error) {
			time.Sleep(time.Minute)
			return Outcome{Reason: ctx.Value(key{}).(string)}, ctx.Err()
		})
		s := begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders"}}})
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "trace"))
		run, _, err := s.Trigger(ctx, "orders", "request")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if run, err = s.Wait(t.Context(), run.ID); err != nil || run.Status != Succeeded || run.Reason != "trace" {
			t.Errorf("run = %+v, %v", run, err)
		}
	})
}

func TestWaitGivesUpWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := begin(t, Config{Runner: newRunner(t, takes(time.Hour)), Store: newMemory(), Pipelines: []Pipeline{{Name: "orders"}}})
		run, _, err := s.Trigger(t.Context(), "orders", "request")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		start := time.Now()
		if run, err = s.Wait(ctx, run.ID); err != nil || run.Status != Running || time.Since(start) != 30*time.Second {
			t.Errorf("run = %+v, %v after %s", run, err, time.Since(start))
		}
	})
}

func TestLiveProgress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		var updates []Run
		r := newRunner(t, func(ctx context.Context, info Info) (Outcome, error) {
			for i := range int64(100) { // ten a second
				info.Progress(Progress{Counters: Counters{Pages: i + 1, Read: 10 * (i + 1)}, TotalHint: 1000})
				time.Sleep(100 * time.Millisecond)
			}
			return Outcome{Counters: Counters{Pages: 100, Read: 1000, Published: 900, Dead: 100, RecordsOut: 900}}, nil
		})
		store := newMemory()
		s := begin(t, Config{Runner: r, Store: store, Pipelines: []Pipeline{{Name: "orders"}}, OnUpdate: func(r Run) {
			mu.Lock()
			defer mu.Unlock()
			updates = append(updates, r)
		}})
		run, _, err := s.Trigger(t.Context(), "orders", "request")
		if err != nil {
			t.Fatal(err)
		}
		pass(5*time.Second + 50*time.Millisecond)
		if run, err = s.Get(t.Context(), run.ID); err != nil || run.Read != 510 || run.TotalHint != 1000 || time.Since(run.LastProgress) > 100*time.Millisecond {
			t.Errorf("live run = %+v, %v", run, err)
		}
		if list, err := s.List(t.Context(), "", 10); err != nil || len(list) != 1 || list[0].Read != 510 {
			t.Errorf("list = %+v, %v", list, err)
		}
		if saved, err := (records{store}).run(t.Context(), "orders", run.ID); err != nil || saved.Read < 400 || saved.Status != Running {
			t.Errorf("for other instances: %+v, %v", saved, err)
		}
		if run, err = s.Wait(t.Context(), run.ID); err != nil || run.Published != 900 || run.Status != Succeeded {
			t.Errorf("ended run = %+v, %v", run, err)
		}
		pass(0)
		mu.Lock()
		defer mu.Unlock()
		if n := len(updates); n < 15 || n > 23 {
			t.Errorf("%d updates of a run of 10s, want about two a second", n)
		}
		if first, last := updates[0], updates[len(updates)-1]; first.Status != Running || last.Status != Succeeded || last.Published != 900 {
			t.Errorf("first update %+v, last %+v", first, last)
		}
		if !slices.IsSortedFunc(updates, func(a, b Run) int { return int(a.Read - b.Read) }) {
			t.Error("updates out of order")
		}
	})
}

func TestCancel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		r := newRunner(t, takes(30*time.Minute))
		s := begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders", Every: time.Hour}}})
		pass(time.Minute)
		st, err := s.State(t.Context(), "orders")
		if err != nil || st.State != "running" || !st.NextRun.Equal(start.Add(time.Hour)) {
			t.Fatalf("state = %+v, %v", st, err)
		}
		if _, err := s.Cancel(t.Context(), st.LastRun.ID); err != nil {
			t.Fatal(err)
		}
		run, err := s.Wait(t.Context(), st.LastRun.ID)
		if err != nil || run.Status != Cancelled || run.Reason != "cancelled on request" {
			t.Errorf("run = %+v, %v", run, err)
		}
		if again, err := s.Cancel(t.Context(), run.ID); err != nil || again.Status != Cancelled {
			t.Errorf("cancelling an ended run: %+v, %v", again, err)
		}
		pass(time.Hour) // not resumed before its next tick
		wantTimes(t, r, start, 0, 60)
	})
}

func TestPanicFailsOneRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRunner(t, func(_ context.Context, info Info) (Outcome, error) {
			if info.Pipeline == "orders" {
				panic("index out of range")
			}
			return Outcome{}, nil
		})
		s := begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders"}, {Name: "users"}}})
		run, _, err := s.Trigger(t.Context(), "orders", "request")
		if err != nil {
			t.Fatal(err)
		}
		if run, err = s.Wait(t.Context(), run.ID); err != nil || run.Status != Failed || !strings.Contains(run.Reason, "panic: index out of range") {
			t.Errorf("run = %+v, %v", run, err)
		}
		if run, _, err = s.Trigger(t.Context(), "users", "request"); err != nil {
			t.Fatal(err)
		}
		if run, err = s.Wait(t.Context(), run.ID); err != nil || run.Status != Succeeded {
			t.Errorf("the other pipeline: %+v, %v", run, err)
		}
	})
}

func TestUnknownNames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// A store that is particular about its keys.
		s := begin(t, Config{Runner: newRunner(t, nil), Store: state.NewMemory(), Pipelines: []Pipeline{{Name: "orders"}}})
		ctx := t.Context()
		_, _, trigger := s.Trigger(ctx, "x", "request")
		_, list := s.List(ctx, "x", 1)
		_, st := s.State(ctx, "x")
		for i, err := range []error{trigger, list, st, s.Pause(ctx, "x"), s.Resume(ctx, "x")} {
			if !errors.Is(err, ErrUnknownPipeline) {
				t.Errorf("call %d: err = %v, want ErrUnknownPipeline", i, err)
			}
		}
		for _, id := range []string{"x", "a/b", "", "foo:bar", "../mark/orders", "x//y", "a.", "ü"} { // of a key, or of none
			_, get := s.Get(ctx, id)
			_, wait := s.Wait(ctx, id)
			_, cancel := s.Cancel(ctx, id)
			for i, err := range []error{get, wait, cancel} {
				if !errors.Is(err, ErrUnknownRun) {
					t.Errorf("call %d of %q: err = %v, want ErrUnknownRun", i, id, err)
				}
			}
		}
	})
}
