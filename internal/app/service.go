package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"ferry/internal/api"
	"ferry/internal/pipeline"
	"ferry/internal/scheduler"
)

var _ api.Service = (*App)(nil)

// counters are a pipeline's sums over this process's runs and requests.
type counters struct {
	mu  sync.Mutex
	sum pipeline.Counters
}

func (c *counters) add(d pipeline.Counters) {
	c.mu.Lock()
	c.sum = c.sum.Add(d)
	c.mu.Unlock()
}

func (c *counters) view() api.Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	return api.Counters(c.sum)
}

// hooks tells the metrics what a pipeline does.
func (a *App) hooks(p *pipe) pipeline.Hooks {
	return pipeline.Hooks{
		Counted: func(d pipeline.Counters) {
			p.totals.add(d)
			p.metrics.Count(d.Pages, d.Read, d.Published, d.Filtered, d.Seen, d.Dead, d.RecordsOut)
		},
		Committed: func(records, bytes int, took time.Duration) { p.metrics.Commit(records, bytes, took) },
		Waiting: func(reason string) {
			if reason != "" {
				a.log.Warn("queue does not take records; waiting", "pipeline", p.Name(), "reason", reason)
			} else {
				a.log.Info("queue takes records again", "pipeline", p.Name())
			}
		},
		Warned: func(warning string) { a.log.Warn(warning, "pipeline", p.Name()) },
		At:     checkpoint(),
	}
}

// runPipeline is one run, for the scheduler.
func (a *App) runPipeline(ctx context.Context, p *pipe, info scheduler.Info) (scheduler.Outcome, error) {
	ctx, end := a.tracing.Run(ctx, p.Name(), info.ID, info.Trigger)
	p.metrics.RunStarted()
	var committed int64 // records that the cursor has passed
	sum, err := p.Run(ctx, pipeline.Context{ID: info.ID, Traceparent: a.tracing.Traceparent(ctx)}, func(c pipeline.Counters, total int64) {
		p.metrics.Progress()
		if n := c.Published + c.Filtered + c.Dead; n > committed {
			committed = n
			p.metrics.CursorCurrent(time.Now())
		}
		info.Progress(scheduler.Progress{Counters: scheduler.Counters(c), TotalHint: total})
	})
	end(err)
	if err == nil && committed == 0 {
		p.metrics.CursorCurrent(info.Started) // what has come since then it may not have seen
	}
	out := conclude(err)
	out.Counters = scheduler.Counters(sum)
	return out, err
}

// recallCursors tells the metrics since when the cursors are current, from the runs of earlier processes: a pipeline that
// only fails from now on has to have an age too.
func (a *App) recallCursors(ctx context.Context) {
	for name, p := range a.pipes {
		runs, err := a.scheduler.List(ctx, name, scheduler.History)
		if err != nil {
			a.log.Warn("cannot read since when the cursor is current; its age shows after the next run", "pipeline", name, "error", err)
			continue
		}
		for _, r := range runs { // the newest first
			if at := currentAt(r); !at.IsZero() {
				p.metrics.CursorCurrent(at)
				break
			}
		}
	}
}

// currentAt is when a run that has ended last committed, or started without finding anything new, as far as its record
// tells; zero when it did neither.
func currentAt(r scheduler.Run) time.Time {
	switch {
	case r.Ended == nil:
	case r.Published+r.Filtered+r.Counters.Dead > 0:
		return r.LastProgress
	case r.Status == scheduler.Succeeded:
		return r.Started
	}
	return time.Time{}
}

// runChanged hears of every change of a run.
func (a *App) runChanged(r scheduler.Run) {
	view := runView(r)
	a.updates.send(api.Update{Type: "run", Run: &view})
	if r.Ended == nil {
		return
	}
	if p, ok := a.pipes[r.Pipeline]; ok {
		p.metrics.RunEnded(string(r.Status), r.Ended.Sub(r.Started))
	}
	level := a.log.Info
	switch {
	case a.opt.Command == "run":
		level = a.log.Debug // the command itself says how its run ended
	case r.Status != scheduler.Succeeded:
		level = a.log.Warn
	}
	level("run ended", "pipeline", r.Pipeline, "run", r.ID, "status", r.Status, "reason", r.Reason, "trigger", r.Trigger,
		"read", r.Read, "published", r.Published, "filtered", r.Filtered, "seen", r.Seen, "dead", r.Counters.Dead,
		"pages", r.Pages, "seconds", r.Ended.Sub(r.Started).Seconds())
}

func runView(r scheduler.Run) api.Run {
	end := time.Now()
	if r.Ended != nil {
		end = *r.Ended
	}
	return api.Run{
		ID: r.ID, Pipeline: r.Pipeline, Trigger: r.Trigger, Status: string(r.Status), Reason: r.Reason,
		Counters: api.Counters(r.Counters), Started: r.Started, Ended: r.Ended, LastProgress: r.LastProgress,
		Seconds: end.Sub(r.Started).Seconds(), RetryAt: r.RetryAt, TotalHint: r.TotalHint,
	}
}

// schedulerProblem says what an error of the scheduler means to a caller.
func schedulerProblem(err error) error {
	switch {
	case errors.Is(err, scheduler.ErrUnknownPipeline), errors.Is(err, scheduler.ErrUnknownRun):
		return &api.Error{Code: api.CodeNotFound, Detail: err.Error(), Err: err}
	case errors.Is(err, scheduler.ErrHeld):
		return &api.Error{Code: api.CodeConflict, Detail: err.Error(), RetryAfter: time.Second, Err: err}
	case errors.Is(err, scheduler.ErrStopping):
		return &api.Error{Code: api.CodeStopping, Detail: err.Error(), RetryAfter: time.Second, Err: err}
	}
	return problem(err)
}

// Pipelines lists all pipelines by name.
func (a *App) Pipelines(ctx context.Context) ([]api.Pipeline, error) {
	out := make([]api.Pipeline, 0, len(a.pipes))
	for _, name := range slices.Sorted(maps.Keys(a.pipes)) {
		p, err := a.Pipeline(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Pipeline describes one pipeline.
func (a *App) Pipeline(ctx context.Context, name string) (api.Pipeline, error) {
	p, err := a.pipeline(name)
	if err != nil {
		return api.Pipeline{}, err
	}
	st, err := a.scheduler.State(ctx, name)
	if err != nil {
		return api.Pipeline{}, schedulerProblem(err)
	}
	view := api.Pipeline{
		Name: name, Topic: p.Topic(), Push: a.cfg.Pipelines[name].Source.Push, State: st.State, Schedule: st.Schedule, Counters: p.totals.view(),
	}
	p.metrics.NextRun(st.NextRun)
	if !st.NextRun.IsZero() {
		view.NextRun = &st.NextRun
	}
	if st.LastRun != nil {
		last := runView(*st.LastRun)
		view.LastRun = &last
		view.Reason = last.Reason
		if view.State == "idle" && last.Status != "succeeded" && last.Status != "cancelled" && last.Ended != nil {
			view.State = "failing"
		}
	}
	return view, nil
}

// StartRun starts a run, or finds the one under way.
func (a *App) StartRun(ctx context.Context, name string) (api.Run, bool, error) {
	if _, err := a.reader(name); err != nil {
		return api.Run{}, false, err
	}
	trigger := "request"
	if a.opt.Command == "run" {
		trigger = "cli"
	}
	r, started, err := a.scheduler.Trigger(ctx, name, trigger)
	if err != nil {
		return api.Run{}, false, schedulerProblem(err)
	}
	return runView(r), started, nil
}

// Run gives a run as it stands.
func (a *App) Run(ctx context.Context, id string) (api.Run, error) {
	r, err := a.scheduler.Get(ctx, id)
	return runView(r), schedulerProblem(err)
}

// WaitRun waits for a run's end. When ctx ends first it gives the run as it then stands, and no error.
func (a *App) WaitRun(ctx context.Context, id string) (api.Run, error) {
	r, err := a.scheduler.Wait(ctx, id)
	if err != nil && ctx.Err() != nil {
		return a.Run(context.WithoutCancel(ctx), id)
	}
	return runView(r), schedulerProblem(err)
}

// CancelRun asks a run to stop at its next commit.
func (a *App) CancelRun(ctx context.Context, id string) (api.Run, error) {
	r, err := a.scheduler.Cancel(ctx, id)
	return runView(r), schedulerProblem(err)
}

// Runs lists runs, the newest first.
func (a *App) Runs(ctx context.Context, name string, limit int) ([]api.Run, error) {
	if name != "" {
		if _, err := a.pipeline(name); err != nil {
			return nil, err
		}
	}
	list, err := a.scheduler.List(ctx, name, limit)
	if err != nil {
		return nil, schedulerProblem(err)
	}
	out := make([]api.Run, len(list))
	for i := range list {
		out[i] = runView(list[i])
	}
	return out, nil
}

// Pause stops scheduled runs of a pipeline until Resume, also over restarts.
func (a *App) Pause(ctx context.Context, name string) (api.Pipeline, error) {
	return a.steer(ctx, name, a.scheduler.Pause)
}

// Resume lets scheduled runs happen again.
func (a *App) Resume(ctx context.Context, name string) (api.Pipeline, error) {
	return a.steer(ctx, name, a.scheduler.Resume)
}

func (a *App) steer(ctx context.Context, name string, f func(context.Context, string) error) (api.Pipeline, error) {
	if _, err := a.pipeline(name); err != nil {
		return api.Pipeline{}, err
	}
	if err := f(ctx, name); err != nil {
		return api.Pipeline{}, schedulerProblem(err)
	}
	view, err := a.Pipeline(ctx, name)
	if err == nil {
		a.updates.send(api.Update{Type: "pipeline", Pipeline: &view})
	}
	return view, err
}

// Subscribe gives live updates until ctx ends.
func (a *App) Subscribe(ctx context.Context) <-chan api.Update { return a.updates.subscribe(ctx) }

// Ready says whether requests can be served.
func (a *App) Ready(ctx context.Context) error {
	err := a.queue.Ping(ctx)
	a.metrics.QueueUp(err == nil)
	if err != nil {
		return &api.Error{Code: api.CodeQueue, Detail: fmt.Sprintf("the queue does not take records: %v", err), RetryAfter: 2 * time.Second, Err: err}
	}
	return nil
}

// requestID is the id that a request came with or was given, or a new one.
func (a *App) requestID(ctx context.Context) string {
	if id, _ := api.RequestInfo(ctx); id != "" {
		return id
	}
	return "req-" + strconv.FormatInt(time.Now().UnixMilli(), 36) + "-" + strconv.FormatUint(a.requests.Add(1), 36)
}
