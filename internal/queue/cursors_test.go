package queue_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/queue"
	"ferry/internal/queue/queuetest"
	"ferry/internal/record"
)

// store is a CursorStore in memory whose next Put can be made to fail before or after it writes.
type store struct {
	mu         sync.Mutex
	values     map[string][]byte
	revs       map[string]uint64
	failBefore error
	failAfter  error
}

func newStore() *store { return &store{values: map[string][]byte{}, revs: map[string]uint64{}} }

func (s *store) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key], s.revs[key], ctx.Err()
}

func (s *store) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(ctx.Err(), s.failBefore); err != nil {
		s.failBefore = nil
		return 0, err
	}
	if s.revs[key] != rev {
		return 0, queue.ErrConflict
	}
	s.values[key], s.revs[key] = bytes.Clone(value), rev+1
	err := s.failAfter
	s.failAfter = nil
	return rev + 1, err
}

// lower is a queue that holds no cursors.
type lower struct{ *queuetest.Memory }

func (l lower) Info() queue.Info {
	info := l.Memory.Info()
	info.Tier = queue.AtLeastOnce
	return info
}

// closing makes the writers of a closed queue say so, as brokers' own do: Commit asks the store first.
type closing struct {
	*store
	q *queuetest.Memory
}

func (c closing) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	if err := c.q.Ping(ctx); err != nil {
		return nil, 0, err
	}
	return c.store.Get(ctx, key)
}

func TestWithCursors(t *testing.T) {
	shared, cursors := &queuetest.Store{}, newStore()
	queuetest.Run(t, queuetest.Harness{
		Open: func(testing.TB) queue.Queue {
			m := queuetest.NewMemory(queuetest.MemoryOptions{Store: shared, Redelivery: 100 * time.Millisecond})
			return queue.WithCursors(lower{m}, closing{cursors, m})
		},
		Redelivery: 100 * time.Millisecond,
	})
}

func batchOf(n int) queue.Batch {
	var b queue.Batch
	for i := range n {
		b.Records = append(b.Records, record.Record{ID: string(rune('a' + i)), Data: []byte(`1`)})
	}
	b.Dead = b.Records[:1]
	return b
}

// TestCursorOutcomeUnknown: a repeated commit finds out what became of the first, and publishes nothing twice.
func TestCursorOutcomeUnknown(t *testing.T) {
	broken := errors.New("broken")
	for name, fail := range map[string]func(*store){
		"before it was written": func(s *store) { s.failBefore = broken },
		"after it was written":  func(s *store) { s.failAfter = broken },
	} {
		t.Run(name, func(t *testing.T) {
			m, s := queuetest.NewMemory(), newStore()
			q := queue.WithCursors(lower{m}, s)
			w, err := q.OpenWriter(t.Context(), "p", "t")
			if err != nil {
				t.Fatal(err)
			}
			fail(s)
			if err := w.Commit(t.Context(), batchOf(3), record.Cursor("a")); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context(), batchOf(3), record.Cursor("a")); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context(), batchOf(1), record.Cursor("b")); err != nil {
				t.Fatal(err)
			}
			for topic, want := range map[string]int{"t": 4, "t.dead": 2} {
				got, err := q.Browse(t.Context(), topic, 0, 100)
				if err != nil || len(got) != want {
					t.Fatalf("%s holds %d records (%v), want %d", topic, len(got), err, want)
				}
			}
			if c, err := q.Cursor(t.Context(), "p", "t"); err != nil || string(c) != "b" {
				t.Fatalf("cursor %q, %v", c, err)
			}
		})
	}
}

// TestCursorNeverPassesRecords upholds invariant 1: no records, no cursor.
func TestCursorNeverPassesRecords(t *testing.T) {
	broken := errors.New("broken")
	for _, topic := range []string{"t", "t.dead"} {
		fails := true
		m := queuetest.NewMemory(queuetest.MemoryOptions{Hooks: queuetest.Hooks{
			BeforePublish: func(_ context.Context, to string, _ []record.Record) error {
				if to == topic && fails {
					return broken
				}
				return nil
			},
		}})
		q := queue.WithCursors(lower{m}, newStore())
		w, err := q.OpenWriter(t.Context(), "p", "t")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context(), batchOf(2), record.Cursor("a")); !errors.Is(err, broken) {
			t.Fatal(err)
		}
		if c, _ := q.Cursor(t.Context(), "p", "t"); len(c) != 0 {
			t.Fatalf("%s could not be written, yet the cursor is %q", topic, c)
		}
		fails = false
		if err := w.Commit(t.Context(), batchOf(2), record.Cursor("a")); err != nil {
			t.Fatal(err)
		}
		if got, err := q.Browse(t.Context(), "t", 0, 100); err != nil || len(got) != 2 {
			t.Fatalf("%d records (%v), want 2: what was confirmed is not published again", len(got), err)
		}
	}
}

// partly confirms a few records of each publish until it is told not to.
type partly struct {
	*queuetest.Memory
	take   int // < 0: all
	window time.Duration
}

var errBroken = errors.New("broken")

func (p *partly) Info() queue.Info {
	info := p.Memory.Info()
	info.Tier, info.Window = queue.Deduplicated, p.window
	return info
}

func (p *partly) Publish(ctx context.Context, topic string, batch []record.Record) error {
	if p.take < 0 || p.take >= len(batch) {
		return p.Memory.Publish(ctx, topic, batch)
	}
	if err := p.Memory.Publish(ctx, topic, batch[:p.take]); err != nil {
		return err
	}
	return &queue.PartError{Done: p.take, Err: errBroken}
}

// TestCommitGoesOnBehindWhatIsDurable: what a publish confirmed before it broke is not published again.
func TestCommitGoesOnBehindWhatIsDurable(t *testing.T) {
	m := queuetest.NewMemory()
	p := &partly{Memory: m, take: 2}
	q := queue.WithCursors(p, newStore())
	w, err := q.OpenWriter(t.Context(), "p", "t")
	if err != nil {
		t.Fatal(err)
	}
	b := batchOf(5)
	for range 2 { // 2 of 5, then 2 of the other 3
		if err := w.Commit(t.Context(), b, record.Cursor("c")); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
	}
	p.take = -1
	if err := w.Commit(t.Context(), b, record.Cursor("c")); err != nil {
		t.Fatal(err)
	}
	got, err := m.Browse(t.Context(), "t", 0, 100)
	if err != nil || len(got) != 5 {
		t.Fatalf("%d records (%v), want 5", len(got), err)
	}
	for i := range got {
		if got[i].ID != b.Records[i].ID {
			t.Fatalf("record %d is %s, want %s", i, got[i].ID, b.Records[i].ID)
		}
	}
}

// picky never takes the records with these ids. The others of a batch it publishes all the same.
type picky struct {
	lower
	bad map[string]bool
}

var errBad = errors.New("bad")

func (p picky) refused(batch []record.Record) map[int]error {
	failed := make(map[int]error)
	for i := range batch {
		if p.bad[batch[i].ID] {
			failed[i] = errBad
		}
	}
	return failed
}

func (p picky) Publish(ctx context.Context, topic string, batch []record.Record) error {
	failed := p.refused(batch)
	if good := queue.Without(batch, failed); len(good) > 0 {
		if err := p.lower.Publish(ctx, topic, good); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

// foresighted is picky and can say so beforehand.
type foresighted struct{ picky }

func (p foresighted) Refused(_ context.Context, _ string, batch []record.Record) (map[int]error, error) {
	return p.refused(batch), nil
}

// TestRefusedRecords: what the broker never takes is taken out by the caller, and the others are written once, whether
// the broker says so beforehand or only in its answer.
func TestRefusedRecords(t *testing.T) {
	named := func(ids ...string) (all []record.Record) {
		for _, id := range ids {
			all = append(all, record.Record{ID: id, Data: []byte(`1`)})
		}
		return all
	}
	for _, ahead := range []bool{true, false} {
		m := queuetest.NewMemory()
		p := picky{lower{m}, map[string]bool{"b": true, "d": true, "y": true}}
		var publisher queue.Publisher = p
		if ahead {
			publisher = foresighted{p}
		}
		w, err := queue.WithCursors(publisher, newStore()).OpenWriter(t.Context(), "p", "t")
		if err != nil {
			t.Fatal(err)
		}
		commit := func(records, dead []record.Record, want ...int) {
			t.Helper()
			err := w.Commit(t.Context(), queue.Batch{Records: records, Dead: dead}, record.Cursor("c"))
			if len(want) == 0 && err == nil {
				return
			}
			var refused *queue.BatchError
			if !errors.As(err, &refused) || refused.Total != len(records)+len(dead) || !slices.Equal(slices.Sorted(maps.Keys(refused.Failed)), want) {
				t.Fatalf("ahead %v: error %v, want the records %v to be refused", ahead, err, want)
			}
		}
		all := named("a", "b", "c", "c", "d", "e")
		if ahead {
			commit(all, named("x", "y"), 1, 4, 7)
			for _, topic := range []string{"t", "t.dead"} {
				if st, err := m.Stats(t.Context(), topic); err == nil && st.Records > 0 {
					t.Fatalf("%s holds %d records of a commit that was refused", topic, st.Records)
				}
			}
		} else {
			commit(all, named("x", "y"), 1, 4)
			commit(named("a", "c", "c", "e"), named("x", "y", "b'", "d'"), 5)
		}
		commit(named("a", "c", "c", "e"), named("x", "y'", "b'", "d'"))
		if text := w.(queue.Warner).Warning(); text != "" {
			t.Errorf("ahead %v: warning %q", ahead, text)
		}
		for topic, want := range map[string]string{"t": "a c c e", "t.dead": "x y' b' d'"} {
			got, err := m.Browse(t.Context(), topic, 0, 100)
			var ids []string
			for i := range got {
				ids = append(ids, got[i].ID)
			}
			slices.Sort(ids)
			wanted := strings.Fields(want)
			slices.Sort(wanted)
			if err != nil || !slices.Equal(ids, wanted) {
				t.Errorf("ahead %v: %s holds %q (%v), want %q", ahead, topic, ids, err, want)
			}
		}
	}
}

// TestDuplicatesAreAnnounced: a repetition is reported when it comes later than half of the time for which the broker
// remembers ids, whether it is this writer's or follows a run that ended without a word.
func TestDuplicatesAreAnnounced(t *testing.T) {
	for _, tt := range []struct {
		name   string
		wait   time.Duration
		closed bool // the writer before closed with nothing under way
		retry  bool // the same writer tries again
		warned bool
	}{
		{name: "a crash, long ago", wait: 6 * time.Minute, warned: true},
		{name: "a crash just now", wait: 4 * time.Minute},
		{name: "a closed writer, long ago", wait: time.Hour, closed: true},
		{name: "a retry, much later", wait: 6 * time.Minute, retry: true, warned: true},
		{name: "a retry", wait: time.Minute, retry: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &partly{Memory: queuetest.NewMemory(), take: -1, window: 10 * time.Minute}
				q := queue.WithCursors(p, newStore())
				w, err := q.OpenWriter(t.Context(), "p", "t")
				if err != nil {
					t.Fatal(err)
				}
				if err := w.Commit(t.Context(), batchOf(3), record.Cursor("a")); err != nil {
					t.Fatal(err)
				}
				if tt.closed {
					if err := w.Close(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					p.take = 1
					if err := w.Commit(t.Context(), batchOf(4), record.Cursor("b")); !errors.Is(err, errBroken) {
						t.Fatal(err)
					}
				}
				time.Sleep(tt.wait)
				p.take = -1
				if !tt.retry {
					if w, err = q.OpenWriter(t.Context(), "p", "t"); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.Commit(t.Context(), batchOf(4), record.Cursor("b")); err != nil {
					t.Fatal(err)
				}
				warner := w.(queue.Warner)
				text := warner.Warning()
				if got := strings.HasPrefix(text, "duplicate possible: "); got != tt.warned {
					t.Errorf("warning %q, want one: %v", text, tt.warned)
				}
				if again := warner.Warning(); again != "" {
					t.Errorf("said twice: %q", again)
				}
				if err := w.Commit(t.Context(), batchOf(1), record.Cursor("c")); err != nil || warner.Warning() != "" {
					t.Errorf("the commit after it: %v, or a warning", err)
				}
			})
		})
	}
}

// TestClosedWriter: who has closed does not commit any more.
func TestClosedWriter(t *testing.T) {
	q := queue.WithCursors(lower{queuetest.NewMemory()}, newStore())
	w, err := q.OpenWriter(t.Context(), "p", "t")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), batchOf(1), record.Cursor("a")); !errors.Is(err, queue.ErrFenced) {
		t.Fatal(err)
	}
}
