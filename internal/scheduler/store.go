package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ferry/internal/state"
)

// Keys in the store. Each pipeline has one of each kind but for runs, of which it has History.
const (
	prefixLease = "scheduler/lease/"
	prefixMark  = "scheduler/mark/"
	prefixPause = "scheduler/pause/"
	prefixRuns  = "scheduler/runs/" // + pipeline / run
	prefixStop  = "scheduler/stop/" // + run: somebody wants it cancelled
)

// History is how many runs of a pipeline are kept.
const History = 200

// mark is what a pipeline's schedule remembers over restarts and shares between instances. Only who holds the
// pipeline's lease writes it, by compare-and-set.
type mark struct {
	// Tick is the moment through which ticks are dealt with, and for an interval a tick of its grid.
	Tick time.Time `json:"tick"`
	// Run is the latest run, Open while nobody has put its end on record.
	Run  string `json:"run,omitempty"`
	Open bool   `json:"open,omitempty"`
	// RetryAt holds scheduled runs back until the upstream wants to be asked again, at most maxHold.
	RetryAt *time.Time `json:"retry_at,omitempty"`
	// Cut says that the latest run was cut off and is to be gone on with, at RetryAt if there is one.
	Cut bool `json:"cut,omitempty"`
}

// records reads and writes what the scheduler keeps in the store.
type records struct{ store state.Store }

// mark returns a pipeline's mark and its revision; a zero mark if there is none yet.
func (s records) mark(ctx context.Context, pipeline string) (m mark, rev uint64, err error) {
	rev, err = s.get(ctx, prefixMark+pipeline, &m)
	if errors.Is(err, state.ErrNotFound) {
		return mark{}, 0, nil
	}
	return m, rev, err
}

func (s records) putMark(ctx context.Context, pipeline string, m mark, rev uint64) (uint64, error) {
	return s.put(ctx, prefixMark+pipeline, m, rev)
}

// pause is somebody's word on a pipeline's schedule, over that of the configuration.
type pause struct {
	Paused bool      `json:"paused"`
	Since  time.Time `json:"since,omitzero"` // when it was paused or resumed
}

// pause returns whether a pipeline is paused; configured is what holds until somebody says otherwise.
func (s records) pause(ctx context.Context, pipeline string, configured bool) (pause, error) {
	p := pause{Paused: configured}
	if _, err := s.get(ctx, prefixPause+pipeline, &p); err != nil && !errors.Is(err, state.ErrNotFound) {
		return pause{}, err
	}
	return p, nil
}

// setPaused changes what pause returns. Saying again what holds changes nothing.
func (s records) setPaused(ctx context.Context, pipeline string, paused bool, now time.Time, configured bool) error {
	p, err := s.pause(ctx, pipeline, configured)
	if err != nil || p.Paused == paused {
		return err
	}
	_, err = s.put(ctx, prefixPause+pipeline, pause{paused, now}, state.AnyRevision)
	return err
}

func (s records) run(ctx context.Context, pipeline, id string) (r Run, err error) {
	_, err = s.get(ctx, runKey(pipeline, id), &r)
	return r, err
}

func (s records) putRun(ctx context.Context, r Run) error {
	_, err := s.put(ctx, runKey(r.Pipeline, r.ID), r, state.AnyRevision)
	return err
}

func runKey(pipeline, id string) string { return prefixRuns + pipeline + "/" + id }

// runs returns the newest limit runs of a pipeline, newest first; pipeline "" means all.
func (s records) runs(ctx context.Context, pipeline string, limit int, now time.Time) ([]Run, error) {
	prefix := prefixRuns
	if pipeline != "" {
		prefix += pipeline + "/"
	}
	entries, err := s.store.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	newestFirst(entries, now)
	runs := make([]Run, 0, min(limit, len(entries)))
	for _, e := range entries[:min(limit, len(entries))] {
		var r Run
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Key, err)
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// prune removes all but the newest History runs of a pipeline, and never the one that its mark names.
func (s records) prune(ctx context.Context, pipeline string, now time.Time) error {
	entries, err := s.store.List(ctx, prefixRuns+pipeline+"/")
	if err != nil {
		return fmt.Errorf("list runs: %w", err)
	}
	if len(entries) <= History {
		return nil
	}
	m, _, err := s.mark(ctx, pipeline)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e state.Entry) bool { return idOf(e.Key) == m.Run })
	newestFirst(entries, now)
	for _, e := range entries[History-1:] {
		if err := s.store.Delete(ctx, e.Key, state.AnyRevision); err != nil {
			return fmt.Errorf("delete %s: %w", e.Key, err)
		}
	}
	return nil
}

// newestFirst sorts runs by their start. Those that lie in the future were made by a clock that has been set back since,
// and are older than all that have started by the clock of now.
func newestFirst(entries []state.Entry, now time.Time) {
	limit := now.Add(clockTolerance).UTC().Format(idTime)
	slices.SortFunc(entries, func(a, b state.Entry) int {
		x, y := idOf(a.Key), idOf(b.Key)
		if ahead := x > limit; ahead != (y > limit) {
			if ahead {
				return 1
			}
			return -1
		}
		return strings.Compare(y, x)
	})
}

func (s records) askStop(ctx context.Context, id string) error {
	_, err := s.put(ctx, prefixStop+id, struct{}{}, state.AnyRevision)
	return err
}

func (s records) stopAsked(ctx context.Context, id string) bool {
	_, err := s.store.Get(ctx, prefixStop+id)
	return err == nil
}

func (s records) forgetStop(ctx context.Context, id string) error {
	if err := s.store.Delete(ctx, prefixStop+id, state.AnyRevision); err != nil && !errors.Is(err, state.ErrNotFound) {
		return fmt.Errorf("delete %s: %w", prefixStop+id, err)
	}
	return nil
}

func (s records) get(ctx context.Context, key string, v any) (uint64, error) {
	e, err := s.store.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	if err := json.Unmarshal(e.Value, v); err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return e.Revision, nil
}

func (s records) put(ctx context.Context, key string, v any, rev uint64) (uint64, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	rev, err = s.store.Put(ctx, key, b, rev)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	return rev, nil
}

func idOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }
