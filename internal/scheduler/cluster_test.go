package scheduler

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/state"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// instance is one of several schedulers over one store, which can be killed.
type instance struct {
	*Scheduler
	link   *dying
	runner *fakeRunner
}

func startInstance(t *testing.T, store state.Store, name string, run func(context.Context, Info) (Outcome, error), ps ...Pipeline) *instance {
	t.Helper()
	link := &dying{Store: store}
	r := newRunner(t, run)
	s := begin(t, Config{Runner: r, Store: link, Instance: name, Pipelines: ps})
	return &instance{s, link, r}
}

func TestTwoInstancesRunEachTickOnce(t *testing.T) {
	for name, took := range map[string]time.Duration{"runs that take no time": 0, "runs that take time": 20 * time.Second, "runs longer than the lease": 50 * time.Second} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newMemory()
				ps := []Pipeline{{Name: "orders", Every: time.Minute}, {Name: "users", Cron: "* * * * *"}}
				a := startInstance(t, store, "a", takes(took), ps...)
				b := startInstance(t, store, "b", takes(took), ps...)
				pass(99*time.Minute + 59*time.Second)

				ticks := map[string]int{}
				for _, i := range []*instance{a, b} {
					for _, info := range i.runner.starts {
						ticks[info.Pipeline+info.Started.Truncate(time.Minute).Format(" 15:04")]++
						if late := info.Started.Sub(info.Started.Truncate(time.Minute)); late != 0 {
							t.Errorf("%s started %s late", info.Pipeline, late)
						}
					}
				}
				if want := 100 + 99; len(ticks) != want { // users has no tick at the start
					t.Errorf("%d ticks were run, want %d", len(ticks), want)
				}
				for tick, n := range ticks {
					if n != 1 {
						t.Errorf("tick %s was run %d times", tick, n)
					}
				}
			})
		})
	}
}

func TestFencesGrowOverInstances(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		a := startInstance(t, store, "a", nil, Pipeline{Name: "orders"})
		b := startInstance(t, store, "b", nil, Pipeline{Name: "orders"})
		var last uint64
		for n := range 20 {
			i := []*instance{a, b}[n%2]
			if _, started, err := i.Trigger(t.Context(), "orders", "request"); err != nil || !started {
				t.Fatal(started, err)
			}
			pass(time.Second)
			if fence := i.runner.starts[n/2].Fence; fence <= last {
				t.Fatalf("run %d has fence %d after %d", n, fence, last)
			} else {
				last = fence
			}
		}
	})
}

func TestKilledInstanceIsTakenOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		store := newMemory()
		p := Pipeline{Name: "orders", Every: time.Hour}
		a := startInstance(t, store, "a", takes(20*time.Minute), p)
		pass(time.Second)
		b := startInstance(t, store, "b", takes(20*time.Minute), p)
		pass(10 * time.Minute)
		if a.runner.count() != 1 || b.runner.count() != 0 {
			t.Fatalf("a ran %d, b %d, want a to run", a.runner.count(), b.runner.count())
		}
		a.link.kill()
		pass(DefaultTTL + DefaultTTL/3 + time.Second)
		if b.runner.count() != 1 {
			t.Fatal("b did not take the cut-off run over")
		}
		pass(30 * time.Minute)
		runs, err := b.List(t.Context(), "orders", 10)
		if err != nil || len(runs) != 2 {
			t.Fatalf("runs = %+v, %v", runs, err)
		}
		if r := runs[1]; r.Status != Failed || r.Instance != "a" || r.Ended == nil || !strings.Contains(r.Reason, "instance a went away") {
			t.Errorf("the cut-off run = %+v", r)
		}
		if r := runs[0]; r.Status != Succeeded || r.Instance != "b" || r.Trigger != "schedule" {
			t.Errorf("the run after it = %+v", r)
		}
		pass(2 * time.Hour)
		times := b.runner.times(start)
		if len(times) != 3 || times[1] != time.Hour || times[2] != 2*time.Hour {
			t.Errorf("b ran at %v, want the old grid after the takeover", times)
		}
	})
}

// A run whose lease is gone is told so, and keeps its hands off the new owner's records.
func TestRunWithoutLeaseIsFenced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		var cause error
		slow := func(ctx context.Context, _ Info) (Outcome, error) {
			<-ctx.Done()
			cause = context.Cause(ctx)
			time.Sleep(time.Minute) // a commit that takes its time to give up
			return Outcome{}, ctx.Err()
		}
		a := startInstance(t, store, "a", slow, Pipeline{Name: "orders", Every: time.Hour})
		pass(time.Second)
		b := startInstance(t, store, "b", takes(10*time.Minute), Pipeline{Name: "orders", Every: time.Hour})
		a.link.kill()
		pass(DefaultTTL + DefaultTTL/3)
		if !errors.Is(cause, ErrFenced) {
			t.Errorf("cause = %v, want ErrFenced", cause)
		}
		a.link.mu.Lock()
		a.link.dead = false // the network is back while b runs
		a.link.mu.Unlock()
		pass(2 * time.Minute)
		st, err := b.State(t.Context(), "orders")
		if err != nil || st.State != "running" || st.LastRun.Instance != "b" {
			t.Errorf("state = %+v, %v, want b's run", st, err)
		}
		runs, err := a.List(t.Context(), "orders", 10)
		if err != nil || len(runs) != 2 || runs[1].Status != Fenced || runs[1].Reason != ErrFenced.Error() {
			t.Errorf("runs = %+v, %v, want the older one fenced", runs, err)
		}
		pass(8 * time.Minute)
		if n := a.runner.count() + b.runner.count(); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}
	})
}

// A store that is away for longer than a lease lives ends the run; nobody else could take it over, so it goes on here.
func TestRunFencedByAnOutageGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		a := startInstance(t, store, "a", takes(30*time.Minute), Pipeline{Name: "orders", Every: 2 * time.Hour})
		pass(10 * time.Minute)
		store.set(func(m *memory) { m.fail = errStore })
		pass(DefaultTTL) // back in time for the end to be put on record
		store.set(func(m *memory) { m.fail = nil })
		pass(5 * time.Minute)
		if a.runner.count() != 2 {
			t.Errorf("%d runs, want a second one soon after the store's return", a.runner.count())
		}
		pass(time.Hour)
		runs, err := a.List(t.Context(), "orders", 10)
		if err != nil || len(runs) != 2 || runs[0].Status != Succeeded || runs[1].Status != Fenced {
			t.Errorf("runs = %+v, %v", runs, err)
		}
	})
}

// Two instances are asked again and again for runs that take next to no time: every caller gets a run.
// Where nobody else can reach the store, an outage does not end the run, however long.
func TestSoleRunOutlastsAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		r := newRunner(t, takes(30*time.Minute))
		s := begin(t, Config{Pipelines: []Pipeline{{Name: "orders", Every: 2 * time.Hour}}, Runner: r, Store: store, Instance: "local", Sole: true})
		pass(time.Minute)
		store.set(func(m *memory) { m.fail = errStore })
		pass(20 * time.Minute)
		store.set(func(m *memory) { m.fail = nil })
		pass(time.Hour)
		runs, err := s.List(t.Context(), "orders", 10)
		if err != nil || len(runs) != 1 || runs[0].Status != Succeeded {
			t.Errorf("runs = %+v, %v, want one that succeeded", runs, err)
		}
	})
}

// An end that could not be put on record is put there before the next run starts, as it was, and is told once.
func TestEndThatCouldNotBeSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		var mu sync.Mutex
		ends := map[string]int{}
		s := begin(t, Config{
			Pipelines: []Pipeline{{Name: "orders", Every: 2 * time.Hour, Missed: MissedSkip}}, Runner: newRunner(t, takes(30*time.Minute)), Store: store,
			Instance: "local", Sole: true, OnUpdate: func(r Run) {
				if r.Ended != nil {
					mu.Lock()
					defer mu.Unlock()
					ends[r.ID]++
				}
			},
		})
		pass(time.Minute)
		store.set(func(m *memory) { m.fail = errStore })
		pass(time.Hour) // the run ends meanwhile
		store.set(func(m *memory) { m.fail = nil })
		pass(2 * time.Hour)
		runs, err := s.List(t.Context(), "orders", 10)
		if err != nil || len(runs) != 2 || runs[1].Status != Succeeded || runs[1].Reason != "" || runs[1].Ended.Sub(runs[1].Started) != 30*time.Minute {
			t.Errorf("runs = %+v, %v, want the first as it ended", runs, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for id, n := range ends {
			if n != 1 {
				t.Errorf("the end of run %s was told %d times", id, n)
			}
		}
	})
}

func TestManyShortRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		ps := []Pipeline{{Name: "orders"}}
		a := startInstance(t, store, "a", takes(10*time.Millisecond), ps...)
		b := startInstance(t, store, "b", takes(10*time.Millisecond), ps...)
		var wg sync.WaitGroup
		for n := range 200 {
			i := []*instance{a, b}[n%2]
			wg.Go(func() {
				if run, _, err := i.Trigger(t.Context(), "orders", "request"); err != nil || run.ID == "" {
					t.Errorf("run %+v, %v", run, err)
				}
			})
			time.Sleep(3 * time.Millisecond)
		}
		wg.Wait()
	})
}

func TestOtherInstancesSeeAndSteerARun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		ps := []Pipeline{{Name: "orders"}}
		a := startInstance(t, store, "a", func(ctx context.Context, info Info) (Outcome, error) {
			for n := int64(1); ctx.Err() == nil; n++ {
				info.Progress(Progress{Counters: Counters{Pages: n}})
				time.Sleep(time.Second)
			}
			return Outcome{}, ctx.Err()
		}, ps...)
		b := startInstance(t, store, "b", nil, ps...)
		run, started, err := a.Trigger(t.Context(), "orders", "request")
		if err != nil || !started {
			t.Fatal(started, err)
		}
		joined, started, err := b.Trigger(t.Context(), "orders", "request")
		if err != nil || started || joined.ID != run.ID {
			t.Errorf("joined %+v, started %v, %v, want run %s", joined, started, err, run.ID)
		}
		pass(time.Minute)
		seen, err := b.Get(t.Context(), run.ID)
		if err != nil || seen.Status != Running || seen.Pages < 50 {
			t.Errorf("seen from b: %+v, %v", seen, err)
		}
		if st, err := b.State(t.Context(), "orders"); err != nil || st.State != "running" {
			t.Errorf("state from b = %+v, %v", st, err)
		}
		if _, err := b.Cancel(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if run, err = b.Wait(t.Context(), run.ID); err != nil || run.Status != Cancelled {
			t.Errorf("run = %+v, %v", run, err)
		}
		if took := time.Since(start); took > saveEvery+2*time.Second {
			t.Errorf("cancelling over the store took %s", took)
		}
		if left, _ := store.List(t.Context(), prefixStop); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// However a run ends that somebody wants cancelled, the wish ends with it.
func TestNoWishToCancelIsLeftBehind(t *testing.T) {
	tests := []struct {
		name   string
		during func(a *instance, store *memory) // after the wish
		status Status
	}{
		{"ended by itself", func(*instance, *memory) {}, Succeeded},
		{"killed", func(a *instance, _ *memory) { a.link.kill() }, Failed},
		{"killed before it was on record", func(a *instance, store *memory) {
			a.link.kill()
			store.set(func(m *memory) {
				maps.DeleteFunc(m.entries, func(key string, _ state.Entry) bool { return strings.HasPrefix(key, prefixRuns) })
			})
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newMemory()
				a := startInstance(t, store, "a", takes(saveEvery-time.Second), Pipeline{Name: "orders"})
				run, _, err := a.Trigger(t.Context(), "orders", "request")
				if err != nil {
					t.Fatal(err)
				}
				b := startInstance(t, store, "b", nil, Pipeline{Name: "orders"})
				pass(time.Second)
				if _, err := b.Cancel(t.Context(), run.ID); err != nil {
					t.Fatal(err)
				}
				tt.during(a, store)
				pass(time.Minute + 2*DefaultTTL)
				if got, err := b.Get(t.Context(), run.ID); tt.status != "" && (err != nil || got.Status != tt.status) {
					t.Errorf("run = %+v, %v, want %s", got, err, tt.status)
				}
				if left, _ := store.List(t.Context(), prefixStop); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// The run ends between the look at it and the wish.
func TestTheWishToCancelComesTooLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		a := startInstance(t, store, "a", takes(time.Second), Pipeline{Name: "orders"})
		run, _, err := a.Trigger(t.Context(), "orders", "request")
		if err != nil {
			t.Fatal(err)
		}
		b := startInstance(t, store, "b", nil, Pipeline{Name: "orders"})
		b.link.delay = func(key string) {
			if strings.HasPrefix(key, prefixStop) {
				pass(2 * time.Second)
			}
		}
		if got, err := b.Cancel(t.Context(), run.ID); err != nil || got.Status != Succeeded {
			t.Errorf("run = %+v, %v, want it as it has ended", got, err)
		}
		if left, _ := store.List(t.Context(), prefixStop); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func TestStopEndsRunsAndTheNextGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		p := Pipeline{Name: "orders", Every: time.Hour}
		commit := func(ctx context.Context, _ Info) (Outcome, error) {
			<-ctx.Done()
			time.Sleep(3 * time.Second) // to the next commit
			return Outcome{Counters: Counters{Pages: 1}}, context.Cause(ctx)
		}
		a := startInstance(t, store, "a", commit, p)
		pass(10 * time.Minute)
		start := time.Now()
		stop(t, a.Scheduler)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("stop took %s, want the 3s to the next commit", took)
		}
		if _, _, err := a.Trigger(t.Context(), "orders", "request"); !errors.Is(err, ErrStopping) {
			t.Errorf("trigger after stop: %v, want ErrStopping", err)
		}
		stop(t, a.Scheduler) // again: nothing happens

		b := startInstance(t, store, "b", takes(time.Minute), p)
		pass(time.Second)
		runs, err := b.List(t.Context(), "orders", 10)
		if err != nil || len(runs) != 2 || runs[0].Status != Running || runs[1].Status != Cancelled || runs[1].Reason != "ferry is stopping" || runs[1].Pages != 1 {
			t.Errorf("runs = %+v, %v, want a's cancelled and b's under way at once", runs, err)
		}
	})
}

func TestStoppedRunOfAPersonIsNotResumed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		a := startInstance(t, store, "a", takes(time.Hour), Pipeline{Name: "orders"})
		if _, _, err := a.Trigger(t.Context(), "orders", "cli"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		stop(t, a.Scheduler)
		b := startInstance(t, store, "b", nil, Pipeline{Name: "orders"})
		pass(time.Hour)
		if b.runner.count() != 0 {
			t.Error("a pipeline without a schedule ran by itself")
		}
	})
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		free := make(chan struct{})
		a := startInstance(t, newMemory(), "a", func(context.Context, Info) (Outcome, error) { <-free; return Outcome{}, nil }, Pipeline{Name: "orders"})
		if _, _, err := a.Trigger(t.Context(), "orders", "cli"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		err := a.Stop(ctx)
		if err == nil || !strings.HasPrefix(err.Error(), "stop scheduler: still running: orders: ") {
			t.Errorf("err = %v, want the pipeline's name", err)
		}
		close(free)
	})
}

func TestCutOffRunOfAPausedPipelineIsSettledOnly(t *testing.T) {
	for name, p := range map[string]Pipeline{"paused": {Every: time.Hour, Paused: true}, "no schedule": {}, "skip": {Every: time.Hour, Missed: MissedSkip}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p.Name = "orders"
				store := newMemory()
				a := startInstance(t, store, "local", takes(time.Hour), p)
				if _, _, err := a.Trigger(t.Context(), "orders", "request"); err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				a.link.kill()
				b := startInstance(t, store, "local", nil, p) // the same place, started again after a crash
				pass(time.Minute)
				runs, err := b.List(t.Context(), "", 10)
				if err != nil || len(runs) != 1 || runs[0].Status != Failed {
					t.Errorf("runs = %+v, %v, want the cut-off one on record as failed", runs, err)
				}
			})
		})
	}
}

// What the upstream has asked for holds over a crash in the run that a person started in the meantime.
func TestCutOffRunIsNotResumedBeforeRetryAt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		store := newMemory()
		retryAt := utc(start.Add(30 * time.Minute))
		prime(t, store, mark{Tick: utc(start), RetryAt: &retryAt})
		p := Pipeline{Name: "orders", Every: 20 * time.Minute}
		a := startInstance(t, store, "local", takes(time.Hour), p)
		if _, _, err := a.Trigger(t.Context(), "orders", "request"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		a.link.kill()
		b := startInstance(t, store, "local", nil, p)
		pass(45 * time.Minute)
		wantTimes(t, b.runner, start, 30, 40)
	})
}

// A run that is stopped while it waits as the upstream asked is gone on with when that wait is over: not before, and not
// only at the next tick.
func TestStoppedWaitIsGoneOnWith(t *testing.T) {
	for name, tt := range map[string]struct {
		p      Pipeline
		paused bool // at minute 20, resumed at minute 50
		want   []float64
	}{
		"once":   {Pipeline{Cron: "0 */6 * * *"}, false, []float64{41, 360}},
		"skip":   {Pipeline{Cron: "0 */6 * * *", Missed: MissedSkip}, false, []float64{360}},
		"paused": {Pipeline{Cron: "0 */6 * * *"}, true, []float64{360}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				start := time.Now()
				store := newMemory()
				tt.p.Name = "orders"
				a := startInstance(t, store, "local", func(ctx context.Context, _ Info) (Outcome, error) {
					return Outcome{}, asked(ctx, 40*time.Minute)
				}, tt.p)
				pass(time.Minute)
				run, _, err := a.Trigger(t.Context(), "orders", "request")
				if err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				stop(t, a.Scheduler)
				b := startInstance(t, store, "local", nil, tt.p)
				if run, err = b.Get(t.Context(), run.ID); err != nil || run.Status != Cancelled || run.RetryAt == nil {
					t.Errorf("run = %+v, %v, want it cancelled and the time to come back", run, err)
				}
				pass(18 * time.Minute)
				if tt.paused {
					if err := b.Pause(t.Context(), "orders"); err != nil {
						t.Fatal(err)
					}
					pass(30 * time.Minute)
					if err := b.Resume(t.Context(), "orders"); err != nil {
						t.Fatal(err)
					}
				}
				pass(time.Until(start.Add(6*time.Hour + time.Minute)))
				wantTimes(t, b.runner, start, tt.want...)
			})
		})
	}
}

func TestStoreOutageDelaysRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		store := newMemory()
		a := startInstance(t, store, "a", nil, Pipeline{Name: "orders", Every: time.Hour})
		pass(30 * time.Minute)
		store.set(func(m *memory) { m.fail = errStore })
		pass(40 * time.Minute)
		if _, _, err := a.Trigger(t.Context(), "orders", "request"); !errors.Is(err, errStore) {
			t.Errorf("err = %v, want the store's", err)
		}
		store.set(func(m *memory) { m.fail = nil })
		pass(5 * time.Minute)
		if times := a.runner.times(start); len(times) != 2 || times[1] < 70*time.Minute || times[1] > 72*time.Minute {
			t.Errorf("runs at %v, want the second soon after the store's return at 70m", times)
		}
		pass(50 * time.Minute)
		if times := a.runner.times(start); len(times) != 3 || times[2] != 2*time.Hour {
			t.Errorf("runs at %v, want the third on the grid", times)
		}
	})
}

func TestHalfAStartLeavesNothingBehind(t *testing.T) {
	for _, prefix := range []string{prefixRuns, prefixMark} {
		bubble(t, func(t *testing.T) {
			store := newMemory()
			a := startInstance(t, store, "a", nil, Pipeline{Name: "orders"})
			b := startInstance(t, store, "b", nil, Pipeline{Name: "orders"})
			pass(time.Second)
			store.set(func(m *memory) {
				m.veto = func(key string) error {
					if strings.HasPrefix(key, prefix) {
						return errStore
					}
					return nil
				}
			})
			if _, _, err := a.Trigger(t.Context(), "orders", "request"); !errors.Is(err, errStore) {
				t.Errorf("err = %v, want the store's", err)
			}
			store.set(func(m *memory) { m.veto = nil })
			running := func() (n int) {
				runs, err := b.List(t.Context(), "", History)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range runs {
					if r.Status == Running {
						n++
					}
				}
				return n
			}
			if n := running(); n != 0 {
				t.Errorf("%s: %d runs are listed as running after half a start", prefix, n)
			}
			if _, started, err := b.Trigger(t.Context(), "orders", "request"); err != nil || !started {
				t.Errorf("another instance cannot start at once: %v, %v", started, err)
			}
			pass(time.Second)
			if n := running(); n != 0 {
				t.Errorf("%s: %d runs are listed as running, and all have ended", prefix, n)
			}
		})
	}
}

// TestKilledInTheMiddleOfAStart: whichever write was the last to arrive, the run has an end in the end, and the latest run
// is one that there is.
func TestKilledInTheMiddleOfAStart(t *testing.T) {
	for _, prefix := range []string{prefixRuns, prefixMark} {
		bubble(t, func(t *testing.T) {
			store := newMemory()
			a := startInstance(t, store, "a", takes(time.Minute), Pipeline{Name: "orders"})
			first, _, err := a.Trigger(t.Context(), "orders", "request")
			if err != nil {
				t.Fatal(err)
			}
			pass(2 * time.Minute)
			store.set(func(m *memory) {
				m.wrote = func(key string, _ []byte) {
					if strings.HasPrefix(key, prefix) {
						a.link.dead = true // its lock is held by the write
					}
				}
			})
			if _, _, err := a.Trigger(t.Context(), "orders", "request"); prefix == prefixMark && err == nil {
				t.Error("a start without its run on record")
			}
			store.set(func(m *memory) { m.wrote = nil })
			b := startInstance(t, store, "b", nil, Pipeline{Name: "orders"})
			pass(5 * time.Minute)
			runs, err := b.List(t.Context(), "orders", 10)
			if err != nil || len(runs) == 0 {
				t.Fatal(err)
			}
			for _, r := range runs {
				if r.Status == Running {
					t.Errorf("last write %s: %s is running for ever", prefix, r.ID)
				}
			}
			st, err := b.State(t.Context(), "orders")
			if err != nil || st.State != "idle" || st.LastRun == nil || st.LastRun.ID != runs[0].ID {
				t.Errorf("last write %s: state %+v, %v; the first run was %s", prefix, st, err, first.ID)
			}
		})
	}
}

func TestHistoryIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		s := begin(t, Config{Runner: newRunner(t, nil), Store: store, Pipelines: []Pipeline{{Name: "orders", Every: time.Minute}, {Name: "users"}}})
		first, _, err := s.Trigger(t.Context(), "users", "request")
		if err != nil {
			t.Fatal(err)
		}
		pass(500 * time.Minute)
		entries, err := store.List(t.Context(), prefixRuns+"orders/")
		if err != nil || len(entries) < History || len(entries) > History+16 {
			t.Errorf("%d runs kept, %v, want about %d", len(entries), err, History)
		}
		runs, err := s.List(t.Context(), "orders", 1000)
		if err != nil || !slices.IsSortedFunc(runs, func(a, b Run) int { return b.Started.Compare(a.Started) }) {
			t.Errorf("%d runs, %v, want the newest first", len(runs), err)
		}
		if len(runs) > History {
			t.Errorf("%d runs listed, want at most %d", len(runs), History)
		}
		if few, err := s.List(t.Context(), "", 3); err != nil || len(few) != 3 || few[0].ID != runs[0].ID {
			t.Errorf("newest 3 of all = %+v, %v", few, err)
		}
		if _, err := s.Get(t.Context(), first.ID); err != nil {
			t.Errorf("another pipeline's run was pruned: %v", err)
		}
	})
}

// history puts runs on record that started a minute apart, the first of them at that time.
func history(t *testing.T, store *memory, first time.Time, n int) {
	t.Helper()
	for i := range n {
		at := utc(first.Add(time.Duration(i) * time.Minute))
		if err := (records{store}).putRun(t.Context(), Run{ID: newID(at), Pipeline: "orders", Status: Succeeded, Started: at, Ended: &at}); err != nil {
			t.Fatal(err)
		}
	}
}

// A full history of a time when the clock was ahead makes room for the runs of now, and does not stand before them.
func TestHistoryOfAClockSetBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		store, r := newMemory(), newRunner(t, func(context.Context, Info) (Outcome, error) { return Outcome{}, errors.New("502") })
		history(t, store, start.AddDate(1, 0, 0), History)
		s := begin(t, Config{Runner: r, Store: store, Pipelines: []Pipeline{{Name: "orders", Every: time.Hour}}})
		pass(48*time.Hour + time.Minute)
		runs, err := s.List(t.Context(), "orders", History)
		if err != nil || len(runs) != History || r.count() != 49 {
			t.Fatalf("%d runs listed, %v, %d ran", len(runs), err, r.count())
		}
		for i, run := range runs {
			if want := start.Add(time.Duration(48-i) * time.Hour); i < 49 && !run.Started.Equal(want) {
				t.Fatalf("run %d started at %s, want %s", i, run.Started, want)
			}
		}
		if oldest := runs[History-1].Started; oldest.Before(start.AddDate(1, 0, 0).Add(49 * time.Minute)) {
			t.Errorf("%s is kept, want the oldest of those that are ahead gone first", oldest)
		}
		st, err := s.State(t.Context(), "orders")
		if err != nil || st.LastRun == nil || st.LastRun.ID != runs[0].ID || st.LastRun.Status != Failed {
			t.Errorf("state = %+v, %v, want the failed run of now", st, err)
		}
		if few, err := s.List(t.Context(), "", 1); err != nil || len(few) != 1 || few[0].ID != runs[0].ID {
			t.Errorf("newest of all = %+v, %v", few, err)
		}
	})
}

// A machine that knows the time only a while after its start takes its history for one of the future, and then its first
// run for the oldest.
func TestHistoryOfAClockSetForward(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		history(t, store, time.Now().Add(time.Hour), History)
		s := begin(t, Config{Runner: newRunner(t, takes(5*time.Hour)), Store: store, Pipelines: []Pipeline{{Name: "orders"}}})
		run, _, err := s.Trigger(t.Context(), "orders", "request")
		if err != nil {
			t.Fatal(err)
		}
		pass(6 * time.Hour) // nothing of the history is ahead any more
		if _, err := s.Get(t.Context(), run.ID); err != nil {
			t.Errorf("the run that has just ended: %v", err)
		}
		if st, err := s.State(t.Context(), "orders"); err != nil || st.LastRun == nil || st.LastRun.ID != run.ID {
			t.Errorf("state = %+v, %v", st, err)
		}
		if entries, err := store.List(t.Context(), prefixRuns); err != nil || len(entries) != History {
			t.Errorf("%d runs kept, %v, want %d", len(entries), err, History)
		}
	})
}

// What lies in the store is read by later versions: a change of this file is a change of format.
func TestStoredForm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newMemory()
		s := begin(t, Config{
			Store: store, Pipelines: []Pipeline{{Name: "orders", Every: time.Hour}}, Instance: "local",
			Runner: newRunner(t, func(_ context.Context, info Info) (Outcome, error) {
				time.Sleep(90 * time.Second)
				info.Progress(Progress{TotalHint: 1200})
				return Outcome{
					Status: RateLimited, Reason: "429 Too Many Requests", RetryAt: time.Now().Add(time.Minute),
					Counters: Counters{Pages: 2, Read: 20, Published: 10, Filtered: 5, Seen: 4, Dead: 1, RecordsOut: 12},
				}, errors.New("429")
			}),
		})
		pass(2 * time.Minute)
		if err := s.Pause(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		for _, key := range slices.Sorted(maps.Keys(store.entries)) {
			id := "ID"
			if st, err := s.State(t.Context(), "orders"); err == nil {
				id = st.LastRun.ID
			}
			fmt.Fprintln(&b, strings.ReplaceAll(key+" "+string(store.entries[key].Value), id[len(id)-5:], "XXXXX"))
		}
		const golden = "testdata/stored.golden"
		if *update {
			if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("stored form:\n%swant:\n%s", b.String(), want)
		}
	})
}
