// Package scheduler decides when a pipeline runs, and on which instance; never two runs of one at once.
//
// Each pipeline has a schedule (a fixed interval, or cron), a lease that lets one instance at a time run it, and a mark
// in the store that says through which tick it is done. All instances plan from the mark, so a tick is run by one of
// them, and a restart goes on where the last process stopped. What a run does is the Runner's affair; how long it may
// be silent, how long it may take and whether it must stop is decided here.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"ferry/internal/state"
)

var (
	// ErrUnknownPipeline: no pipeline of that name is configured.
	ErrUnknownPipeline = errors.New("no such pipeline")
	// ErrUnknownRun: no run of that id is on record; the last 200 of each pipeline are kept.
	ErrUnknownRun = errors.New("no such run")
)

// What to do about ticks missed while no instance was up, and about a run that was cut off by a crash or a stop.
const (
	MissedOnce = "once" // one run at the start makes up for all of them
	MissedSkip = "skip" // wait for the next tick
)

const (
	updateEvery  = 500 * time.Millisecond // how often OnUpdate hears of progress
	saveEvery    = 5 * time.Second        // how often progress goes to the store, for other instances to see
	storeTimeout = 10 * time.Second       // longest for the store's part in starting or ending a run
	rereadEvery  = time.Minute            // how stale a plan may get: another instance may have paused, a laptop slept
	// clockTolerance is how far instances' clocks may lie apart. A mark further in the future than that was made by a
	// clock that has been set back since.
	clockTolerance = 5 * time.Minute
)

// Pipeline is what the scheduler needs to know of one. With neither Every nor Cron it runs only when triggered.
type Pipeline struct {
	Name     string
	Every    time.Duration  // from start to start; see Every
	Cron     string         // see Cron
	Location *time.Location // of Cron; nil means UTC
	// Jitter delays each scheduled run by up to this much, the same for one tick on all instances.
	Jitter time.Duration
	// Missed is MissedOnce (also when empty) or MissedSkip.
	Missed string
	// Paused holds until someone resumes the pipeline, which the store remembers.
	Paused bool
	// Timeout ends a run with ErrTimeout, Stall one without progress with ErrStalled. Zero: never.
	Timeout, Stall time.Duration
}

// Config is what New needs. Pipelines, Runner, Store and Instance are required.
type Config struct {
	Pipelines []Pipeline
	Runner    Runner
	Store     state.Store
	// Instance names this process among those that share the store. Give a name that outlives the process only where
	// at most one process can have it; see NewStoreLeases.
	Instance string
	// Leases decides which instance runs a pipeline. Nil: leases in Store, with LeaseTTL.
	Leases Leases
	// Sole says that no other process can reach Store: a run does not end because it has not answered for a while.
	Sole bool
	// LeaseTTL is how long a dead instance's pipelines wait to be taken over. Zero: DefaultTTL.
	LeaseTTL time.Duration
	// Logger hears of what nobody else is told: failures of background work. Nil: silence.
	Logger *slog.Logger
	// OnUpdate hears of every start and end of a run, and of its progress at most twice a second, in order for each
	// run. It must not block.
	OnUpdate func(Run)
}

// Scheduler runs pipelines at their times. Its methods are safe for concurrent use.
type Scheduler struct {
	cfg       Config
	records   records
	leases    Leases
	pipelines map[string]*pipeline

	mu       sync.Mutex
	started  bool
	stopping bool
	active   map[string]*active // by pipeline
	wg       sync.WaitGroup     // keepers, starts and runs
	quit     chan struct{}      // closed by Stop
}

// pipeline is a configured pipeline with what this process knows about it.
type pipeline struct {
	Pipeline
	schedule Schedule // nil: only when triggered
	wake     chan struct{}
	starting sync.Mutex // one start at a time on this instance
	since    time.Time  // when this scheduler started
	ended    int        // runs ended here, to prune the history now and then; guarded by starting
	unsaved  *Run       // the last one that ended here, if its end could not be put on record; guarded by starting
}

// New checks the configuration and returns a scheduler at rest.
func New(cfg Config) (*Scheduler, error) {
	switch {
	case cfg.Runner == nil:
		return nil, errors.New("scheduler: no runner")
	case cfg.Store == nil:
		return nil, errors.New("scheduler: no store")
	case cfg.Instance == "":
		return nil, errors.New("scheduler: no instance name")
	}
	if cfg.LeaseTTL <= 0 {
		cfg.LeaseTTL = DefaultTTL
	}
	if cfg.Leases == nil {
		leases := NewStoreLeases
		if cfg.Sole {
			leases = NewSoleLeases
		}
		cfg.Leases = leases(cfg.Store, prefixLease, cfg.Instance, cfg.LeaseTTL)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnUpdate == nil {
		cfg.OnUpdate = func(Run) {}
	}
	s := &Scheduler{
		cfg: cfg, records: records{cfg.Store}, leases: cfg.Leases, pipelines: map[string]*pipeline{},
		active: map[string]*active{}, quit: make(chan struct{}),
	}
	var errs []error
	for _, p := range cfg.Pipelines {
		schedule, err := p.check()
		if err == nil && s.pipelines[p.Name] != nil {
			err = errors.New("the name is given twice")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("pipeline %s: %w", p.Name, err))
			continue
		}
		s.pipelines[p.Name] = &pipeline{Pipeline: p, schedule: schedule, wake: make(chan struct{}, 1), since: utc(time.Now())}
	}
	return s, errors.Join(errs...)
}

// check returns the pipeline's schedule, nil for none.
func (p Pipeline) check() (Schedule, error) {
	if p.Name == "" {
		return nil, errors.New("it has no name")
	}
	if p.Missed != "" && p.Missed != MissedOnce && p.Missed != MissedSkip {
		return nil, fmt.Errorf("missed: %q is not one of once, skip", p.Missed)
	}
	switch {
	case p.Every != 0 && p.Cron != "":
		return nil, errors.New("every and cron exclude each other; keep one")
	case p.Every != 0 && p.Jitter >= p.Every:
		return nil, fmt.Errorf("jitter %s must be less than every %s", p.Jitter, p.Every)
	case p.Every != 0:
		return Every(p.Every)
	case p.Cron != "":
		return Cron(p.Cron, p.Location)
	}
	return nil, nil
}

// Instance is this instance's name, as leases and runs carry it.
func (s *Scheduler) Instance() string { return s.cfg.Instance }

// Start begins to run pipelines at their times and returns at once. The scheduler then works until Stop; ctx hands its
// values, not its end, on to scheduled runs.
func (s *Scheduler) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.stopping {
		return errors.New("scheduler: started before")
	}
	s.started = true
	now := utc(time.Now())
	for _, name := range slices.Sorted(maps.Keys(s.pipelines)) {
		p := s.pipelines[name]
		p.since = now
		s.wg.Go(func() { s.keep(context.WithoutCancel(ctx), p) })
	}
	return nil
}

// Stop starts no more runs, ends those under way at their next commit (cause ErrStopping) and waits for them. A
// scheduled pipeline whose run was cut off by it goes on at the next Start, or on another instance right away. An error
// means that ctx ended first and names the pipelines still running.
func (s *Scheduler) Stop(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopping {
		s.stopping = true
		close(s.quit)
		for _, a := range s.active {
			a.cancel(ErrStopping)
		}
	}
	s.mu.Unlock()

	idle := make(chan struct{})
	go func() { s.wg.Wait(); close(idle) }()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		names := slices.Sorted(maps.Keys(s.active))
		s.mu.Unlock()
		return fmt.Errorf("stop scheduler: still running: %s: %w", strings.Join(names, ", "), context.Cause(ctx))
	}
}

// Trigger starts a run now, whatever the schedule and a pause say, and returns once it is on record as started. If one
// is under way, here or on another instance, it is returned and started is false. trigger says who asked: request,
// webhook, cli. The run outlives ctx, but has its values. It works without Start too.
func (s *Scheduler) Trigger(ctx context.Context, pipeline, trigger string) (run Run, started bool, err error) {
	p := s.pipelines[pipeline]
	if p == nil {
		return Run{}, false, fmt.Errorf("%w: %s", ErrUnknownPipeline, pipeline)
	}
	// Short runs come and go on other instances between two looks: the lease is held, and a moment later there is no run.
	for range 20 {
		run, err = s.begin(ctx, p, trigger, nil)
		if errors.Is(err, errUnderWay) {
			return run, false, nil
		}
		if !errors.Is(err, ErrHeld) {
			return run, err == nil, err
		}
		if run, err = s.elsewhere(ctx, p); err != nil || run.ID != "" {
			return run, false, err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return Run{}, false, err
		}
	}
	return Run{}, false, fmt.Errorf("pipeline %s: %w, and no run is under way; try again in %s", p.Name, ErrHeld, s.cfg.LeaseTTL)
}

// elsewhere finds the run that another instance has under way, or none.
func (s *Scheduler) elsewhere(ctx context.Context, p *pipeline) (Run, error) {
	m, _, err := s.records.mark(ctx, p.Name)
	if err != nil || !m.Open {
		return Run{}, err
	}
	run, err := s.records.run(ctx, p.Name, m.Run)
	if errors.Is(err, state.ErrNotFound) {
		return Run{}, nil
	}
	return run, err
}

// Get returns a run by its id, with live counters if it is under way here and counters a few seconds old if elsewhere.
func (s *Scheduler) Get(ctx context.Context, id string) (Run, error) {
	if a := s.activeByID(id); a != nil {
		return a.snapshot(), nil
	}
	if state.CheckKey(id) != nil {
		return Run{}, fmt.Errorf("%w: %q", ErrUnknownRun, id) // nor can there be one
	}
	for name := range s.pipelines {
		run, err := s.records.run(ctx, name, id)
		if err == nil || !errors.Is(err, state.ErrNotFound) {
			return run, err
		}
	}
	return Run{}, fmt.Errorf("%w: %s", ErrUnknownRun, id)
}

// Wait returns the run when it has ended, or as it stands when ctx ends.
func (s *Scheduler) Wait(ctx context.Context, id string) (Run, error) {
	if a := s.activeByID(id); a != nil {
		select {
		case <-a.done:
		case <-ctx.Done():
		}
		return a.snapshot(), nil
	}
	for {
		run, err := s.Get(context.WithoutCancel(ctx), id)
		if err != nil || run.Status != Running || sleep(ctx, time.Second) != nil {
			return run, err
		}
	}
}

// List returns the newest limit runs, newest first; pipeline "" means all. At most 200 of each are kept.
func (s *Scheduler) List(ctx context.Context, pipeline string, limit int) ([]Run, error) {
	if pipeline != "" && s.pipelines[pipeline] == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknownPipeline, pipeline)
	}
	limit = max(limit, 0)
	if pipeline != "" {
		limit = min(limit, History)
	}
	runs, err := s.records.runs(ctx, pipeline, limit, time.Now())
	for i := range runs {
		if a := s.activeByID(runs[i].ID); a != nil {
			runs[i] = a.snapshot()
		}
	}
	return runs, err
}

// Cancel asks a run to stop at its next commit, here or on another instance, and returns it as it stands. A run that
// has ended stays as it is.
func (s *Scheduler) Cancel(ctx context.Context, id string) (Run, error) {
	if a := s.activeByID(id); a != nil {
		a.cancel(ErrCancelled)
		return a.snapshot(), nil
	}
	run, err := s.Get(ctx, id)
	if err != nil || run.Status != Running {
		return run, err
	}
	if err := s.records.askStop(ctx, id); err != nil {
		return run, err
	}
	// It may have ended between the two, and then nobody else forgets the wish.
	if run, err = s.Get(ctx, id); err == nil && run.Status != Running {
		err = s.records.forgetStop(ctx, id)
	}
	return run, err
}

// Pause holds a pipeline's schedule until Resume, on all instances and over restarts. A run under way goes on, and
// Trigger still works.
func (s *Scheduler) Pause(ctx context.Context, pipeline string) error {
	return s.setPaused(ctx, pipeline, true)
}

// Resume lets the schedule go on with the first tick after now.
func (s *Scheduler) Resume(ctx context.Context, pipeline string) error {
	return s.setPaused(ctx, pipeline, false)
}

func (s *Scheduler) setPaused(ctx context.Context, pipeline string, paused bool) error {
	p := s.pipelines[pipeline]
	if p == nil {
		return fmt.Errorf("%w: %s", ErrUnknownPipeline, pipeline)
	}
	if err := s.records.setPaused(ctx, p.Name, paused, utc(time.Now()), p.Paused); err != nil {
		return err
	}
	p.nudge()
	return nil
}

// State is where a pipeline stands.
type State struct {
	Pipeline string
	State    string    // idle, running or paused; running before paused
	Paused   bool      // no scheduled runs, even if one is running
	Schedule string    // such as "every 5m0s"; empty: only when triggered
	NextRun  time.Time // when the next scheduled run starts; zero: none is planned
	LastRun  *Run      // the run under way or else the latest; nil: none yet
}

// State tells where a pipeline stands.
func (s *Scheduler) State(ctx context.Context, pipeline string) (State, error) {
	p := s.pipelines[pipeline]
	if p == nil {
		return State{}, fmt.Errorf("%w: %s", ErrUnknownPipeline, pipeline)
	}
	m, _, err := s.records.mark(ctx, p.Name)
	if err != nil {
		return State{}, err
	}
	pause, err := s.records.pause(ctx, p.Name, p.Paused)
	if err != nil {
		return State{}, err
	}
	st := State{Pipeline: p.Name, State: "idle", Paused: pause.Paused}
	if pause.Paused {
		st.State = "paused"
	}
	if p.schedule != nil {
		st.Schedule = p.schedule.String()
		now := utc(time.Now())
		if at := p.plan(m, pause, now); !at.IsZero() {
			st.NextRun = latest(at, now)
		}
	}
	if m.Run != "" {
		run, err := s.Get(ctx, m.Run)
		if err != nil && !errors.Is(err, ErrUnknownRun) {
			return State{}, err
		}
		if err == nil {
			st.LastRun = &run
			if run.Status == Running {
				st.State = "running"
			}
		}
	}
	return st, nil
}

func (s *Scheduler) activeOf(pipeline string) *active {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active[pipeline]
}

func (s *Scheduler) activeByID(id string) *active {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.active {
		if a.id == id {
			return a
		}
	}
	return nil
}
