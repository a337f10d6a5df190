package queue_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
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
