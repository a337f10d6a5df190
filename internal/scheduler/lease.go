package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"ferry/internal/state"
)

// ErrHeld says that another instance holds the lease.
var ErrHeld = errors.New("another instance holds the lease")

// Leases gives out the right to run a pipeline, to one instance at a time. Safe for concurrent use.
type Leases interface {
	// Acquire takes the lease of that name, or returns ErrHeld at once. It does not wait for the holder; who wants
	// to take over from a holder that has gone away calls again, at least once in the lease's time to live.
	Acquire(ctx context.Context, name string) (Lease, error)
}

// Lease is held until it is released or lost, and renews itself until then.
type Lease interface {
	// Fence grows with every acquisition of the name, on whatever instance.
	Fence() uint64
	// Lost is closed when the lease can no longer be relied on. It is not closed by Release.
	Lost() <-chan struct{}
	// Release gives the lease back, so that the next one need not wait. It waits for a renewal under way, and
	// returns nil when the lease had been lost before.
	Release(ctx context.Context) error
}

// DefaultTTL is how long a lease outlives its holder.
const DefaultTTL = 15 * time.Second

// StoreLeases keeps leases in a Store, each as one key that its holder rewrites at a third of the time to live.
//
// No wall clock is compared between machines. An instance that wants a held lease watches the key's revision and takes
// over only once that has stood still for the time to live by its own monotonic clock. A holder counts from before its
// last successful write, and gives up a tenth early, so that it always gives up before anybody can take over, as
// long as clocks run at about the same speed. A process that is frozen and thawed sees its loss late: leases save work,
// the queue's own fencing (invariant 6) keeps the data right.
type StoreLeases struct {
	store  state.Store
	owner  string
	prefix string
	ttl    time.Duration
	sole   bool // see NewSoleLeases

	mu   sync.Mutex
	seen map[string]sighting
}

// A sighting is a revision of somebody else's lease and when this instance first saw it.
type sighting struct {
	revision uint64
	since    time.Time // carries the monotonic clock
}

// leaseValue is what lies in the store.
type leaseValue struct {
	Owner    string `json:"owner"`
	Fence    uint64 `json:"fence"`
	Beat     uint64 `json:"beat"` // grows with each renewal, so that no store can take one for a repetition
	Released bool   `json:"released,omitempty"`
}

// NewStoreLeases keeps leases under prefix in the store. owner names this instance. A lease that lies in the store
// under the same owner is taken over at once: give a name that outlives the process only where something else makes
// sure that the earlier process is gone, such as the lock on the data folder. ttl 0 means DefaultTTL.
func NewStoreLeases(store state.Store, prefix, owner string, ttl time.Duration) *StoreLeases {
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	return &StoreLeases{store: store, owner: owner, prefix: prefix, ttl: ttl, seen: map[string]sighting{}}
}

// NewSoleLeases is NewStoreLeases over a store that no other process can reach: while it does not answer nobody can take
// over, so a lease is lost only to somebody else's writing, not to time.
func NewSoleLeases(store state.Store, prefix, owner string, ttl time.Duration) *StoreLeases {
	l := NewStoreLeases(store, prefix, owner, ttl)
	l.sole = true
	return l
}

// Acquire implements Leases.
func (l *StoreLeases) Acquire(ctx context.Context, name string) (Lease, error) {
	key := l.prefix + name
	var old leaseValue
	entry, err := l.store.Get(ctx, key)
	switch {
	case errors.Is(err, state.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("read lease %s: %w", name, err)
	default:
		if err := json.Unmarshal(entry.Value, &old); err != nil {
			return nil, fmt.Errorf("read lease %s: %w", name, err)
		}
		if !old.Released && old.Owner != l.owner && !l.stoodStill(name, entry.Revision) {
			return nil, fmt.Errorf("%w (%s)", ErrHeld, old.Owner)
		}
	}

	mine := leaseValue{Owner: l.owner, Fence: old.Fence + 1, Beat: old.Beat + 1}
	start := time.Now()
	rev, err := l.store.Put(ctx, key, mine.encode(), entry.Revision)
	if errors.Is(err, state.ErrConflict) {
		l.forget(name)
		return nil, ErrHeld
	}
	if err != nil {
		return nil, fmt.Errorf("write lease %s: %w", name, err)
	}
	l.forget(name)

	h := &held{
		leases: l, key: key, fence: mine.Fence, value: mine, revision: rev, good: start.Add(l.patience()),
		lost: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go h.renew()
	return h, nil
}

// stoodStill tells whether the lease has kept its revision for the time to live, as seen from here.
func (l *StoreLeases) stoodStill(name string, revision uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.seen[name]
	if !ok || s.revision != revision {
		l.seen[name] = sighting{revision, time.Now()}
		return false
	}
	return time.Since(s.since) >= l.ttl
}

func (l *StoreLeases) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, name)
}

// patience is how long a holder relies on a write: a tenth less than others wait.
func (l *StoreLeases) patience() time.Duration { return l.ttl - l.ttl/10 }

// held is a lease in hand. Only its renew goroutine touches value, revision and good, until done is closed.
type held struct {
	leases   *StoreLeases
	key      string
	fence    uint64
	value    leaseValue
	revision uint64
	good     time.Time // relied on until here

	lost, stop, done chan struct{}
	stopOnce         sync.Once
}

func (h *held) Fence() uint64         { return h.fence }
func (h *held) Lost() <-chan struct{} { return h.lost }

// renew writes the lease at a third of its time to live, and more often when a write failed, until it is told to stop
// or cannot rely on it any more.
func (h *held) renew() {
	defer close(h.done)
	pause := h.leases.ttl / 3
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-timer.C:
		}
		next := pause
		switch err := h.write(); {
		case err == nil:
		case errors.Is(err, state.ErrConflict), !h.leases.sole && !time.Now().Before(h.good):
			close(h.lost)
			return
		case h.leases.sole:
			next = pause / 5
		default:
			// Not reached: try soon again. The reason shows when it lasts, as the run's end "fenced".
			next = min(pause/5, time.Until(h.good))
		}
		timer.Reset(next)
	}
}

// write renews once, within the time that the lease is still good.
func (h *held) write() error {
	start := time.Now()
	until := h.good
	if h.leases.sole {
		until = start.Add(h.leases.patience())
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	next := h.value
	next.Beat++
	rev, err := h.leases.store.Put(ctx, h.key, next.encode(), h.revision)
	if errors.Is(err, state.ErrConflict) {
		// An earlier write may have arrived although its answer did not: then the key still carries this fence.
		if next, rev, err = h.reread(ctx); err == nil {
			rev, err = h.leases.store.Put(ctx, h.key, next.encode(), rev)
		}
	}
	if err != nil {
		return err
	}
	h.value, h.revision, h.good = next, rev, start.Add(h.leases.patience())
	return nil
}

// reread returns the value to write next over what lies in the store, or ErrConflict if that is another's.
func (h *held) reread(ctx context.Context) (leaseValue, uint64, error) {
	entry, err := h.leases.store.Get(ctx, h.key)
	if errors.Is(err, state.ErrNotFound) {
		return h.value, 0, state.ErrConflict
	}
	if err != nil {
		return h.value, 0, err
	}
	var v leaseValue
	if json.Unmarshal(entry.Value, &v) != nil || v.Owner != h.value.Owner || v.Fence != h.value.Fence {
		return h.value, 0, state.ErrConflict
	}
	v.Beat++
	return v, entry.Revision, nil
}

// Release implements Lease.
func (h *held) Release(ctx context.Context) error {
	h.stopOnce.Do(func() { close(h.stop) })
	select {
	case <-h.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-h.lost:
		return nil
	default:
	}
	v := h.value
	v.Beat++
	v.Released = true
	if _, err := h.leases.store.Put(ctx, h.key, v.encode(), h.revision); err != nil && !errors.Is(err, state.ErrConflict) {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}

func (v leaseValue) encode() []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // two numbers, a text and a bool always marshal
	}
	return b
}
