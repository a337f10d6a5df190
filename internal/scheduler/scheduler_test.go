package scheduler

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func minutes(ds []time.Duration) (ms []float64) {
	for _, d := range ds {
		ms = append(ms, d.Minutes())
	}
	return ms
}

func wantTimes(t *testing.T, r *fakeRunner, start time.Time, want ...float64) {
	t.Helper()
	if got := minutes(r.times(start)); !slices.Equal(got, want) {
		t.Errorf("runs started at minutes %v, want %v", got, want)
	}
}

func TestEveryKeepsItsGrid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		r := newRunner(t, takes(90*time.Second))
		begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders", Every: 5 * time.Minute}}})
		pass(21 * time.Minute)
		wantTimes(t, r, start, 0, 5, 10, 15, 20)
	})
}

func TestCronRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now() // midnight
		r := newRunner(t, nil)
		begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders", Cron: "10,40 * * * *"}}})
		pass(75 * time.Minute)
		wantTimes(t, r, start, 10, 40, 70)
	})
}

func TestTicksDuringARunAreMergedIntoIt(t *testing.T) {
	for name, p := range map[string]Pipeline{"every": {Every: 5 * time.Minute}, "cron": {Cron: "*/5 * * * *"}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newMemory()
				p.Name = "orders"
				prime(t, store, mark{Tick: utc(time.Now().Add(-time.Minute))})
				r := newRunner(t, takes(12*time.Minute))
				start := time.Now().Add(-time.Minute).Add(5 * time.Minute) // where the first tick of every lies
				if p.Cron != "" {
					start = time.Now().Add(5 * time.Minute)
				}
				if p.Cron != "" {
					prime(t, store, mark{Tick: utc(time.Now())})
				}
				begin(t, Config{Runner: r, Store: store, Pipelines: []Pipeline{p}})
				pass(40 * time.Minute)
				wantTimes(t, r, start, 0, 15, 30)
			})
		})
	}
}

func prime(t *testing.T, store *memory, m mark) {
	t.Helper()
	_, rev, err := records{store}.mark(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (records{store}).putMark(t.Context(), "orders", m, rev); err != nil {
		t.Fatal(err)
	}
}

func TestGridSurvivesRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		store, r := newMemory(), newRunner(t, nil)
		for range 10 { // restarted every 50 minutes
			s, err := New(Config{Runner: r, Store: store, Instance: "local", Pipelines: []Pipeline{{Name: "orders", Every: 2 * time.Hour}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			pass(50 * time.Minute)
			stop(t, s)
		}
		wantTimes(t, r, start, 0, 120, 240, 360, 480)
	})
}

func TestMissedTicks(t *testing.T) {
	tests := []struct {
		name string
		p    Pipeline
		down time.Duration
		want []float64 // minutes after the start
	}{
		{"once, every", Pipeline{Every: time.Hour}, 3*time.Hour + 20*time.Minute, []float64{0, 40, 100}},
		{"skip, every", Pipeline{Every: time.Hour, Missed: MissedSkip}, 3*time.Hour + 20*time.Minute, []float64{40, 100}},
		{"none missed", Pipeline{Every: time.Hour}, 20 * time.Minute, []float64{40, 100}},
		{"once, cron", Pipeline{Cron: "0 * * * *"}, 3*time.Hour + 20*time.Minute, []float64{0, 40, 100}},
		{"skip, cron", Pipeline{Cron: "0 * * * *", Missed: MissedSkip}, 3*time.Hour + 20*time.Minute, []float64{40, 100}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store, r := newMemory(), newRunner(t, nil)
				prime(t, store, mark{Tick: utc(time.Now())})
				time.Sleep(tt.down)
				start := time.Now()
				tt.p.Name = "orders"
				begin(t, Config{Runner: r, Store: store, Pipelines: []Pipeline{tt.p}})
				pass(2 * time.Hour)
				wantTimes(t, r, start, tt.want...)
			})
		})
	}
}

func TestClockSetBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store, r := newMemory(), newRunner(t, nil)
		start := time.Now()
		prime(t, store, mark{Tick: utc(start.Add(8760*time.Hour + 10*time.Minute))}) // written when the clock was a year ahead
		begin(t, Config{Runner: r, Store: store, Pipelines: []Pipeline{{Name: "orders", Every: time.Hour}}})
		pass(2 * time.Hour)
		wantTimes(t, r, start, 10, 70)
	})
}

// What a rate-limited run put on record while the clock was ahead does not hold the schedule back until then.
func TestRetryAtOfAClockSetBack(t *testing.T) {
	const ahead = 8760 * time.Hour
	for name, tt := range map[string]struct {
		ahead   time.Duration // of the tick
		retryAt time.Duration
		cut     bool // the run was cut off as well, and settled
		open    bool // or nobody has settled it yet
		want    []float64
	}{
		"a year ahead":          {ahead: ahead, retryAt: ahead + time.Hour, want: []float64{10, 70}},
		"a year ahead, cut off": {ahead: ahead, retryAt: ahead + time.Hour, cut: true, want: []float64{10, 70}},
		"a year ahead, open":    {ahead: ahead, retryAt: ahead + time.Hour, open: true, want: []float64{0, 10, 70}},
		"within the tolerance":  {retryAt: maxHold + clockTolerance, want: []float64{24*60 + 5, 24*60 + 10}}, // may be a good clock's,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store, r := newMemory(), newRunner(t, nil)
				start := time.Now()
				retryAt := utc(start.Add(tt.retryAt))
				prime(t, store, mark{Tick: utc(start.Add(tt.ahead + 10*time.Minute)), Run: "gone", RetryAt: &retryAt, Cut: tt.cut, Open: tt.open})
				begin(t, Config{Runner: r, Store: store, Pipelines: []Pipeline{{Name: "orders", Every: time.Hour}}})
				pass(time.Duration(tt.want[len(tt.want)-1]+1) * time.Minute)
				wantTimes(t, r, start, tt.want...)
			})
		})
	}
}

// Through a moment of a clock that was ahead nothing is dealt with: no run gets past it, and each tick would be run again
// and again.
func TestResumedBeforeTheClockWasSetBack(t *testing.T) {
	for name, since := range map[string]func(*pipeline, *pause, time.Time){
		"resumed": func(_ *pipeline, w *pause, ahead time.Time) { w.Since = ahead },
		"started": func(p *pipeline, _ *pause, ahead time.Time) { p.since = ahead },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store, r := newMemory(), newRunner(t, takes(time.Second))
				start := time.Now()
				ahead := utc(start.AddDate(1, 0, 0))
				prime(t, store, mark{Tick: utc(start)})
				s, err := New(Config{Runner: r, Store: store, Instance: "one", Pipelines: []Pipeline{{Name: "orders", Every: time.Hour, Missed: MissedSkip}}})
				if err != nil {
					t.Fatal(err)
				}
				w := pause{}
				since(s.pipelines["orders"], &w, ahead)
				if _, err := s.records.put(t.Context(), prefixPause+"orders", w, 0); err != nil {
					t.Fatal(err)
				}
				s.wg.Go(func() { s.keep(t.Context(), s.pipelines["orders"]) }) // as Start does, which would look at the clock
				defer stop(t, s)
				pass(2*time.Hour + 10*time.Minute)
				wantTimes(t, r, start, 60, 120)
			})
		})
	}
}

func TestJitterDelaysButKeepsTheGrid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		r := newRunner(t, nil)
		begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders", Every: time.Hour, Jitter: 10 * time.Minute}}})
		pass(10*time.Hour + 21*time.Minute)
		times := r.times(start)
		if len(times) != 11 {
			t.Fatalf("%d runs, want 11: %v", len(times), times)
		}
		if times[0] >= 10*time.Minute {
			t.Errorf("the first run is %s late, want within 10m", times[0])
		}
		late := map[time.Duration]bool{}
		for i, d := range times[1:] { // the first one makes the grid
			l := d - times[0] - time.Duration(i+1)*time.Hour
			if l < 0 || l >= 10*time.Minute {
				t.Errorf("run %d is %s late, want within 10m", i+1, l)
			}
			late[l] = true
		}
		if len(late) < 5 {
			t.Errorf("jitters are not spread: %v", late)
		}
	})
}

func TestPause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		store, r := newMemory(), newRunner(t, nil)
		cfg := Config{Runner: r, Store: store, Instance: "local", Pipelines: []Pipeline{{Name: "orders", Every: time.Hour}}}
		first, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(30 * time.Minute)
		if err := first.Pause(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Hour)
		stop(t, first)
		second := begin(t, cfg) // the pause survives
		pass(2 * time.Hour)
		if st, err := second.State(t.Context(), "orders"); err != nil || st.State != "paused" || !st.NextRun.IsZero() {
			t.Errorf("state = %+v, %v, want paused without a next run", st, err)
		}
		wantTimes(t, r, start, 0)
		if err := second.Resume(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		pass(45 * time.Minute) // nothing is made up for; the next tick of the old grid
		wantTimes(t, r, start, 0, 300)

		if err := second.Pause(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		if _, started, err := second.Trigger(t.Context(), "orders", "request"); err != nil || !started {
			t.Errorf("a paused pipeline cannot be triggered: %v", err)
		}
		pass(0)
		wantTimes(t, r, start, 0, 300, 315)
	})
}

func TestPausedByConfigurationUntilResumed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		r := newRunner(t, nil)
		cfg := Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders", Every: time.Hour, Paused: true}}}
		s := begin(t, cfg)
		pass(90 * time.Minute)
		wantTimes(t, r, start)
		if err := s.Resume(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		stop(t, s)
		begin(t, cfg) // the word spoken outlives the process and outweighs the configuration
		pass(time.Hour)
		if got := r.count(); got != 2 {
			t.Errorf("%d runs after resuming, want 2", got)
		}
	})
}

func TestRateLimitedHoldsTheScheduleBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		var free atomic.Bool
		r := newRunner(t, func(context.Context, Info) (Outcome, error) {
			if !free.Load() {
				return Outcome{Status: RateLimited, Reason: "asked to wait", RetryAt: time.Now().Add(12 * time.Minute)}, errors.New("429")
			}
			return Outcome{}, nil
		})
		s := begin(t, Config{Runner: r, Store: newMemory(), Pipelines: []Pipeline{{Name: "orders", Every: 5 * time.Minute}}})
		pass(time.Minute)
		st, err := s.State(t.Context(), "orders")
		if err != nil || st.LastRun == nil || st.LastRun.Status != RateLimited || st.LastRun.Reason != "asked to wait" || st.LastRun.RetryAt == nil {
			t.Fatalf("state = %+v, %v", st, err)
		}
		if want := start.Add(12 * time.Minute); !st.NextRun.Equal(want) {
			t.Errorf("next run = %s, want %s", st.NextRun, want)
		}
		free.Store(true)
		pass(20 * time.Minute)
		wantTimes(t, r, start, 0, 12, 15, 20)
	})
}

// What an upstream asks for is obeyed for a day, over restarts; then it is asked, and may say it again.
func TestAbsurdRetryAfterHoldsTheScheduleBackForADay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		store := newMemory()
		r := newRunner(t, func(context.Context, Info) (Outcome, error) {
			return Outcome{Status: RateLimited, RetryAt: start.AddDate(10, 0, 0)}, errors.New("429")
		})
		for range 5 { // restarted every 10 hours
			s := begin(t, Config{Runner: r, Store: store, Instance: "local", Pipelines: []Pipeline{{Name: "orders", Every: time.Hour}}})
			pass(10 * time.Hour)
			st, err := s.State(t.Context(), "orders")
			if err != nil || st.LastRun.RetryAt == nil || !st.LastRun.RetryAt.Equal(start.AddDate(10, 0, 0)) {
				t.Errorf("state = %+v, %v, want the time that the upstream said", st, err)
			}
			stop(t, s)
		}
		wantTimes(t, r, start, 0, 24*60, 48*60)
	})
}

func TestNewRefuses(t *testing.T) {
	r, store := newRunner(t, nil), newMemory()
	tests := []struct {
		name string
		p    Pipeline
		want string
	}{
		{"both", Pipeline{Name: "a", Every: time.Hour, Cron: "@daily"}, "pipeline a: every and cron exclude each other; keep one"},
		{"jitter", Pipeline{Name: "a", Every: time.Hour, Jitter: time.Hour}, "pipeline a: jitter 1h0m0s must be less than every 1h0m0s"},
		{"missed", Pipeline{Name: "a", Missed: "twice"}, `pipeline a: missed: "twice" is not one of once, skip`},
		{"cron", Pipeline{Name: "a", Cron: "* *"}, `pipeline a: cron: "* *" has 2 fields`},
		{"every", Pipeline{Name: "a", Every: -1, Jitter: -2}, "pipeline a: every: -1ns is not a time span"},
		{"name", Pipeline{}, "pipeline : it has no name"},
		{"twice", Pipeline{Name: "b"}, "pipeline b: the name is given twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(Config{Runner: r, Store: store, Instance: "one", Pipelines: []Pipeline{{Name: "b"}, tt.p}})
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("err = %v, want %s", err, tt.want)
			}
		})
	}
	for name, cfg := range map[string]Config{"runner": {Store: store, Instance: "x"}, "store": {Runner: r, Instance: "x"}, "instance": {Runner: r, Store: store}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New without a %s", name)
		}
	}
}
