package scheduler

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"time"

	"ferry/internal/retry"
	"ferry/internal/state"
)

// maxHold is how long the schedule is held back by what one run was told: some servers say absurd times, and nobody would
// notice for years. After it the next run asks, and is told again.
const maxHold = 24 * time.Hour

var (
	errUnderWay = errors.New("a run is under way")
	errNotDue   = errors.New("not due any more")
)

// keep is a pipeline's own goroutine: it starts runs when they are due, until the scheduler stops.
func (s *Scheduler) keep(ctx context.Context, p *pipeline) {
	patience := retry.Policy{Base: time.Second, Max: rereadEvery}
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-timer.C:
		case <-p.wake:
		}
		if a := s.activeOf(p.Name); a != nil {
			select {
			case <-a.done:
			case <-s.quit:
				return
			}
		}
		wait, err := s.turn(ctx, p)
		if err != nil {
			failures++
			wait = patience.Wait(failures)
			s.cfg.Logger.WarnContext(ctx, "cannot schedule; trying again", "pipeline", p.Name, "wait", wait, "error", err)
		} else {
			failures = 0
		}
		timer.Reset(wait)
	}
}

// turn does what is due and returns how long to wait before the next look.
func (s *Scheduler) turn(ctx context.Context, p *pipeline) (time.Duration, error) {
	read, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	m, _, err := s.records.mark(read, p.Name)
	if err != nil {
		return 0, err
	}
	pause, err := s.records.pause(read, p.Name, p.Paused)
	if err != nil {
		return 0, err
	}
	now := utc(time.Now())
	if at := p.plan(m, pause, now); !m.Open && (at.IsZero() || at.After(now)) {
		if at.IsZero() {
			return rereadEvery, nil
		}
		return min(at.Sub(now), rereadEvery), nil
	}
	_, err = s.begin(ctx, p, "schedule", &pause)
	switch {
	case err == nil, errors.Is(err, errUnderWay), errors.Is(err, errNotDue):
		return 0, nil
	case errors.Is(err, ErrHeld):
		// Another instance is at it. Look again often enough to see its lease stand still if it has died.
		return s.cfg.LeaseTTL / 3, nil
	case errors.Is(err, ErrStopping):
		return rereadEvery, nil
	}
	return 0, err
}

func (p *pipeline) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// plan says when the next scheduled run starts, given the mark. It may lie in the past: then it is due. The zero time
// means that none is planned.
func (p *pipeline) plan(m mark, pause pause, now time.Time) time.Time {
	if p.schedule == nil || pause.Paused {
		return time.Time{}
	}
	tick := p.nextTick(m.Tick, pause.Since, now)
	if tick.IsZero() {
		return time.Time{}
	}
	at := tick.Add(jitter(p.Name, tick, p.Jitter))
	hold := m.hold(now)
	if m.Cut && hold.After(pause.Since) { // nothing is made up for a pause
		return utc(hold)
	}
	return utc(latest(at, hold))
}

// nextTick is the first tick that is not dealt with.
func (p *pipeline) nextTick(done, resumed, now time.Time) time.Time {
	if done.IsZero() {
		if _, ok := p.schedule.(every); ok {
			return p.since // the first run of all makes the grid
		}
		done = p.since
	}
	through := func(t time.Time) {
		// No run puts these right if a clock that has been set back since is where they come from.
		if done.Before(t) && !t.After(now.Add(clockTolerance)) {
			done = p.schedule.Floor(done, t)
		}
	}
	through(resumed) // nothing is made up for a pause
	if p.Missed == MissedSkip {
		through(p.since)
	}
	if done.After(now.Add(clockTolerance)) {
		// The next run puts the mark right. Until then a tick must not slip by between two looks at it.
		done = p.schedule.Floor(done, now.Add(-clockTolerance))
	}
	return p.schedule.Next(done, done)
}

// begin starts a run, unless one is under way here (errUnderWay, with that run) or elsewhere (ErrHeld). With a pause
// given it is the schedule that asks, and the run must be due by the mark as it is once the lease is held (errNotDue).
func (s *Scheduler) begin(ctx context.Context, p *pipeline, trigger string, scheduled *pause) (Run, error) {
	p.starting.Lock()
	defer p.starting.Unlock()

	s.mu.Lock()
	if a := s.active[p.Name]; a != nil {
		s.mu.Unlock()
		return a.snapshot(), errUnderWay
	}
	if s.stopping {
		s.mu.Unlock()
		return Run{}, ErrStopping
	}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()

	// What has been begun is brought to an end even if the caller leaves: half a start would block the pipeline.
	store, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	lease, err := s.leases.Acquire(store, p.Name)
	if err != nil {
		return Run{}, err
	}
	a, info, err := s.open(store, p, trigger, scheduled, lease)
	if err != nil {
		if rerr := lease.Release(store); rerr != nil {
			s.cfg.Logger.WarnContext(ctx, "cannot release lease; it will run out", "pipeline", p.Name, "error", rerr)
		}
		return Run{}, err
	}

	runCtx, cancelRun := context.WithCancelCause(context.WithoutCancel(ctx))
	a.cancel = cancelRun
	s.mu.Lock()
	s.active[p.Name] = a
	if s.stopping {
		a.cancel(ErrStopping)
	}
	s.wg.Add(1)
	s.mu.Unlock()
	run := a.snapshot()
	go func() {
		defer s.wg.Done()
		pprof.Do(runCtx, pprof.Labels("pipeline", p.Name), func(ctx context.Context) { s.execute(ctx, p, a, info) })
	}()
	p.nudge() // the keeper waits for this run's end and plans anew
	return run, nil
}

// open puts the new run on record, under the lease.
func (s *Scheduler) open(ctx context.Context, p *pipeline, trigger string, scheduled *pause, lease Lease) (*active, Info, error) {
	m, rev, err := s.records.mark(ctx, p.Name)
	if err != nil {
		return nil, Info{}, err
	}
	now := time.Now()
	cut := m.Open
	if cut {
		if err := s.settle(ctx, p, &m, &rev); err != nil {
			return nil, Info{}, err
		}
	}
	if scheduled != nil {
		at := p.plan(m, *scheduled, utc(now))
		due := !at.IsZero() && !at.After(now)
		resume := cut && !at.IsZero() && p.Missed != MissedSkip && !m.hold(now).After(now)
		if !due && !resume {
			return nil, Info{}, errNotDue
		}
	}

	run := Run{
		ID: newID(now), Pipeline: p.Name, Trigger: trigger, Status: Running,
		Started: utc(now), LastProgress: utc(now), Instance: s.cfg.Instance,
	}
	m.through(p.schedule, run.Started)
	m.Run, m.Open, m.Cut = run.ID, true, false
	// The mark first: of a start that ends between the two it says that there is something to settle. A run that no mark
	// names would be running in the history for ever.
	if rev, err = s.records.putMark(ctx, p.Name, m, rev); err != nil {
		return nil, Info{}, err
	}
	if err := s.records.putRun(ctx, run); err != nil {
		return nil, Info{}, err
	}
	a := &active{id: run.ID, lease: lease, mark: m, revision: rev, run: run, alive: now, done: make(chan struct{})}
	info := Info{ID: run.ID, Pipeline: p.Name, Trigger: trigger, Started: run.Started, Fence: lease.Fence(), Progress: a.progress}
	return a, info, nil
}

// settle puts an end on record for a run that its instance could not end itself. What it had committed stays, and the
// next run goes on from there. Of a run that never came on record the latest before it takes the place.
func (s *Scheduler) settle(ctx context.Context, p *pipeline, m *mark, rev *uint64) error {
	id := m.Run
	run, err := s.records.run(ctx, p.Name, id)
	switch {
	case errors.Is(err, state.ErrNotFound):
		runs, err := s.records.runs(ctx, p.Name, 1, time.Now())
		if err != nil {
			return err
		}
		m.Run = ""
		if len(runs) > 0 {
			m.Run = runs[0].ID
		}
	case err != nil:
		return err
	case run.Status == Running && p.unsaved != nil && p.unsaved.ID == id:
		if err := s.records.putRun(ctx, *p.unsaved); err != nil {
			return err
		}
		p.unsaved = nil
	case run.Status == Running:
		ended := run.LastProgress
		run.Status, run.Ended = Failed, &ended
		run.Reason = fmt.Sprintf("instance %s went away during the run; the next run goes on from the last commit", run.Instance)
		if err := s.records.putRun(ctx, run); err != nil {
			return err
		}
		s.cfg.OnUpdate(run)
	}
	if err := s.records.forgetStop(ctx, id); err != nil {
		return err
	}
	m.Open, m.Cut = false, p.Missed != MissedSkip
	*rev, err = s.records.putMark(ctx, p.Name, *m, *rev)
	return err
}

// execute runs the pipeline and sees it to its end.
func (s *Scheduler) execute(ctx context.Context, p *pipeline, a *active, info Info) {
	s.cfg.OnUpdate(a.snapshot())
	over := make(chan struct{})
	watched, reported := make(chan struct{}), make(chan struct{})
	go func() { defer close(watched); a.watch(over, p.Timeout, p.Stall) }()
	go func() { defer close(reported); s.report(ctx, a, over) }()

	out, stack, err := call(retry.Announce(ctx, a.waiting), s.cfg.Runner, info)
	cause := context.Cause(ctx)
	close(over)
	<-watched
	<-reported
	if stack != nil {
		s.cfg.Logger.ErrorContext(ctx, "panic in a run", "pipeline", p.Name, "run", info.ID, "error", err, "stack", string(stack))
	}
	run := a.end(cause, out, err)
	s.close(ctx, p, a, run, cause)
}

// close puts a run's end on record, gives the lease back and lets the next run start.
func (s *Scheduler) close(ctx context.Context, p *pipeline, a *active, run Run, cause error) {
	store, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	err := s.persist(store, func(ctx context.Context) error { return s.records.putRun(ctx, run) })
	unsaved := err != nil
	if err == nil && !errors.Is(cause, ErrFenced) { // else the mark is another instance's
		m := a.mark
		m.through(p.schedule, *run.Ended)
		m.RetryAt = run.RetryAt
		if limit := run.Ended.Add(maxHold); m.RetryAt != nil && m.RetryAt.After(limit) {
			m.RetryAt = &limit
		}
		// A run cut off by a stop stays open, so that whoever starts next goes on with it.
		m.Open = run.Status == Cancelled && errors.Is(cause, ErrStopping) && p.schedule != nil
		err = s.persist(store, func(ctx context.Context) error {
			_, err := s.records.putMark(ctx, p.Name, m, a.revision)
			return err
		})
	}
	if err == nil {
		err = s.records.forgetStop(store, run.ID) // it may have been too late for this end
	}
	p.starting.Lock()
	if p.ended%16 == 0 && err == nil {
		err = s.records.prune(store, p.Name, time.Now())
	}
	p.ended++
	p.unsaved = nil
	if unsaved {
		p.unsaved = &run
	}
	p.starting.Unlock()
	if rerr := a.lease.Release(store); err == nil {
		err = rerr
	}
	if err != nil {
		s.cfg.Logger.ErrorContext(ctx, "cannot put the end of a run on record", "pipeline", p.Name, "run", run.ID, "status", run.Status, "error", err)
	}
	a.cancel(nil)
	s.mu.Lock()
	delete(s.active, p.Name)
	s.mu.Unlock()
	close(a.done)
	s.cfg.OnUpdate(run)
}

// persist writes what has happened anyway, as often as it takes until ctx ends.
func (s *Scheduler) persist(ctx context.Context, write func(context.Context) error) error {
	return retry.Do(ctx, retry.Policy{Retries: -1, Max: time.Second}, func(ctx context.Context) error {
		err := write(ctx)
		if errors.Is(err, state.ErrConflict) {
			return retry.Permanent(err)
		}
		return err
	})
}

// watch ends the run when it has lost its lease, is silent for too long or takes too long.
func (a *active) watch(over <-chan struct{}, timeout, stall time.Duration) {
	alarm := func(d time.Duration) *time.Timer {
		t := time.NewTimer(d)
		if d <= 0 {
			t.Stop()
		}
		return t
	}
	late, silent := alarm(timeout), alarm(stall)
	defer late.Stop()
	defer silent.Stop()
	for {
		select {
		case <-over:
			return
		case <-a.lease.Lost():
			a.cancel(ErrFenced)
			return
		case <-late.C:
			a.cancel(fmt.Errorf("%w of %s; what it has committed stays, and the next run goes on from there", ErrTimeout, timeout))
		case <-silent.C:
			if left := stall - a.silence(); left > 0 {
				silent.Reset(left)
				continue
			}
			a.cancel(fmt.Errorf("%w for %s; what it has committed stays, and the next run goes on from there", ErrStalled, stall))
		}
	}
}

// report tells OnUpdate and the store where the run stands, and looks for somebody's wish to cancel it.
func (s *Scheduler) report(ctx context.Context, a *active, over <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() { // so that a slow store does not hold up the run's end
		select {
		case <-over:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(updateEvery)
	defer tick.Stop()
	var told, saved int
	for n := 1; ; n++ {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		var changed bool
		if told, changed = a.changedSince(told); changed {
			s.cfg.OnUpdate(a.snapshot())
		}
		if n%int(saveEvery/updateEvery) != 0 {
			continue
		}
		if s.records.stopAsked(ctx, a.id) {
			a.cancel(ErrCancelled)
		}
		if told != saved {
			// A failure shows at the run's end, if it lasts; the next look tries again.
			if s.records.putRun(ctx, a.snapshot()) == nil {
				saved = told
			}
		}
	}
}

// through notes that all ticks up to now are dealt with.
func (m *mark) through(schedule Schedule, now time.Time) {
	switch {
	case m.Tick.IsZero() || schedule == nil:
		m.Tick = now
	case m.Tick.Before(now) || m.Tick.After(now.Add(clockTolerance)):
		m.Tick = schedule.Floor(m.Tick, now)
	}
}

// hold is the RetryAt that holds, or the zero time: one further away than it can have been put was put there by a clock
// that has been set back since.
func (m mark) hold(now time.Time) time.Time {
	if m.RetryAt == nil || m.RetryAt.After(now.Add(maxHold+clockTolerance)) {
		return time.Time{}
	}
	return *m.RetryAt
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sleep(ctx context.Context, d time.Duration) error { return retry.Sleep(ctx, d) }
