package scheduler

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/state"
)

// memory is a Store that can be made to fail.
type memory struct {
	mu      sync.Mutex
	entries map[string]state.Entry
	rev     uint64
	fail    error                  // of every call
	veto    func(key string) error // of writes, when not nil
	lose    func(key string) bool  // writes that arrive although their answer does not
	wrote   func(key string, b []byte)
}

func newMemory() *memory { return &memory{entries: map[string]state.Entry{}} }

var errStore = errors.New("store is away")

func (m *memory) Get(_ context.Context, key string) (state.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return state.Entry{}, m.fail
	}
	e, ok := m.entries[key]
	if !ok {
		return e, state.ErrNotFound
	}
	return e, nil
}

func (m *memory) Put(_ context.Context, key string, value []byte, rev uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	if m.veto != nil {
		if err := m.veto(key); err != nil {
			return 0, err
		}
	}
	if rev != state.AnyRevision && m.entries[key].Revision != rev {
		return 0, state.ErrConflict
	}
	m.rev++
	m.entries[key] = state.Entry{Key: key, Value: slices.Clone(value), Revision: m.rev}
	if m.wrote != nil {
		m.wrote(key, value)
	}
	if m.lose != nil && m.lose(key) {
		return 0, errStore
	}
	return m.rev, nil
}

func (m *memory) Delete(_ context.Context, key string, rev uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if rev != state.AnyRevision && m.entries[key].Revision != rev {
		return state.ErrConflict
	}
	delete(m.entries, key)
	return nil
}

func (m *memory) List(_ context.Context, prefix string) (list []state.Entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	for k, e := range m.entries {
		if strings.HasPrefix(k, prefix) {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b state.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return list, nil
}

func (m *memory) set(change func(m *memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// dying is one instance's way to the store, which can be cut like by a kill: nothing of the instance arrives any more.
type dying struct {
	state.Store
	delay func(key string) // of writes, when not nil
	mu    sync.Mutex
	dead  bool
}

func (d *dying) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

func (d *dying) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if d.delay != nil {
		d.delay(key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return 0, errStore
	}
	return d.Store.Put(ctx, key, value, rev)
}

// fakeRunner keeps a ledger of runs and fails the test when two of one pipeline overlap.
type fakeRunner struct {
	t   *testing.T
	run func(ctx context.Context, info Info) (Outcome, error) // nil: takes no time and succeeds

	mu     sync.Mutex
	under  map[string]bool
	starts []Info
}

func newRunner(t *testing.T, run func(ctx context.Context, info Info) (Outcome, error)) *fakeRunner {
	return &fakeRunner{t: t, run: run, under: map[string]bool{}}
}

func (r *fakeRunner) Run(ctx context.Context, info Info) (Outcome, error) {
	r.mu.Lock()
	if r.under[info.Pipeline] {
		r.t.Errorf("two runs of %s at once", info.Pipeline)
	}
	r.under[info.Pipeline] = true
	r.starts = append(r.starts, info)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.under[info.Pipeline] = false
		r.mu.Unlock()
	}()
	if r.run == nil {
		return Outcome{}, nil
	}
	return r.run(ctx, info)
}

func (r *fakeRunner) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.starts)
}

// times are when runs started, counted from start.
func (r *fakeRunner) times(start time.Time) (ds []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range r.starts {
		ds = append(ds, i.Started.Sub(start))
	}
	return ds
}

// takes is a run of that length that ends early when told to.
func takes(d time.Duration) func(context.Context, Info) (Outcome, error) {
	return func(ctx context.Context, info Info) (Outcome, error) {
		select {
		case <-time.After(d):
			return Outcome{}, nil
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		}
	}
}

// bubble runs a test on virtual time, which begins at midnight UTC, 2000-01-01.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// begin starts a scheduler that stops with the test.
func begin(t *testing.T, cfg Config) *Scheduler {
	t.Helper()
	if cfg.Instance == "" {
		cfg.Instance = "one"
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Scheduler) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// pass lets virtual time go by and everything come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
